"""docs/adding-a-cache.md, followed to the letter in a package of one's own: its blocks are what runs."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from tests.reader import LIMIT, commands, files, page, run, write_package

pytestmark = pytest.mark.timeout(2 * LIMIT)
PAGE = page("adding-a-cache.md")
COMMANDS = commands(PAGE)
(CALIBRATION,) = commands(PAGE, 1)
DENSE_STEPS = [0, 1, 2, 4, 8, 11]  # of dense.yaml
DRIFT_STEPS = [0, 1, 2, 3, 5, 8, 11]

# What tests/property/test_caches.py asks of the built-in policies, and equal decisions on two ranks.
PROMISES = """
import threading
import torch
from my_policies.dense import DenseConfig
from my_policies.drift import DriftConfig
from tests.property import test_caches as promises
from videosys import FORECASTS, start

for model in promises.MODELS:
    for config in (DenseConfig(first=99), DenseConfig(every=1), DriftConfig(threshold=0.0)):
        promises.check_always(model, config)
    linear = FORECASTS["linear"]()
    for config in (DenseConfig(2, 3), DenseConfig(2, 3, linear), DriftConfig(threshold=1e9)):
        promises.check_skipping(model, config)
        promises.check_interleaved(model, config)
for config in (DenseConfig(2, 3), DriftConfig(threshold=1e9)):
    promises.check_held(config)


def decisions(signals, gather_rows):
    cache = start(DriftConfig(threshold=0.3), range(len(signals)), gather_rows)
    for step, signal in enumerate(signals):
        cache.begin_step(step, 0.0)
        cache.should_compute(lambda kind: signal)
    return [(record.computed, record.distance) for record in cache.steps]


class Ranks:
    def __init__(self):
        self.rows, self.barrier = {}, threading.Barrier(2, timeout=30)

    def gather(self, rank, row):
        self.rows[rank] = row
        self.barrier.wait()
        rows = torch.stack([self.rows[0], self.rows[1]])
        self.barrier.wait()
        return rows


ranks, found = Ranks(), {}
whole = [torch.tensor([1.0, 2.0, 8.0]) * factor for factor in (1, 1.1, 1.25, 1.4, 1.5, 1.9, 2.0)]
whole = [signal + torch.tensor([0.0, step, 0.0]) for step, signal in enumerate(whole)]


def work(rank, part):
    signals = [signal[part] for signal in whole]
    found[rank] = decisions(signals, lambda row: ranks.gather(rank, row))


threads = [threading.Thread(target=work, args=pair) for pair in ((0, slice(0, 2)), (1, slice(2, 3)))]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert found[0] == found[1] == decisions(whole, lambda row: row[None])
assert {computed for computed, _ in found[0]} == {True, False}
print("kept")
"""

# Which settings reach a goal: 5 of 12 steps are twice as fast, 8 of 12 are the better picture.
GOALS = """
from my_policies.dense import DenseConfig
from videosys import BestConfig, OpenSoraConfig, VideoSysEngine, load_config

goals = [
    policy(speedup=speedup, calibration="calibration.json")
    for policy in (DenseConfig, BestConfig)
    for speedup in (1.5, 1.1)
]
section = "{name: dense, speedup: 1.5, calibration: calibration.json}"
config = load_config(OpenSoraConfig, "dense.yaml", [f"cache={section}"])
assert config.cache == goals[0]
with VideoSysEngine(config, quiet=True) as engine:
    outputs = [engine.generate("a small green ring", seed=1, cache=goal) for goal in goals]
print([sum(step.computed for step in output.steps) for output in outputs])
"""

# A module that is not installed and registers its policy; a name that is taken.
REGISTERED = """
import my_registered
from videosys import CACHES, OpenSoraConfig, config_to_dict, load_config, register_cache

config = load_config(OpenSoraConfig, "dense.yaml", ["cache={name: half, first: 2}"])
assert config.cache == my_registered.HalfConfig(2)
assert config_to_dict(config)["cache"]["name"] == "half"
assert "my_registered" in CACHES.modules
try:
    register_cache("teacache", my_registered.HalfConfig)
except ValueError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    """The reader's repository."""
    return write_package(PAGE, tmp_path_factory.mktemp("repository"))


def test_the_page_has_its_files_on_one_page():
    policies = {"my_policies/dense.py", "my_policies/drift.py"}
    assert set(files(PAGE)) == policies | {"pyproject.toml", "dense.yaml", "generate.py"}
    assert len(PAGE.splitlines()) <= 150


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(command, marks=[pytest.mark.slow] if "compile" in command else [])
        for command in (*COMMANDS, f"{COMMANDS[2]} compile=blocks")
    ],
)
def test_the_commands_of_the_page(command, package):
    program, *arguments = command.split()
    assert program == "python"
    lines = run(package, *arguments)
    if arguments[0] == "generate.py":
        assert json.loads(lines[0]) == DENSE_STEPS
        assert lines[1].startswith("computed 6 of 12 steps, cache ")
    else:
        assert lines[-1].startswith("peak with offload none")


SLOW_WAYS = [pytest.param(way, marks=pytest.mark.slow) for way in ("compile=blocks", "num_gpus=2 device=cpu")]


@pytest.mark.parametrize("more", ["", *SLOW_WAYS])
def test_a_measured_decision_makes_a_video(more, package):
    """The distances, and so the steps, are the same on any number of processes."""
    lines = run(package, "generate.py", "cache={name: drift, threshold: 0.3}", *more.split())
    assert json.loads(lines[0]) == DRIFT_STEPS
    assert "distances" in lines[1]


@pytest.mark.slow
def test_the_estimate_counts_what_a_policy_keeps(package):
    def cache_bytes(cache: str) -> float:
        arguments = ("--config", "dense.yaml", "--model=opensora", "--json", f"cache={cache}")
        lines = run(package, "-m", "videosys.estimate", *arguments)
        stages = {stage["name"]: stage for stage in json.loads("".join(lines))["stages"]}
        return stages["transformer"]["cache"]

    hold, linear, drift = map(cache_bytes, ("dense", "{name: dense, forecast: linear}", "drift"))
    assert hold > 0
    assert linear == drift == 2 * hold  # two residuals; a residual and a signal


@pytest.mark.slow
def test_it_is_calibrated_and_asked_for_by_speedup(package):
    prompts = [f"a {size} green ring grows on a grey background" for size in ("small", "large", "tiny")]
    (package / "prompts.txt").write_text("\n".join(prompts))
    run(package, *shlex.split(CALIBRATION)[1:], "--quiet")
    path = package / "calibration.json"
    content = json.loads(path.read_text())
    rows = [row for row in content["settings"] if row["policy"]["name"] == "dense"]
    assert [row["computed"] for row in rows] == [5, 8]
    for row, (row["speedup"], row["psnr"]) in zip(rows, ((2.0, 30.0), (1.2, 40.0))):  # times vary
        assert row["policy"]["first"] in (1, 2)
    path.write_text(json.dumps({**content, "settings": rows}))
    assert run(package, "-c", GOALS) == ["[5, 8, 5, 8]"]


def test_policies_of_the_page_keep_the_promises_of_built_in_ones(package):
    assert run(package, "-c", PROMISES) == ["kept"]


def test_a_module_that_is_not_installed_registers_its_policy(package):
    source = (package / "my_policies" / "dense.py").read_text().replace("DenseConfig", "HalfConfig")
    call = '\n\nfrom videosys import register_cache\n\nregister_cache("half", HalfConfig)\n'
    (package / "my_registered.py").write_text(source + call)
    assert "cache 'teacache' already exists" in run(package, "-c", REGISTERED)[0]
