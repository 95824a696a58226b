"""Training of the tiny transformer: the data it sees, the loss, and what it exports."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import videosys.tiny as tiny
from eval.training import latents as shards
from eval.training import train_transformer as training
from eval.training.batches import CaptionedLatents
from eval.training.captions import caption_of
from eval.training.recipes import RECIPES
from eval.training.scored import is_scored
from videosys.models.opensora.transformer import STDiT3, STDiT3Config
from videosys.text_encoders.cleaning import prepare_prompt
from videosys.text_encoders.t5 import T5Encoder, load_tokenizer
from videosys.tiny.words import TEMPLATES
from videosys.utils.checkpoint import load_model, read_config

TOKENIZER = Path(tiny.__file__).parent / "opensora" / "tokenizer"


class StubVAE:
    """Latents that tell the clip: all of them are the mean of its pixels."""

    def encode(self, frames):
        return frames.mean().expand(1, 4, 10, 8, 8)


def encode(specs):
    recipe = RECIPES["opensora"]
    return torch.cat([recipe.encode(StubVAE(), recipe.frames(spec)[None]) for spec in specs])


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(TOKENIZER)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("latents")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "CLIPS_PER_SHARD", 12)
        for number in (0, 1, shards.HELD_OUT_SHARD):
            shards.write_shard(encode, folder, number)
    return folder


@pytest.fixture(scope="module")
def data(folder, tokenizer):
    return CaptionedLatents(folder, partial(training.tokens, tokenizer))


def test_shards_hold_neither_scored_nor_held_out_clips_and_differ(folder):
    read = {number: shards.read_shard(shards.shard_path(folder, number)) for number in (0, 1)}
    for latents, specs in read.values():
        assert latents.shape == (12, 4, 10, 8, 8)
        assert not any(spec.is_held_out or is_scored(spec) for spec in specs)
    assert read[0][1] != read[1][1]
    again = encode(read[0][1][3:4])
    assert torch.equal(again[0], read[0][0][3])


def test_training_leaves_the_held_out_shard_aside(folder, data, tokenizer):
    assert len(data.latents) == 24
    held_out = CaptionedLatents(folder, partial(training.tokens, tokenizer), numbers=[shards.HELD_OUT_SHARD])
    assert len(held_out.latents) == 12


def test_captions_take_the_sampling_path(folder, data, tokenizer):
    _, specs = shards.read_shard(shards.shard_path(folder, 0))
    encoder = T5Encoder(model=None, tokenizer=tokenizer)
    for template in range(len(TEMPLATES)):
        caption = caption_of(specs[0], template)
        expected = encoder.tokenize(prepare_prompt(caption))
        assert (0, caption) in data.by_length[len(expected)]
        assert data.rows[caption].tolist() == expected


def test_a_batch_has_equally_long_captions_of_its_clips(data):
    rng = np.random.default_rng(3)
    latents, ids = data.batch(rng, 6)
    assert latents.shape[0] == ids.shape[0] == 6
    for clip, row in zip(latents, ids):
        matches = [i for i, caption in data.by_length[len(row)] if data.rows[caption].equal(row)]
        assert any(torch.equal(data.latents[i], clip) for i in matches)


class Perfect(torch.nn.Module):
    """Knows the velocity of the frames that are denoised, and says anything on the others."""

    def __init__(self, latents_of, wrong_by=0.0):
        super().__init__()
        self.latents_of, self.wrong_by = latents_of, wrong_by

    def forward(self, noisy, times, ids, null, frame_mask):
        t = times[:, None, None, None, None]
        latents = self.latents_of(noisy)
        velocity = (latents - noisy) / t + self.wrong_by
        if frame_mask is not None:
            assert torch.equal(
                noisy[~frame_mask[:, None].expand(-1, 4, -1)], latents[~frame_mask[:, None].expand(-1, 4, -1)]
            )
            velocity = torch.where(
                frame_mask[:, None, :, None, None], velocity, torch.full_like(velocity, 99.0)
            )
        return velocity


@pytest.mark.parametrize("wrong_by", [0.0, 0.5])
def test_the_loss_is_the_velocity_error_of_the_free_frames(data, monkeypatch, wrong_by):
    monkeypatch.setattr(data, "latents", torch.full((24, 4, 10, 8, 8), 0.25))
    model = Perfect(lambda noisy: torch.full_like(noisy, 0.25), wrong_by)
    losses = [float(training.flow_loss(model, data, (1, step), 4)) for step in range(30)]
    assert losses == pytest.approx([wrong_by**2] * 30, abs=2e-3)


def test_masks_keep_some_frames_and_free_some():
    rng = np.random.default_rng(0)
    masks = [training.frame_mask(rng, 1, 10)[0] for _ in range(300)]
    assert all(mask.any() for mask in masks)
    assert sum(not mask.all() for mask in masks) > 250
    assert any(not mask[0] and mask[1:].all() for mask in masks)  # image to video
    assert any(not mask[:5].any() and mask[5:].all() for mask in masks)  # extension by loops


def test_the_export_is_what_the_pipeline_loads(tmp_path, tokenizer):
    torch.manual_seed(0)
    model = training.TinyModel(len(tokenizer))
    torch.nn.init.normal_(model.transformer.final_layer.linear.weight)
    training.export(tmp_path, TOKENIZER, model, 0.0)
    folder = tmp_path / "transformer"
    loaded = load_model(STDiT3, read_config(STDiT3Config, folder), folder)
    for key, value in model.transformer.state_dict().items():
        exact = value if key == "rope.freqs" else value.bfloat16().float()
        assert torch.equal(loaded.state_dict()[key], exact)
    encoder = T5Encoder.from_pretrained(tmp_path)
    shared = model.text_encoder.shared.weight.detach().bfloat16().float()
    assert torch.equal(encoder.model.shared.weight, shared)


@pytest.mark.parametrize("has_muon", [True, False])
def test_optimizers_share_out_the_parameters_and_resume(tokenizer, has_muon, monkeypatch):
    monkeypatch.setattr(training, "HAS_MUON", has_muon and training.HAS_MUON)
    torch.manual_seed(0)
    model = training.TinyModel(len(tokenizer))
    model.transformer.rope.freqs.requires_grad_(False)
    optimizers = training.Optimizers(model)
    assert len(optimizers.parts) == 1 + training.HAS_MUON
    given = [p for group in optimizers.param_groups for p in group["params"]]
    assert {id(p) for p in given} == {id(p) for p in model.parameters() if p.requires_grad}
    assert len(given) == len({id(p) for p in given})
    for parameter in given:
        parameter.grad = torch.ones_like(parameter)
    optimizers.step()
    other = training.Optimizers(model)
    other.load_state_dict(optimizers.state_dict())
    first = optimizers.parts[0].state_dict()["state"][0]["exp_avg"]
    assert torch.equal(other.parts[0].state_dict()["state"][0]["exp_avg"], first)
