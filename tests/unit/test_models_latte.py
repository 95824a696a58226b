"""LatteT2V: conditions, masks, configs, checkpoints, and what it asks of a cache."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
import torch

from videosys.cache import Cache, TeaCacheConfig, start
from videosys.models.pixart.latte_t2v import LatteT2V, LatteT2VConfig
from videosys.parallel import Parallel
from videosys.utils.checkpoint import load_model, read_config, save_model

CONFIG = LatteT2VConfig(
    num_layers=2,
    num_attention_heads=2,
    attention_head_dim=8,
    sample_size=8,
    video_length=5,
    caption_channels=12,
    cross_attention_dim=16,
)
SIZE = (5, 6, 8)


@pytest.fixture(scope="module")
def model() -> LatteT2V:
    torch.manual_seed(0)
    return LatteT2V(CONFIG).eval().requires_grad_(False)


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


TEXT, LATENTS, TIMESTEPS = random(2, 7, 12), random(2, 4, *SIZE, seed=1), torch.tensor([900.0, 30.0])


def forward(model, mask=None, text=TEXT, **options):
    return model(LATENTS, TIMESTEPS, model.prepare(text, mask, latent_size=SIZE, **options))


def test_masked_tokens_do_not_matter(model):
    mask = torch.tensor([[1, 0, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0]])
    other = torch.where(mask[..., None] == 1, TEXT, random(2, 7, 12, seed=5))
    assert torch.equal(forward(model, mask), forward(model, mask, other))
    assert not torch.allclose(forward(model, mask), forward(model))


def test_a_prompt_that_keeps_nothing_sees_everything(model):
    mask = torch.tensor([[0] * 7, [1] * 6 + [0]])
    torch.testing.assert_close(forward(model, mask)[0], forward(model)[0], atol=1e-4, rtol=0)


def test_nothing_masked_means_no_mask_tensor(model):
    condition = model.prepare(TEXT, torch.ones(2, 7), latent_size=SIZE, visible_mask=torch.ones(2, *SIZE))
    assert condition.visible is None
    assert [text.bias for (text,) in condition.text] == [None, None]
    same = torch.tensor([[1, 1, 1, 0, 0, 0, 0]] * 2)
    assert model.prepare(TEXT, same, latent_size=SIZE).text[0][0].bias is None
    assert model.prepare(TEXT, same, latent_size=SIZE).text[0][0].k.shape == (2, 2, 3, 8)


def test_a_patch_is_visible_when_one_of_its_latents_is(model):
    fine, coarse = torch.ones(1, *SIZE), torch.ones(1, *SIZE)
    fine[..., 3:] = 0
    coarse[..., 4:] = 0
    output = forward(model, visible_mask=fine)
    assert torch.equal(output, forward(model, visible_mask=coarse))
    assert torch.equal(output, forward(model, visible_mask=fine.repeat(2, 1, 1, 1)))
    assert not torch.allclose(output, forward(model))


def test_hidden_patches_do_not_reach_the_visible_ones(model):
    mask = torch.ones(1, *SIZE)
    mask[..., 4:] = 0
    condition = model.prepare(TEXT, latent_size=SIZE, visible_mask=mask)
    other = torch.where(mask[:, None] == 1, LATENTS, random(2, 4, *SIZE, seed=8))
    seen, changed = (model(latents, TIMESTEPS, condition) for latents in (LATENTS, other))
    assert torch.equal(seen[..., :4], changed[..., :4])


def test_a_sample_does_not_see_its_neighbours(model):
    mask = torch.tensor([[1, 1, 1, 0, 0, 0, 0], [1] * 7])
    alone = model(LATENTS[:1], TIMESTEPS[:1], model.prepare(TEXT[:1], mask[:1], latent_size=SIZE))
    torch.testing.assert_close(alone, forward(model, mask)[:1], atol=1e-6, rtol=1e-5)


def test_positions_do_not_depend_on_the_dtype_of_the_model(model):
    half = LatteT2V(CONFIG).to(torch.bfloat16)
    exact = model.prepare(TEXT, latent_size=SIZE)
    rounded = half.prepare(TEXT, latent_size=SIZE)
    assert torch.equal(rounded.position, exact.position.to(torch.bfloat16))
    assert torch.equal(rounded.frame_position, exact.frame_position.to(torch.bfloat16))
    assert forward(half).dtype == torch.float32


def test_positions_are_those_of_the_native_size_stretched(model):
    native = model.prepare(TEXT, latent_size=(1, 8, 8)).position.view(4, 4, 16)
    wide = model.prepare(TEXT, latent_size=(1, 8, 16)).position.view(4, 8, 16)
    torch.testing.assert_close(wide[:, ::2], native)
    assert torch.equal(native[0, :, 8:], native[0, :1, 8:].expand(4, 8))  # rows in the second half


@pytest.mark.parametrize(("scale", "frame_scale"), [(None, 1), (1.5, 1.5)])
def test_frame_numbers_are_divided_only_where_a_config_says_so(scale, frame_scale):
    assert replace(CONFIG, video_length=56, interpolation_scale_1d=scale).frame_scale == frame_scale


@pytest.mark.parametrize("size", [(5, 7, 8), (5, 8, 7), (0, 8, 8), (8, 8)])
def test_latent_sizes_that_do_not_divide_into_patches_are_refused(model, size):
    with pytest.raises(ValueError, match="latent_size"):
        model.prepare(TEXT, latent_size=size)


@pytest.mark.parametrize("shape", [(2, 5, 6, 9), (3, *SIZE), (5, 6, 8)])
def test_visible_masks_that_do_not_fit_are_refused(model, shape):
    with pytest.raises(ValueError, match="visible_mask"):
        model.prepare(TEXT, latent_size=SIZE, visible_mask=torch.ones(shape))


@pytest.mark.parametrize(
    "change", [{"cross_attention_dim": 8}, {"norm_eps": 1e-5}, {"attention_head_dim": 3}]
)
def test_configs_of_other_networks_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(CONFIG, **change)


def test_published_config_files_are_read(tmp_path):
    published = {
        "_class_name": "LatteT2V",
        "sample_size": [64, 64],
        "video_length": 17,
        "interpolation_scale_1d": None,
        "norm_eps": 1e-06,
        "norm_num_groups": 32,
        "num_vector_embeds": None,
        "use_rope": False,
        "compress_kv_factor": 1,
        "attention_mode": "xformers",
    }
    (tmp_path / "config.json").write_text(json.dumps(published))
    config = read_config(LatteT2VConfig, tmp_path)
    assert config == LatteT2VConfig(sample_size=(64, 64), video_length=17)
    assert (config.native_size, config.frame_scale) == (64, 1)


@pytest.mark.parametrize("change", [{"use_rope": True}, {"compress_kv_factor": 2}, {"norm_type": "x"}])
def test_config_files_of_other_networks_are_refused(change, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(change))
    with pytest.raises(ValueError, match=next(iter(change))):
        read_config(LatteT2VConfig, tmp_path)


@pytest.mark.parametrize("unused", [{}, {"caption_projection.y_embedding": torch.ones(120, 12)}])
def test_checkpoints_load_with_and_without_the_unused_null_caption(model, unused, tmp_path):
    save_model({**model.state_dict(), **unused}, CONFIG, tmp_path)
    loaded = load_model(LatteT2V, read_config(LatteT2VConfig, tmp_path), tmp_path)
    assert asdict(loaded.config) == asdict(CONFIG)
    assert torch.equal(forward(loaded), forward(model))


class Asked(Cache):
    """Writes down which branches of which blocks a forward runs."""

    def __init__(self):
        self.branches = []

    def layer(self, stack, index):
        def branch(kind, compute):
            self.branches.append((stack, index, kind))
            return compute()

        return branch


@pytest.mark.parametrize("temporal", [True, False])
def test_every_branch_goes_through_the_cache(model, temporal):
    cache = Asked()
    condition = model.prepare(TEXT, latent_size=SIZE, enable_temporal_attentions=temporal)
    model(LATENTS, TIMESTEPS, condition, cache)
    kinds = [("spatial", "attention"), ("spatial", "cross"), ("spatial", "mlp")]
    kinds += [("temporal", "attention"), ("temporal", "mlp")] if temporal else []
    assert cache.branches == [(stack, i, kind) for i in range(2) for stack, kind in kinds]


def test_a_skipped_step_adds_what_all_blocks_added(model):
    cache = start(TeaCacheConfig(1e9, (1.0, 0.0)), [3.0, 2.0, 1.0], Parallel().gather_rows)
    condition = model.prepare(TEXT, latent_size=SIZE)
    cache.begin_step(0, 900.0)
    model(LATENTS, TIMESTEPS, condition, cache)
    before, _, t6 = model.embed(LATENTS, TIMESTEPS, condition)
    residual = model.run_blocks(before, t6, condition) - before
    cache.begin_step(1, 30.0)
    latents, timesteps = LATENTS + 1, TIMESTEPS - 10
    skipped = model(latents, timesteps, condition, cache)
    x, t, _ = model.embed(latents, timesteps, condition)
    assert torch.equal(skipped, model.head(x + residual, t, condition))
    assert [step.computed for step in cache.steps] == [True, False]
