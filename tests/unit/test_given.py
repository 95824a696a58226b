"""Latents and embeddings that a request brings, and the forms in which videos come back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from tests.tiny_checkpoint import config_of, text_to_video_config
from videosys import VideoSysEngine
from videosys.generation.given import Given, converted
from videosys.generation.offload import Component

PROMPTS = ["a red circle", "a small green ring spins"]
SHORT = {"num_frames": 1, "num_inference_steps": 2}


@pytest.fixture(scope="module")
def opensora(checkpoint):
    with VideoSysEngine(config_of(checkpoint, **SHORT), quiet=True) as engine:
        yield engine


@pytest.fixture(scope="module")
def engine(random_model):
    name, folder = random_model
    with VideoSysEngine(text_to_video_config(name, folder, num_frames=1), quiet=True) as engine:
        yield engine


def equal(one, other):
    return len(one.video) == len(other.video) and all(map(torch.equal, one.video, other.video))


def check_round_trips(engine, **request):
    """What the pipeline would make, given back, changes no bit; something else does."""
    plain = engine.generate(PROMPTS, num_videos_per_prompt=2, **request)
    embeds = engine.encode_prompt(PROMPTS, **request)
    latents = engine.prepare_latents(2, num_videos_per_prompt=2)
    given = engine.generate(**embeds, latents=latents, num_videos_per_prompt=2, **request)
    assert equal(plain, given)
    assert given.prompts == ["prompt_embeds 0"] * 2 + ["prompt_embeds 1"] * 2
    assert given.seeds == plain.seeds
    other = engine.generate(**embeds, latents=latents.flip(0), num_videos_per_prompt=2, **request)
    assert not torch.equal(other.video[0], plain.video[0])
    encoded = engine.generate(PROMPTS, num_videos_per_prompt=2, output_type="latent", **request)
    assert encoded.video[0].shape == latents.shape[1:]
    decoded = engine.decode_latents(torch.stack(encoded.video), **request)
    assert all(map(torch.equal, decoded, plain.video))


def test_what_is_given_back_changes_no_bit(engine):
    check_round_trips(engine)


@pytest.mark.parametrize("request_", [{}, {"negative_prompt": "a blue cross"}])
def test_nor_for_open_sora_with_and_without_a_negative_prompt(opensora, request_):
    check_round_trips(opensora, **request_)


def test_a_text_encoder_is_not_loaded_for_embeddings(checkpoint):
    with VideoSysEngine(config_of(checkpoint, **SHORT), quiet=True) as engine:
        engine.generate(prompt_embeds=torch.randn(1, 3, 16))
        assert not engine.pipeline.text_encoder.is_loaded


def test_embeddings_without_a_mask_are_tokens_and_shorter_ones_are_padded(opensora):
    given = opensora.encode_prompt(PROMPTS[1])
    length = int(given["prompt_mask"].sum())
    short = opensora.generate(prompt_embeds=given["prompt_embeds"][:, :length])
    assert equal(short, opensora.generate(PROMPTS[1]))
    assert not equal(opensora.generate(prompt_embeds=given["prompt_embeds"]), short)  # padding seen as tokens


def test_negative_embeddings_stand_beside_a_prompt_and_may_be_one_for_each(opensora):
    given = opensora.encode_prompt(PROMPTS, negative_prompt="a blue cross")
    negative = {key: value for key, value in given.items() if key.startswith("negative")}
    plain = opensora.generate(PROMPTS, negative_prompt="a blue cross")
    assert equal(opensora.generate(PROMPTS, **negative), plain)
    twice = {key: value.repeat(2, *[1] * (value.ndim - 1)) for key, value in negative.items()}
    assert equal(opensora.generate(**(given | twice)), plain)
    assert not equal(opensora.generate(PROMPTS), plain)
    own = opensora.encode_prompt(PROMPTS[0], negative_prompt="a ring")["negative_prompt_embeds"]
    mixed = given | twice | {"negative_prompt_embeds": torch.cat([own, twice["negative_prompt_embeds"][:1]])}
    both = opensora.generate(**mixed, batch_size=2)
    assert not torch.equal(both.video[0], plain.video[0])


def test_a_negative_prompt_gets_no_scores(opensora, monkeypatch):
    texts = []
    encoder = opensora.pipeline.text_encoder
    with encoder.use() as module:
        monkeypatch.setattr(
            type(module),
            "tokenize",
            lambda self, text: texts.append(text) or self.tokenizer(text)["input_ids"],
        )
        opensora.generate("A red circle", negative_prompt="A blue cross")
    assert texts == ["a red circle aesthetic score: 6.5.", "a blue cross"]


def test_forms_of_a_video(opensora):
    (plain,) = opensora.generate(PROMPTS[0], num_frames=17).video
    forms = {
        form: opensora.generate(PROMPTS[0], num_frames=17, output_type=form) for form in ("pt", "np", "pil")
    }
    (pt,), (array,), (images,) = (output.video for output in forms.values())
    assert (pt.dtype, pt.shape) == (torch.float32, (17, 3, *plain.shape[1:3]))
    assert torch.equal((pt * 255).round().to(torch.uint8).permute(0, 2, 3, 1), plain)
    assert (array.dtype, array.shape) == (np.float32, tuple(plain.shape))
    assert np.array_equal(array, pt.permute(0, 2, 3, 1).numpy())
    assert isinstance(images[0], Image.Image)
    assert np.array_equal(np.stack([np.asarray(image) for image in images]), plain.numpy())
    assert forms["pt"].frames is forms["pt"].video


def test_levels_of_converted_videos():
    levels = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 1, 1, 3)
    assert converted(levels, "pt").flatten().tolist() == pytest.approx([0.0, 0.2, 1.0])
    assert converted(levels, None) is levels


LATENTS = torch.zeros(1, 4, 1, 4, 6)
EMBEDS = torch.zeros(1, 5, 16)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"output_type": "mp4"}, "output_type is 'mp4'; allowed: 'pt', 'np', 'pil', 'latent', or None"),
        ({"output_type": 3}, "output_type is 3; allowed"),
        ({"latents": np.zeros((1, 4, 1, 4, 6))}, r"latents must be a torch.Tensor, got array"),
        (
            {"latents": LATENTS[:, :, :, :3]},
            r"latents has the shape \[1, 4, 1, 3, 6\]; it must be \[1, 4, 1, 4, 6\]",
        ),
        ({"latents": LATENTS, "num_videos_per_prompt": 2}, r"it must be \[2, 4, 1, 4, 6\]"),
        ({"latents": LATENTS, "num_frames": 17}, r"it must be \[1, 4, 5, 4, 6\]"),
        ({"latents": LATENTS.int()}, "latents is a tensor of torch.int32 on cpu; it must be floating-point"),
        ({"latents": LATENTS.to("meta")}, "latents is a tensor of torch.float32 on meta"),
        ({"latents": LATENTS / 0}, "latents holds values that are not finite"),
        ({"prompt_embeds": EMBEDS}, "prompt and prompt_embeds are both given"),
        ({"prompt": None}, "prompt is None; it must be text, a list of texts, or given by prompt_embeds"),
        ({"prompt": None, "prompt_embeds": EMBEDS[..., :4]}, r"\[1, 5, 4\]; it must be \[1, L, 16\]"),
        ({"prompt": None, "prompt_embeds": EMBEDS[0]}, r"\[5, 16\]; it must be"),
        ({"prompt": None, "prompt_embeds": EMBEDS[:0]}, r"\[0, 5, 16\]; it must be \[P, L, D\] with P of 1"),
        ({"prompt": None, "prompt_embeds": EMBEDS[:, :0]}, r"\[1, 0, 16\]; it must be \[1, L, 16\]"),
        (
            {"prompt": None, "prompt_embeds": torch.zeros(1, 41, 16)},
            "has 41 tokens per text; the model reads at most 40",
        ),
        ({"prompt": None, "prompt_embeds": "a"}, "prompt_embeds must be a torch.Tensor, got 'a'"),
        ({"prompt_mask": torch.ones(1, 5)}, "prompt_mask is given, and prompt_embeds is not"),
        (
            {"negative_prompt_mask": torch.ones(1, 5)},
            "negative_prompt_mask is given, and negative_prompt_embeds",
        ),
        ({"negative_prompt_embeds": EMBEDS.repeat(2, 1, 1)}, r"it must be \[1, L, 16\]"),
        ({"negative_prompt_embeds": EMBEDS, "guidance_scale": 1.0}, "this request has no guidance"),
        (
            {"prompt": None, "prompt_embeds": EMBEDS, "prompt_mask": torch.ones(1, 4)},
            r"prompt_mask is \[1, 4\]; it must be a tensor of shape \[1, 5\]",
        ),
        (
            {"prompt": None, "prompt_embeds": EMBEDS, "prompt_mask": torch.zeros(1, 5)},
            "prompt_mask must contain only 0 and 1, with at least one 1 per text",
        ),
        (
            {"prompt": None, "prompt_embeds": EMBEDS, "prompt_mask": torch.full((1, 5), 0.5)},
            "prompt_mask must contain only 0 and 1",
        ),
        (
            {"latents": LATENTS, "loops": 2, "num_frames": 34},
            "latents are those of one clip, and the video has 2",
        ),
        (
            {"output_type": "latent", "loops": 2, "num_frames": 34},
            "output_type 'latent': latents are those of one",
        ),
    ],
)
@pytest.mark.parametrize("call", ["generate", "submit"])
def test_what_does_not_fit_is_refused_before_anything_is_used(opensora, monkeypatch, call, request_, message):
    def use(self):
        raise AssertionError("a weight was used")

    monkeypatch.setattr(Component, "use", use)
    with pytest.raises(ValueError, match=message):
        getattr(opensora, call)(**({"prompt": PROMPTS[0]} | request_))


def test_drawing_latents_needs_a_seed(opensora):
    with pytest.raises(ValueError, match="seed is None"):
        opensora.prepare_latents(seed=None)
    assert torch.equal(
        opensora.prepare_latents(num_videos_per_prompt=2)[1:], opensora.prepare_latents(seed=8)
    )


@pytest.mark.parametrize("count", [0, -1, 1.0, "2", None, True])
def test_numbers_of_prompts_that_no_request_has(opensora, count):
    with pytest.raises(ValueError, match=r"num_prompts is .*; it must be a whole number of 1 or more"):
        opensora.prepare_latents(count)


def test_a_number_of_prompts_may_be_numpys(opensora):
    assert torch.equal(opensora.prepare_latents(np.int64(2), seed=1), opensora.prepare_latents(2, seed=1))


def test_no_more_latents_are_drawn_than_a_request_may_have(opensora):
    with pytest.raises(ValueError, match=r"num_videos_per_prompt is 2 for 10+ prompts; the limit is"):
        opensora.prepare_latents(10**12, num_videos_per_prompt=2)


@pytest.mark.parametrize(
    ("latents", "message"),
    [
        (None, "latents must be a torch.Tensor, got None"),
        (LATENTS[:0], r"latents has the shape \[0, 4, 1, 4, 6\]; it must be \[N, C, T, H, W\]"),
        (torch.tensor(1.0), r"latents has the shape \[\]; it must be \[N, C, T, H, W\]"),
        (LATENTS[..., :4], r"\[1, 4, 1, 4, 4\]; it must be \[1, 4, 1, 4, 6\]"),
    ],
)
def test_latents_that_cannot_be_decoded(opensora, latents, message):
    with pytest.raises(ValueError, match=message):
        opensora.decode_latents(latents)


def test_a_model_without_a_negative_prompt_says_so(opensora, monkeypatch):
    monkeypatch.setattr(type(opensora.config), "takes_negative", False)
    with pytest.raises(
        ValueError, match="negative_prompt_embeds: the model of OpenSoraConfig does not support a neg"
    ):
        opensora.generate(PROMPTS[0], negative_prompt_embeds=EMBEDS)


def test_nothing_given_is_nothing():
    assert Given().inputs() == {}
    assert Given().labels() == []
