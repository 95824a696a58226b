"""OpenSoraT2V (v1.2.0) against the published forward: every golden, every intermediate."""

from __future__ import annotations

from dataclasses import fields
from functools import partial
from typing import Any

import pytest
import torch

from tests.goldens.fill import fill_module, fill_tensor
from tests.goldens.load import load_case, load_json
from videosys.models.open_sora_plan.transformer import OpenSoraT2V, OpenSoraT2VConfig

FAMILY = "open_sora_plan"
TOLERANCE = 1e-5
CASES = ["v120_transformer", "v120_transformer_interp_padded", "v120_transformer_image"]


def build(case: dict[str, Any]) -> OpenSoraT2V:
    names = {field.name for field in fields(OpenSoraT2VConfig)}
    config = {key: value for key, value in case["config"].items() if key in names}
    config["sample_size"] = tuple(config["sample_size"])
    return fill_module(OpenSoraT2V(OpenSoraT2VConfig(**config)), salt=case["salt"])


def filled(case: dict[str, Any], name: str) -> torch.Tensor:
    entry = case["inputs"][name]
    return fill_tensor(entry["fill"], entry["shape"], case["salt"])


def watch(model: OpenSoraT2V) -> dict[str, Any]:
    """Outputs of the modules that the goldens name."""
    seen: dict[str, Any] = {}
    names = {"pos_embed": "patch_embed", "adaln_single": "adaln", "proj_out": "proj_out"}
    for i in range(model.config.num_layers):
        names |= {f"transformer_blocks.{i}": f"block.{i}"}
        names |= {f"transformer_blocks.{i}.attn1": f"block.{i}.attn1"}
    for module, name in names.items():
        model.get_submodule(module).register_forward_hook(partial(keep, seen, name))
    return seen


def keep(seen: dict[str, Any], name: str, _module, _inputs, output) -> None:
    seen[name] = output


def run(case: dict[str, Any]) -> tuple[OpenSoraT2V, dict[str, torch.Tensor]]:
    model, literals, latents = build(case), case["literals"], filled(case, "hidden_states")
    visible = literals["attention_mask_b_t_h_w"]
    condition = model.prepare(
        filled(case, "encoder_hidden_states")[:, 0],
        torch.tensor(literals["encoder_attention_mask_b_1_l"])[:, 0],
        latent_size=tuple(latents.shape[2:]),
        visible_mask=torch.ones_like(latents[:, 0]) if visible == "all ones" else torch.tensor(visible),
    )
    assert (condition.layout.bias is None) == (visible == "all ones")
    seen = watch(model)
    output = model(latents, torch.tensor(literals["timestep_float"]), condition)
    t, t6 = seen.pop("adaln")
    return model, {**seen, "output": output, "adaln_embedded": t, "adaln_timestep6": t6.flatten(1)}


@torch.no_grad()
@pytest.mark.parametrize("name", CASES)
def test_forward_matches_the_published_one(name):
    case, golden = load_case(FAMILY, name)
    model, seen = run(case)
    seen["caption_projection"] = model.caption_projection(filled(case, "encoder_hidden_states"))
    assert seen.keys() == golden.keys()
    assert seen["output"].dtype == torch.float32
    for key, expected in golden.items():
        actual = seen[key] if key == "output" else seen[key].reshape(expected.shape)
        size = max(1.0, float(expected.abs().max()))  # the residual stream is larger than the output
        torch.testing.assert_close(
            actual, expected, atol=TOLERANCE * size, rtol=0, msg=lambda m, k=key: k + m
        )


def test_keys_and_shapes_are_those_of_the_published_checkpoint():
    manifest = load_json(FAMILY, "transformer_v120_manifest")
    with torch.device("meta"):
        model = OpenSoraT2V(OpenSoraT2VConfig())
    state = {key: list(tensor.shape) for key, tensor in model.state_dict().items()}
    assert state == {key: entry["shape"] for key, entry in manifest.items()}
    assert len(state) == 687
    assert sum(p.numel() for p in model.parameters()) == 2_771_907_856
