"""Every policy, written in YAML, makes a video with every model."""

from __future__ import annotations

import json

import pytest

from tests.tiny_checkpoint import SETTINGS, WRITERS, places, text_to_video_config
from videosys import (
    OpenSoraConfig,
    VideoSysEngine,
    cache_statistics,
    load_config,
)
from videosys.cache import CACHES

STEPS = 4
PNDM_EVALUATIONS = STEPS + 9
# Each with the steps that it computes, where they are known; FILE is a schedule, and COUNT the evaluations.
POLICIES = {
    "none": ("none", "all"),
    "teacache": ("{name: teacache, threshold: 0, coefficients: [1, 0]}", "all"),
    "teacache linear": ("{name: teacache, threshold: 1e9, coefficients: [1, 0], forecast: linear}", "ends"),
    "teacache bounded": ("{name: teacache, threshold: 1e9, max_consecutive_skips: 1}", None),
    "interval": ("{name: interval, every: 99}", "ends"),
    "schedule": ("{name: schedule, computed: [0]}", "ends"),
    "schedule of a file": ("{name: schedule, file: FILE}", "ends"),
    "magcache": ("{name: magcache, ratios: RATIOS, max_skips: 99, retention: 0}", "ends"),
    "easycache": ("{name: easycache, threshold: 1e9, warmup: 2}", None),
    "easycache of all": ("{name: easycache, threshold: 0}", "all"),
    "seacache": ("{name: seacache, threshold: 1e9, forecast: taylor}", "ends"),
    "seacache of outputs": ("{name: seacache, threshold: 1e9, place: output, forecast: hermite}", "ends"),
    "bwcache": ("{name: bwcache, threshold: 1e9, reuse: 1}", None),
    "bwcache of outputs": ("{name: bwcache, threshold: 0, place: output}", "all"),
    "sencache": (
        "{name: sencache, sensitivities: PAIRS, threshold: 1e9, early: 0, max_consecutive_skips: 99}",
        "ends",
    ),
    "sencache of all": (
        "{name: sencache, sensitivities: PAIRS, threshold: 0, early: 0, place: stack}",
        "all",
    ),
    "pab": ("pab", "all"),
    "pab_slow": ("pab_slow", "all"),
    "pab_fast": ("pab_fast", "all"),
    "pab of fractions": (
        "{name: pab, unit: fraction, spatial: {range: 9, window: [0, 1]}, joint: {range: 9, window: [0, 1]}, "
        "mlp_spatial: [[0.3, 1, [0]]]}",
        "all",
    ),
    "pab of a preset's ranges": ("{name: pab, unit: fraction}", "all"),
    "best": ("{name: best, speedup: 1.5, calibration: CALIBRATION}", "ends"),
}


def test_every_policy_is_here():
    assert {text.split("name: ")[-1].split(",")[0] for text, _ in POLICIES.values()} >= CACHES.keys()


@pytest.fixture(params=["opensora", "latte", "open_sora_plan_v110", "open_sora_plan_v120"], scope="module")
def engine(request, checkpoint, tmp_path_factory):
    name, count = request.param, PNDM_EVALUATIONS if request.param == "open_sora_plan_v110" else STEPS
    if name == "opensora":
        lines = {**places(checkpoint), **SETTINGS, "num_inference_steps": STEPS, "device": "cpu"}
        config = OpenSoraConfig(**{**lines, "num_frames": 17})
    else:
        folder = tmp_path_factory.mktemp(name)
        WRITERS[name](folder)
        config = text_to_video_config(name, folder)
    with VideoSysEngine(config, quiet=True) as video_engine:
        yield video_engine, count


def written(text, folder, engine, count):
    """The cache of a YAML file with this section."""
    scope = engine.pipeline.scope(engine.config)
    (folder / "schedule.json").write_text(json.dumps({"computed": [0], "evaluations": count}))
    setting = {
        "policy": {"name": "interval", "every": 99},
        "computed": 2,
        "speedup": 2,
        "psnr": 20,
        "ssim": 0.9,
    }
    content = {
        "model": scope.model,
        "scheduler": scope.scheduler,
        "num_inference_steps": STEPS,
        "evaluations": count,
        "settings": [setting],
    }
    (folder / "calibration.json").write_text(json.dumps(content))
    pairs, ratios = str([[1.0, 1.0]] * count), str([1.0] * count)
    text = text.replace("PAIRS", pairs).replace("RATIOS", ratios)
    text = text.replace("FILE", str(folder / "schedule.json"))
    text = text.replace("CALIBRATION", str(folder / "calibration.json"))
    (folder / "a.yaml").write_text(f"cache: {text}\n")
    return load_config(type(engine.config), folder / "a.yaml").cache


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_makes_a_video(name, engine, tmp_path):
    video_engine, count = engine
    text, computed = POLICIES[name]
    output = video_engine.generate("a small red circle", cache=written(text, tmp_path, video_engine, count))
    assert output.video[0].float().std() > 5
    computed_steps = [step.step for step in output.steps if step.computed]
    ends = [0, count - 1]
    assert computed_steps == {"all": list(range(count)), "ends": ends, None: computed_steps}[computed]
    assert computed_steps[0] == 0
    assert computed_steps[-1] == count - 1
    assert cache_statistics(output.steps).total == count
    if name in ("pab of fractions", "pab of a preset's ranges"):
        assert cache_statistics(output.steps).reused > 0
