"""LatteT2V against the published forwards of Latte-1 and Open-Sora-Plan v1.1.0, and against diffusers'."""

from __future__ import annotations

import pytest
import torch
from einops import rearrange

from tests.goldens.load import load_case, load_json
from tests.parity.latte import LATTE, PLAN, assert_equal, build, filled, watch
from videosys.models.pixart.latte_t2v import LatteT2V, LatteT2VConfig

LATTE_CASES = ["latte_forward", "latte_forward_no_temporal"]
PLAN_CASES = ["v110_transformer", "v110_transformer_padded_nonsquare", "v110_transformer_interp"]


def text_mask(case) -> torch.Tensor:
    width = case["inputs"]["text"]["shape"][1]
    return (torch.arange(width)[None] < torch.tensor(case["literal"]["text_lengths"])[:, None]).long()


@torch.no_grad()
@pytest.mark.parametrize("name", LATTE_CASES)
def test_latte_forward(name):
    case, golden = load_case(LATTE, name)
    model, latents = build(case), filled(case, "latent")
    timesteps = torch.tensor(case["literal"]["timestep"])
    temporal = case["literal"]["enable_temporal_attentions"]

    def run(latents, mask=None):
        condition = model.prepare(
            filled(case, "text"),
            mask,
            latent_size=latents.shape[2:],
            enable_temporal_attentions=temporal,
        )
        return condition, model(latents, timesteps, condition)

    seen = watch(model, "after_spatial_{}", "after_temporal_{}")
    condition, seen["output"] = run(latents, text_mask(case))
    x, seen["timestep_embedding"], t6 = model.embed(latents, timesteps, condition)
    seen["after_patch_embed"] = rearrange(x, "b t s c -> (b t) s c")
    seen["timestep_modulation"] = t6.flatten(1)
    seen["projected_captions"] = model.caption_projection(filled(case, "text"))
    seen["spatial_pos_embed"] = condition.position[None]
    seen["temp_pos_embed"] = condition.frame_position.transpose(0, 1)
    first = dict(seen)  # the hooks see the other runs too
    seen["output_no_mask"] = run(latents)[1]
    seen["output_first_frame_as_image"] = run(latents[:, :, :1], text_mask(case))[1]
    seen["output_other_size"] = run(filled(case, "latent_other_size"), text_mask(case))[1]
    seen |= first
    assert seen.keys() == golden.keys()
    for key in golden:
        assert_equal(seen[key], golden[key])
    for key in ("spatial_pos_embed", "temp_pos_embed"):
        assert torch.equal(seen[key], golden[key])


@torch.no_grad()
@pytest.mark.parametrize("name", PLAN_CASES)
def test_open_sora_plan_v110_forward(name):
    case, golden = load_case(PLAN, name)
    model, latents, literals = build(case), filled(case, "hidden_states"), case["literals"]
    text, timesteps = filled(case, "encoder_hidden_states")[:, 0], torch.tensor(literals["timestep"])
    masks = {"prompt_mask": "encoder_attention_mask", "visible_mask": "attention_mask_float_b_t_h_w"}
    given = {key: torch.tensor(literals[name]) for key, name in masks.items() if name in literals}
    condition = model.prepare(text, latent_size=latents.shape[2:], **given)

    seen = watch(model, "spatial_block.{}", "temporal_block.{}")
    model.proj_out.register_forward_hook(lambda module, args, out: seen.update(proj_out=out.flatten(0, 1)))
    seen["output"] = model(latents, timesteps, condition)
    x, seen["adaln_embedded"], t6 = model.embed(latents, timesteps, condition)
    seen["patch_embed"] = rearrange(x, "b t s c -> (b t) s c")
    seen["adaln_timestep6"] = t6.flatten(1)
    seen["caption_projection"] = model.caption_projection(text)[:, None]
    assert seen.keys() == golden.keys()
    for key in golden:
        assert_equal(seen[key], golden[key])


@pytest.mark.parametrize(
    ("config", "family", "name"),
    [
        (LatteT2VConfig(), LATTE, "latte_1_manifest"),
        (
            LatteT2VConfig(sample_size=(64, 64), video_length=17),
            PLAN,
            "transformer_v110_65x512x512_manifest",
        ),
        (
            LatteT2VConfig(sample_size=(64, 64), video_length=56),
            PLAN,
            "transformer_v110_65x512x512_manifest",
        ),
    ],
)
def test_keys_and_shapes_are_those_of_the_published_checkpoint(config, family, name):
    manifest = load_json(family, name)
    # The tables of positions are listed too, but no file stores them.
    published = {key: entry["shape"] for key, entry in manifest.items() if entry.get("persistent", True)}
    with torch.device("meta"):
        model = LatteT2V(config)
    assert len(published) == (967 if family == LATTE else 968)
    unused = {key: published.pop(key) for key in list(published) if key.startswith(model.ignored_keys)}
    assert unused == ({} if family == LATTE else {"caption_projection.y_embedding": [120, 4096]})
    assert {key: list(tensor.shape) for key, tensor in model.state_dict().items()} == published
    assert sum(p.numel() for p in model.parameters()) == 1_057_246_880


SHAPES = [
    # heads, head width, sample size, latent size; a video_length of 32 must not squeeze the frames
    (2, 8, 8, (4, 8, 8)),
    (3, 12, 16, (4, 6, 10)),
    (2, 8, 128, (4, 4, 6)),
    (2, 8, 8, (1, 8, 8)),
    (2, 8, 8, (32, 4, 4)),
]


@torch.no_grad()
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize(("heads", "width", "sample_size", "latent_size"), SHAPES)
def test_equal_to_diffusers_on_random_weights(heads, width, sample_size, latent_size, masked):
    from diffusers import LatteTransformer3DModel

    shape = {
        "num_layers": 2,
        "num_attention_heads": heads,
        "attention_head_dim": width,
        "in_channels": 4,
        "out_channels": 8,
        "patch_size": 2,
        "sample_size": sample_size,
        "video_length": max(latent_size[0], 4),
        "caption_channels": 12,
        "cross_attention_dim": heads * width,
        "attention_bias": True,
        "activation_fn": "gelu-approximate",
        "norm_type": "ada_norm_single",
        "norm_elementwise_affine": False,
        "norm_eps": 1e-6,
    }
    torch.manual_seed(3)
    theirs = LatteTransformer3DModel(**shape, num_embeds_ada_norm=1000).eval()
    for parameter in theirs.parameters():
        parameter.normal_(std=0.1)
    ours = LatteT2V(LatteT2VConfig(**shape)).eval()
    ours.load_state_dict(theirs.state_dict())

    latents, text = torch.randn(2, 4, *latent_size), torch.randn(2, 6, 12)
    mask = torch.tensor([[1, 1, 1, 1, 1, 0], [1, 1, 0, 0, 0, 0]]) if masked else None
    # Theirs adds a mask to the scores as it is, and wants it once per frame.
    bias = ((1.0 - mask) * -10000.0)[:, None].repeat_interleave(latent_size[0], dim=0) if masked else None
    timesteps = torch.tensor([999, 20])
    for temporal in (True, False) if latent_size[0] > 1 else (True,):
        condition = ours.prepare(text, mask, latent_size=latent_size, enable_temporal_attentions=temporal)
        want = theirs(latents, timesteps, text, bias, temporal).sample
        assert_equal(ours(latents, timesteps, condition), want)
