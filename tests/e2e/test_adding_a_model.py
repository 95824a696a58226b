"""docs/adding-a-model.md, followed to the letter in a package of one's own: its blocks are what runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.reader import LIMIT, ROOT, commands, files, page, run, write_package

pytestmark = pytest.mark.timeout(2 * LIMIT)
PAGE = page("adding-a-model.md")
COMMANDS = commands(PAGE)
STEPS = list(range(12))
LEVELS = 2  # of 255, by which another way of computing the same may differ in a pixel

# Videos of one prompt and seed: each of several ways against the plain one, with the same computed steps.
COMPARED = """
import sys
from videosys import VideoSysEngine, load_family_config


def video(*overrides):
    config = load_family_config("my_model.yaml", "my_model", overrides)
    with VideoSysEngine(config, quiet=True) as engine:
        output = engine.generate("a small green ring grows on a grey background")
    return output.video[0].float(), [step.computed for step in output.steps]


first, *ways = [way.split() for way in sys.argv[1:]]
frames, steps = video(*first)
print(frames.std().item())
for way in ways:
    other, computed = video(*first, *way)
    assert computed == steps, (way, computed, steps)
    print((other - frames).abs().max().item())
"""

CALIBRATION = (
    *("-m", "videosys.calibration", "--config", "my_model.yaml", "--model", "my_model", "--quiet"),
    *("--prompts", "prompts.txt", "--out", "calibration.json", "--search", "1", "--budgets", "4,6"),
)

# Bytes that caches keep, without one, with residuals and with branches of blocks.
ESTIMATED = """
from videosys import load_family_config
from videosys.estimate import estimate

for cache in ("none", "teacache_fast", "pab"):
    config = load_family_config("my_model.yaml", "my_model", [f"cache={cache}"])
    print(estimate(config).stages[1].cache, end=" ")
"""

# A family of the same name, and one whose config says too little.
REFUSED = """
from dataclasses import dataclass, replace
import my_model
from videosys import FAMILIES, register_family
from videosys.generation.config import PipelineConfig

assert FAMILIES["my_model"] is my_model.FAMILY
register_family(my_model.FAMILY)
try:
    register_family(replace(my_model.FAMILY, tiny={}))
except ValueError as error:
    print(error)


@dataclass(frozen=True)
class Silent(PipelineConfig):
    model_name = "silent"


try:
    replace(my_model.FAMILY, name="silent", config=Silent, presets={})
except ValueError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    """The reader's repository, with the checkpoint that the page's first command makes."""
    folder = write_package(PAGE, tmp_path_factory.mktemp("repository"))
    run(folder, *COMMANDS[0].split()[1:])
    return folder


def test_the_page_is_one_page():
    assert len(PAGE.splitlines()) <= 150
    assert {"my_model/__init__.py", "my_model/transformer.py", "pyproject.toml"} <= set(files(PAGE))


def slow_if_compiled_twice(command: str):
    """Two ranks that compile take as long as ten other commands."""
    slow = {"compile=blocks", "num_gpus=2"} <= set(command.split())
    return pytest.param(command, marks=[pytest.mark.slow] * slow)


@pytest.mark.parametrize("command", [slow_if_compiled_twice(line) for line in COMMANDS if "generate" in line])
def test_the_commands_of_the_page(command, package):
    """Caches leave steps out, or only branches (PAB)."""
    steps = json.loads(run(package, *command.split()[1:])[-1])
    assert set(steps) < set(STEPS) if "teacache" in command else steps == STEPS
    assert (package / "outputs" / "ring.mp4").stat().st_size > 0


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["cache=none", "cache=teacache_fast", "cache=pab"])
def test_compiled_and_shared_it_makes_the_same_video(cache, package):
    ways = ("compile=blocks", "num_gpus=2 device=cpu", "num_gpus=2 device=cpu parallel.cfg=1 parallel.sp=2")
    spread, *differences = map(float, run(package, "-c", COMPARED, cache, *ways))
    assert spread > 10 * LEVELS  # it shows something
    assert max(differences) <= LEVELS


@pytest.mark.slow
def test_the_estimate_knows_its_parts(package):
    (command,) = [command for command in COMMANDS if "videosys.estimate" in command]
    lines = run(package, *command.split()[1:], "--json")
    stages = {stage["name"]: stage for stage in json.loads("".join(lines))["stages"]}
    weights = (package / "checkpoint" / "model.safetensors").stat().st_size
    assert stages["transformer"]["weights"] == pytest.approx(weights, rel=0.05)
    none, teacache, pab = map(int, run(package, "-c", ESTIMATED)[0].split())
    assert none == 0
    assert min(teacache, pab) > 0


@pytest.mark.slow
def test_it_is_calibrated_and_asked_for_by_speedup(package):
    prompts = [f"a {size} red circle on a white background" for size in ("small", "large", "round")]
    (package / "prompts.txt").write_text("\n".join(prompts))
    run(package, *CALIBRATION)
    content = json.loads((package / "calibration.json").read_text())
    assert (content["model"], content["scheduler"], content["evaluations"]) == ("my_model", "ddim", 12)
    computed = sorted({row["computed"] for row in content["settings"]})
    assert computed[0] <= 6
    most = max(row["speedup"] for row in content["settings"])  # at 1, the plan is the full run
    goal = f"cache={{name: best, speedup: {most}, calibration: calibration.json}}"
    steps = json.loads(run(package, "generate.py", goal)[-1])
    assert len(steps) < len(STEPS)


def test_the_evaluation_takes_it(package):
    (package / "prompts.txt").write_text("a small red circle on a white background")
    script = str(ROOT / "eval" / "teacache" / "experiments" / "family.py")
    options = ("--prompts", "prompts.txt", "--num-samples", "1", "--methods", "base,teacache_fast", "--quiet")
    run(package, script, "my_model", *options, "--output", "samples")
    assert len(list((package / "samples" / "my_model").glob("*/*.mp4"))) == 2


def test_what_a_family_must_not_be(package):
    taken, silent = run(package, "-c", REFUSED)
    assert taken.startswith("family 'my_model' already exists")
    assert silent.endswith("it must have the properties scheduler_name, steps, size, output_frames")
