"""The checkpoint that comes with the package: complete, small, trained, and the same settings everywhere."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

import videosys
from eval.training.recipes import RECIPES
from eval.training.score import score_videos
from eval.training.scored import scored
from videosys import NoCacheConfig, VideoSysEngine, load_config
from videosys.cache import BestConfig, MagCacheConfig, ScheduleConfig, TeaCacheConfig, read_calibration
from videosys.models import load_family_config as read
from videosys.tiny import bundled, config
from videosys.utils.checkpoint import resolve
from videosys.utils.weights_hash import weights_hash

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(videosys.__file__).parent / "tiny"
LARGEST = 8_000_000  # bytes of a checkpoint; the text encoder is counted with Open-Sora, where it lies
LARGEST_CALIBRATION = 200_000
CALIBRATED = sorted((ROOT / "examples").glob("*/*calibrated*.yaml"))
EXAMPLES = {
    "opensora": "opensora/tiny.yaml",
    "latte": "latte/tiny.yaml",
    "open_sora_plan_v110": "open_sora_plan/tiny_v110.yaml",
    "open_sora_plan_v120": "open_sora_plan/tiny.yaml",
}


@pytest.fixture(scope="module")
def engine():
    with VideoSysEngine(config("opensora"), quiet=True) as engine:
        yield engine


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_all_models_come_with_the_package():
    assert bundled() == list(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_is_small(name):
    settings = config(name)
    own = {settings.transformer, settings.vae}
    if name == "opensora":
        own |= {"bundled:opensora/text_encoder", "bundled:opensora/tokenizer"}
    assert sum(size(resolve(source)) for source in own) < LARGEST


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_uses_the_settings_of_the_package(name):
    example = load_config(type(config(name)), ROOT / "examples" / EXAMPLES[name], ["cache=none"])
    steps = (
        {} if example.num_inference_steps is None else {"num_inference_steps": example.num_inference_steps}
    )
    expected = dataclasses.replace(config(name), cache=NoCacheConfig(), **steps)
    assert example == expected
    assert example.steps == config(name).steps


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_parts_of_each_fit_and_make_a_clip(name):
    settings = config(name, num_inference_steps=4)
    with VideoSysEngine(settings, quiet=True) as engine:
        output = engine.generate("a large red circle stays still on a white background", seed=1)
    video = output.video[0]
    assert video.shape == (settings.output_frames, 64, 64, 3)
    assert video.float().std() > 4


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_calibration_is_of_the_weights_beside_it(name):
    folder = resolve(config(name).transformer)
    paths = list(folder.glob("calibration*.json"))
    assert paths
    for path in paths:
        scope = read_calibration(path).scope
        assert scope.weights_hash == weights_hash(folder)
        made = config(name)
        assert (scope.model, scope.scheduler) == (made.model_name, made.scheduler_name)
        assert scope.num_inference_steps == made.steps
        assert path.stat().st_size < LARGEST_CALIBRATION


def slow_if_long(path: Path):
    """Runs of 100 evaluations and more are slow."""
    marks = [pytest.mark.slow] * (path.parent.name == "open_sora_plan")
    return pytest.param(path, marks=marks, id=path.parent.name)


@pytest.mark.parametrize("path", [slow_if_long(path) for path in CALIBRATED])
def test_a_goal_is_reached_with_what_comes_with_the_checkpoint(path):
    prompt = "a small green ring grows on a grey background"
    with VideoSysEngine(read(str(path), None, []), quiet=True) as engine:
        steps = engine.generate(prompt, seed=1).steps
        assert 2 < sum(step.computed for step in steps) <= len(steps) / 2
        for cache in (TeaCacheConfig(speedup=1.1), ScheduleConfig(speedup=1.2), MagCacheConfig()):
            steps = engine.generate(prompt, seed=1, cache=cache).steps
            assert 2 < sum(step.computed for step in steps) < len(steps)
        for cache in (BestConfig(speedup=50.0), TeaCacheConfig(min_psnr=95.0)):
            with pytest.raises(ValueError, match=r"calibration\.json: no setting of .* has .*; available: "):
                engine.generate(prompt, seed=1, cache=cache)
        with pytest.raises(ValueError, match="was made with num_inference_steps"):
            engine.generate(prompt, seed=1, num_inference_steps=20)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="'hunyuan'"):
        config("hunyuan")


def test_videos_follow_their_prompts(engine):
    chosen = [pair for pair in scored() if not pair[1].is_held_out][:8]
    output = engine.generate([caption for caption, _ in chosen], seed=0)
    report = score_videos(output.video, [spec for _, spec in chosen])["seen"]
    assert report["background"] >= 0.85
    assert min(report["colour"], report["shape"], report["motion"]) >= 0.75


@pytest.mark.parametrize(
    ("name", "moving"),
    [
        ("latte", 4),
        pytest.param("open_sora_plan_v110", 4, marks=pytest.mark.slow),
        pytest.param("open_sora_plan_v120", 4, marks=pytest.mark.slow),
    ],
)
def test_noise_models_follow_their_prompts(name, moving):
    """Fewer steps than published, so that it takes seconds; blobs without motion had one of six right."""
    chosen = [pair for pair in scored() if not pair[1].is_held_out][:6]
    with VideoSysEngine(config(name, num_inference_steps=40), quiet=True) as engine:
        output = engine.generate([caption for caption, _ in chosen], seed=0)
    report = score_videos(output.video, [spec for _, spec in chosen], RECIPES[name].stride)["seen"]
    right = {attribute: round(6 * report[attribute]) for attribute in ("background", "colour", "motion")}
    assert right["background"] >= 5, right
    assert right["colour"] >= 5, right
    assert right["motion"] >= moving, right


def test_the_same_seed_gives_the_same_bytes(engine):
    request = {"seed": 11, "num_frames": 17, "num_inference_steps": 6, "cache": config().cache}
    first, second = (engine.generate("a small red circle spins", **request) for _ in range(2))
    assert first.video[0].equal(second.video[0])
    other = engine.generate("a small red circle spins", **{**request, "seed": 12})
    assert not first.video[0].equal(other.video[0])


def test_an_image_stays_the_first_frame(engine):
    image = str(ROOT / "examples/opensora/first_frame.png")
    prompt = "a large blue square moves rightward on a white background"
    output = engine.generate(prompt, seed=1, reference_paths=(image,), mask_strategy="0", align=None)
    given = videosys.read_video(image)[0][0].float()
    difference = (output.video[0][0].float() - given).abs().mean()
    assert difference < 8  # of 255: what the VAE loses
