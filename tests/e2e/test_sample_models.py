"""examples/latte and examples/open_sora_plan: every config makes a video, and says what it lacks."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import torch

from videosys import (
    LatteConfig,
    OpenSoraPlanConfig,
    TeaCacheConfig,
    load_config,
    read_video,
)
from videosys.models import FAMILIES, family_of
from videosys.models.latte import presets as latte
from videosys.models.open_sora_plan import presets as open_sora_plan

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SCRIPTS = {
    name: runpy.run_path(str(EXAMPLES / name / "sample.py"))["main"] for name in ("latte", "open_sora_plan")
}
CONFIGS = [  # of published checkpoints; the tiny ones are in test_bundled.py
    path
    for name in SCRIPTS
    for path in sorted((EXAMPLES / name).glob("*.yaml"))
    if not path.stem.startswith("tiny")
]
SMALL = [
    "num_frames=5",
    "height=16",
    "width=32",
    "num_inference_steps=4",
    "seed=5",
    "quiet=true",
    "device=cpu",
]
SLOW, FAST = TeaCacheConfig(0.1), TeaCacheConfig(0.2)
V110 = {"version": "v110", "transformer_type": "65x512x512"}
PUBLISHED = {
    "latte/base": LatteConfig(),
    "latte/teacache_slow": LatteConfig(cache=TeaCacheConfig(0.1, latte.COEFFICIENTS)),
    "latte/teacache_fast": LatteConfig(cache=TeaCacheConfig(0.2, latte.COEFFICIENTS)),
    "latte/pab_slow": LatteConfig(cache=latte.PRESETS["pab"]),
    "latte/pab_fast": LatteConfig(cache=latte.PRESETS["pab_fast"]),
    "open_sora_plan/base": OpenSoraPlanConfig(**V110),
    "open_sora_plan/teacache_slow": OpenSoraPlanConfig(**V110, cache=SLOW),
    "open_sora_plan/teacache_fast": OpenSoraPlanConfig(**V110, cache=FAST),
    "open_sora_plan/pab_slow": OpenSoraPlanConfig(**V110, cache=open_sora_plan.PRESETS["pab"]),
    "open_sora_plan/pab_fast": OpenSoraPlanConfig(**V110, cache=open_sora_plan.PRESETS["pab_fast"]),
    "open_sora_plan/v120_pab": OpenSoraPlanConfig(
        transformer_type="93x480p", cache=open_sora_plan.PRESETS["pab"]
    ),
    "open_sora_plan/v120_teacache": OpenSoraPlanConfig(
        transformer_type="93x480p", cache=open_sora_plan.PRESETS["teacache_naive"]
    ),
    "open_sora_plan/v110_221x512x512": OpenSoraPlanConfig(version="v110", transformer_type="221x512x512"),
    **{
        f"open_sora_plan/v120_{name}": OpenSoraPlanConfig(transformer_type=name)
        for name in ("29x480p", "93x480p", "29x720p", "93x720p")
    },
}


def name_of(path):
    return f"{path.parent.name}/{path.stem}"


def settled(config):
    """What a config means, whether a field says it or leaves it to the release."""
    return (
        config.output_frames,
        config.size,
        config.steps,
        config.fps,
        config.guidance_scale,
        config.negative_text,
        config.prompt_texts("a cat")[0],
        config.with_default_coefficients(),
    )


@pytest.mark.parametrize("path", CONFIGS, ids=name_of)
def test_the_configs_say_what_was_published(path):
    published = PUBLISHED[name_of(path)]
    config = load_config(type(published), path)
    assert settled(config) == settled(published)
    if isinstance(published, LatteConfig):
        assert config == published
        return
    release = published.release
    assert config.tiles() == published.tiles()
    assert (config.version, config.checkpoint) == (published.version, published.checkpoint)
    assert (config.transformer, config.vae) == (release.repository, release.repository)
    assert config.text_encoder == release.text_encoder


def test_every_published_config_has_a_file():
    assert {name_of(path) for path in CONFIGS} >= PUBLISHED.keys()


PARTS = {"latte": "transformer", "open_sora_plan_v110": "65x512x512", "open_sora_plan_v120": "29x480p"}


def tiny_name(config):
    return family_of(config).tiny_name(getattr(config, "version", ""))


def test_every_config_makes_a_video(random_model, tmp_path, capsys):
    name, folder = random_model
    places = [f"transformer={folder / PARTS[name]}", f"vae={folder}", f"text_encoder={folder}"]
    steps = 13 if name == "open_sora_plan_v110" else 4
    paths = [path for path in CONFIGS if tiny_name(PUBLISHED[name_of(path)]) == name]
    assert len(paths) >= 3
    for path in paths:
        arguments = ["--config", str(path), "prompt=a cat", *places, *SMALL, f"output={tmp_path}"]
        assert SCRIPTS[path.parent.name](arguments) == 0
        line = capsys.readouterr().out
        fps = f"{PUBLISHED[name_of(path)].fps:g}"
        assert re.search(rf"  32x16  5 frames at {fps} fps  .* computed \d+ of {steps} steps(, .*)?\n$", line)
        assert read_video(line.split("  ")[0])[0].shape == (5, 16, 32, 3)


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("latte", [], "tiny.yaml"),
        ("open_sora_plan", [], "tiny.yaml"),
        ("open_sora_plan", ["version=v110"], "tiny_v110.yaml"),
    ],
)
def test_without_a_device_the_tiny_checkpoint_is_used(name, given, expected, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    fast = ["num_inference_steps=4", f"output={tmp_path}"]
    assert SCRIPTS[name]([*given, *fast]) == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first == f"config: {expected}, the bundled tiny checkpoint, because no CUDA device is available"
    assert read_video(last.split("  ")[0])[0].shape[1:] == (64, 64, 3)


@pytest.mark.parametrize(
    ("given", "has_cuda", "expected"),
    [
        ([], True, "v120_29x480p.yaml"),
        (["version=v110"], True, "base.yaml"),
        (["version=v120"], True, "v120_29x480p.yaml"),
        (["version=v120"], False, "tiny.yaml"),
        (["version=v110"], False, "tiny_v110.yaml"),
    ],
)
def test_a_version_brings_its_own_config(given, has_cuda, expected, monkeypatch):
    sample = runpy.run_path(str(EXAMPLES / "open_sora_plan" / "sample.py"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    family = FAMILIES["open_sora_plan"]
    example = sample["common"].Example(family, EXAMPLES / "open_sora_plan", "")
    path = sample["common"].default_config(example, given, quiet=True)
    assert path.name == expected
    asked = given[0].removeprefix("version=") if given else OpenSoraPlanConfig().version
    assert load_config(OpenSoraPlanConfig, path).version == asked


@pytest.mark.parametrize("path", [path for path in CONFIGS if "open_sora_plan" in str(path)], ids=name_of)
def test_another_checkpoint_brings_its_own_size(path):
    types = load_config(OpenSoraPlanConfig, path).release.types
    for name, size in types.items():
        config = load_config(OpenSoraPlanConfig, path, [f"transformer_type={name}"])
        assert (config.output_frames, *config.size) == size


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("latte", ["heigth=64"], "heigth"),
        ("latte", ["height=63"], "63 x 512"),
        ("latte", ["cache=teacash"], "teacash"),
        ("latte", ["transformer=/no/such/folder"], "/no/such/folder"),
        ("open_sora_plan", ["version=v130"], "v130"),
        ("open_sora_plan", ["transformer_type=93x480p"], "93x480p"),
        ("open_sora_plan", ["tiling=v12"], "v12"),
        ("open_sora_plan", ["num_inference_steps=3"], "num_inference_steps is 3"),
    ],
)
def test_a_mistake_is_one_line(name, arguments, message, capsys, tmp_path):
    config = str(EXAMPLES / name / "base.yaml")
    assert SCRIPTS[name](["--config", config, "prompt=a", f"output={tmp_path}", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
