"""The checkpoint that comes with the package: complete, small, trained, and the same settings everywhere."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

import videosys
from videosys import NoCacheConfig, OpenSoraConfig, VideoSysEngine, load_config
from videosys.tiny import config
from videosys.tiny.score import score_videos
from videosys.tiny.scored import scored

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(videosys.__file__).parent / "tiny" / "opensora"
LARGEST = 8_000_000  # bytes, all parts together


@pytest.fixture(scope="module")
def engine():
    with VideoSysEngine(config("opensora"), quiet=True) as engine:
        yield engine


def test_it_is_small():
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < LARGEST


def test_the_example_uses_the_settings_of_the_package():
    example = load_config(OpenSoraConfig, ROOT / "examples/opensora/tiny.yaml", ["cache=none"])
    assert example == dataclasses.replace(config("opensora"), cache=NoCacheConfig())


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="'hunyuan'"):
        config("hunyuan")


def test_videos_follow_their_prompts(engine):
    chosen = [pair for pair in scored() if not pair[1].is_held_out][:8]
    output = engine.generate([caption for caption, _ in chosen], seed=0)
    report = score_videos(output.video, [spec for _, spec in chosen])["seen"]
    assert report["background"] >= 0.85
    assert min(report["colour"], report["shape"], report["motion"]) >= 0.75


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
