"""VideoSysEngine: what is asked is checked first, and the same request gives the same bytes."""

from __future__ import annotations

import re

import pytest
import torch

from tests.tiny_checkpoint import SETTINGS, config_of
from videosys import (
    NoCacheConfig,
    OpenSoraConfig,
    Reference,
    TeaCacheConfig,
    VideoOutput,
    VideoSysEngine,
    read_video,
)
from videosys.generation.config import loading_fields
from videosys.generation.offload import Component

PROMPT = "a red circle moves rightward"
FRAMES, HEIGHT, WIDTH = SETTINGS["num_frames"], SETTINGS["height"], SETTINGS["width"]
SKIPPING = TeaCacheConfig(0.3, (1.0, 0.0))


@pytest.fixture(scope="module")
def engine(checkpoint):
    with VideoSysEngine(config_of(checkpoint), quiet=True) as engine:
        yield engine


@pytest.fixture
def nothing_loads(monkeypatch):
    """Any use of a weight is an error of its own."""

    def use(self):
        raise AssertionError("a weight was used")

    monkeypatch.setattr(Component, "use", use)


def parts(engine):
    return [engine.pipeline.text_encoder, engine.pipeline.transformer, engine.pipeline.vae]


def test_a_prompt_becomes_a_video(engine):
    output = engine.generate(PROMPT)
    assert isinstance(output, VideoOutput)
    (video,) = output.video
    assert video.dtype == torch.uint8
    assert video.shape == (FRAMES, HEIGHT, WIDTH, 3)
    assert video.float().std() > 20  # not grey, so that comparisons of videos mean something
    assert (output.prompts, output.seeds, output.fps) == ([PROMPT], [7], 12.0)
    assert [step.step for step in output.steps] == list(range(4))
    assert all(step.computed for step in output.steps)


def test_a_video_may_be_changed_by_its_owner(engine):
    (video,) = engine.generate(PROMPT, num_frames=1).video
    video[:, :4] = 0  # an inference tensor would refuse
    assert video[:, :4].sum() == 0


def test_the_same_seed_gives_the_same_bytes(engine, checkpoint):
    first = engine.generate(PROMPT).video[0]
    assert torch.equal(engine.generate(PROMPT).video[0], first)
    with VideoSysEngine(config_of(checkpoint), quiet=True) as other:
        assert torch.equal(other.generate(PROMPT).video[0], first)
    assert not torch.equal(engine.generate(PROMPT, seed=8).video[0], first)


def test_without_a_seed_one_is_drawn_and_told(engine):
    output = engine.generate(PROMPT, seed=None, num_frames=1)
    assert engine.generate(PROMPT, seed=None, num_frames=1).seeds != output.seeds
    again = engine.generate(PROMPT, seed=output.seeds[0], num_frames=1)
    assert torch.equal(again.video[0], output.video[0])


@pytest.mark.parametrize(
    ("request_", "shape", "steps"),
    [
        ({"num_inference_steps": 2}, (FRAMES, HEIGHT, WIDTH, 3), 2),
        ({"num_frames": 17}, (17, HEIGHT, WIDTH, 3), 4),
        ({"num_frames": 20}, (20, HEIGHT, WIDTH, 3), 4),
        ({"num_frames": 1}, (1, HEIGHT, WIDTH, 3), 4),
        ({"height": 40, "width": 24}, (FRAMES, 40, 24, 3), 4),
        ({"height": 47, "width": 31}, (FRAMES, 40, 24, 3), 4),  # the multiples of 8 below
        ({"guidance_scale": 1.0}, (FRAMES, HEIGHT, WIDTH, 3), 4),
    ],
)
def test_a_request_replaces_fields_for_one_call(engine, request_, shape, steps):
    plain = engine.generate(PROMPT).video[0]
    output = engine.generate(PROMPT, **request_)
    assert output.video[0].shape == shape
    assert len(output.steps) == steps
    assert not torch.equal(output.video[0], plain)
    assert torch.equal(engine.generate(PROMPT).video[0], plain)
    assert engine.config.num_inference_steps == SETTINGS["num_inference_steps"]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"num_frames": 5}, "num_frames is 5"),
        ({"num_inference_steps": 0}, "num_inference_steps is 0"),
        ({"num_inference_steps": "5"}, "num_inference_steps must be a whole number, got '5'"),
        ({"height": 7}, "7 x 48"),
        ({"resolution": "480p", "aspect_ratio": "1:1"}, "height and width cannot be combined"),
        ({"cache": 0.2}, "cache must be"),
        ({"seed": -3}, "seed is -3"),
        ({"loops": 2, "num_frames": 17}, "2 loops need more"),
        ({"num_frame": 3}, r"unknown request 'num_frame' \(did you mean 'num_frames'\?\); allowed: 'aes'"),
        ({"promt": "x"}, "unknown request 'promt'.*allowed: 'aes'"),
        *(({name: "x"}, f"unknown request '{name}'") for name in sorted(loading_fields(OpenSoraConfig))),
        ({"references": ["cat.png"]}, "each of references must be a videosys.Reference, not 'cat.png'"),
        ({"references": [Reference("no/such.png")]}, "reference 'no/such.png' is not a file"),
        ({"reference_paths": ("no/such.png",)}, "reference 'no/such.png' is not a file"),
        ({"references": [Reference(torch.zeros(1, 4, 4, 3))]}, "reference frames must be uint8"),
        (
            {"references": [Reference(torch.zeros(1, 4, 4, 3, dtype=torch.uint8), target=12)]},
            "target 12 and length 1 exceed the 10 latent frames",
        ),
        (
            {"references": [Reference(torch.zeros(1, 4, 4, 3, dtype=torch.uint8), length=2)]},
            "start 0 and length 2 exceed the 1 latent frames",
        ),
        (
            {"references": [Reference(torch.zeros(1, 4, 4, 3, dtype=torch.uint8), loop=1)]},
            "loop 1, but loops is 1",
        ),
    ],
)
def test_impossible_requests_are_refused_before_a_weight_is_used(engine, nothing_loads, request_, message):
    with pytest.raises(ValueError, match=message):
        engine.generate(PROMPT, **request_)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "prompt is ''"),
        ("  \n", "blank"),
        ([], "no prompt was given"),
        ([PROMPT, " "], "prompt is ' '"),
        ([PROMPT, None], "prompt is None"),
        (None, "prompt is None"),
        (5, "prompt is 5"),
        ("|0|a day|x|a night", "not of the form"),
        ("|0|a day|0|a night", "must increase"),
        ("|0||1|a night", "blank"),
    ],
)
def test_impossible_prompts_are_refused_before_a_weight_is_used(engine, nothing_loads, prompt, message):
    with pytest.raises(ValueError, match=message):
        engine.generate(prompt, references=[Reference(torch.zeros(1, 4, 4, 3, dtype=torch.uint8))])


def test_requests_are_checked_when_asked_and_not_when_read(engine):
    for prompt, request in (("", {}), (PROMPT, {"num_frames": 3}), (PROMPT, {"x": 1})):
        with pytest.raises(ValueError):
            engine.stream(prompt, **request)


def test_an_engine_needs_a_config_that_it_knows():
    for config in ({"seed": 1}, None, NoCacheConfig()):
        with pytest.raises(ValueError, match=f"config is a {type(config).__name__}; allowed: OpenSoraConfig"):
            VideoSysEngine(config)


@pytest.mark.parametrize("field", ["transformer", "vae", "text_encoder"])
def test_an_engine_says_which_checkpoint_is_missing(checkpoint, tmp_path, field):
    for source in (str(tmp_path / "absent"), ""):
        with pytest.raises(ValueError, match=re.escape(repr(source))):
            VideoSysEngine(config_of(checkpoint, **{field: source}))


@pytest.mark.parametrize("device", ["tpu9", "cuda:99", "", "mps:x", "meta"])
def test_an_engine_says_which_device_there_is_not(checkpoint, device):
    with pytest.raises(ValueError, match=f"device is '{device}'"):
        VideoSysEngine(config_of(checkpoint, device=device))


def test_weights_are_loaded_when_needed_and_freed_at_the_end(checkpoint):
    with VideoSysEngine(config_of(checkpoint), quiet=True) as engine:
        assert not any(part.is_loaded for part in parts(engine))
        engine.generate(PROMPT, num_frames=1)
        assert all(part.is_loaded for part in parts(engine))
    assert not any(part.is_loaded for part in parts(engine))
    assert engine.generate(PROMPT, num_frames=1).video  # and again when needed
    engine.close()


def test_weights_are_freed_after_an_error(checkpoint):
    engine = VideoSysEngine(config_of(checkpoint), quiet=True)

    def fail():
        with engine:
            engine.generate(PROMPT, num_frames=1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not any(part.is_loaded for part in parts(engine))


def test_a_stream_hands_out_each_video_when_it_is_done(engine):
    stream = engine.stream([PROMPT, "a cross spins"], num_videos_per_prompt=2, num_frames=1)
    seen = [(output.prompts, output.seeds, len(output.video)) for output in stream]
    assert seen == [([text], [seed], 1) for text in (PROMPT, "a cross spins") for seed in (7, 8)]


def test_videos_are_saved_at_the_rate_of_the_config(engine, tmp_path):
    (video,) = engine.generate(PROMPT).video
    frames, fps = read_video(engine.save_video(video, tmp_path / "a.mp4"))
    assert (frames.shape, fps) == (video.shape, 12.0)
    assert read_video(engine.save_video(video, tmp_path / "b.mp4", fps=24))[1] == 24.0
    frames, _ = read_video(engine.save_video(video, tmp_path / "c.mp4", lossless=True))
    assert torch.equal(frames, video)


def test_outputs_are_joined_in_order():
    def output(name):
        return VideoOutput([torch.tensor([len(name)])], [name], [len(name)], [[name]], 8.0)

    joined = output("a").joined(output("bb")).joined(output("ccc"))
    assert (joined.prompts, joined.seeds, joined.fps) == (["a", "bb", "ccc"], [1, 2, 3], 8.0)
    assert [int(video) for video in joined.video] == [1, 2, 3]
    assert joined.steps_per_video == [["a"], ["bb"], ["ccc"]]
    assert joined.steps == ["a"]


def test_a_quiet_engine_prints_nothing(checkpoint, capfd):
    with VideoSysEngine(config_of(checkpoint), quiet=True) as engine:
        engine.generate(PROMPT, num_frames=1)
    assert capfd.readouterr() == ("", "")


def test_bars_tell_of_encoding_steps_and_decoding(checkpoint, capfd):
    with VideoSysEngine(config_of(checkpoint)) as engine:
        engine.generate(PROMPT, num_frames=17)
    out, err = capfd.readouterr()
    assert out == ""
    for word in ("load STDiT3", "load OpenSoraVAE", "encode", "denoise", "decode"):
        assert word in err
    assert "4/4" in err


def test_a_cache_skips_steps_and_says_so(engine):
    plain, cached = (engine.generate(PROMPT, cache=cache) for cache in (NoCacheConfig(), SKIPPING))
    assert [step.computed for step in cached.steps].count(False) >= 1
    assert not torch.equal(plain.video[0], cached.video[0])
    none_skipped = engine.generate(PROMPT, cache=TeaCacheConfig(0.0, (1.0, 0.0)))
    assert torch.equal(none_skipped.video[0], plain.video[0])


def test_a_cache_can_be_asked_for_by_name(engine):
    preset = engine.requested({"cache": "teacache_fast"}).cache
    assert (preset.threshold, preset.coefficients[0]) == (0.2, 217.546007)
    assert engine.requested({"cache": "none"}).cache == NoCacheConfig()
    with pytest.raises(ValueError, match=r"cache is 'teacach'.*did you mean 'teacache'"):
        engine.requested({"cache": "teacach"})


def test_each_video_is_logged_with_what_it_cost(engine, caplog):
    with caplog.at_level("DEBUG", logger="videosys.engine"):
        engine.generate(PROMPT, seed=3, num_inference_steps=2)
    (record,) = [record for record in caplog.records if record.name == "videosys.engine"]
    fields = record.fields
    assert (fields["seeds"], fields["frames"], fields["computed"], fields["steps"]) == ([3], FRAMES, 2, 2)
    assert fields["seconds"] > 0
