"""CausalVAE against the published layouts and numbers of v1.1.0 and v1.2.0, whole and tiled."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
import torch

from tests.goldens.fill import fill_module, fill_tensor
from tests.goldens.load import load_case, load_json
from videosys.layers.tiling import Tiling
from videosys.models.open_sora_plan.autoencoder import V110, V120, CausalVAE, CausalVAEConfig

FAMILY = "open_sora_plan"
VERSIONS = {"v110": V110, "v120": V120}
CASES = [f"{version}_vae{suffix}" for version in VERSIONS for suffix in ("", "_tiled", "_single_frame")]
TOLERANCE = 2e-5  # of values up to 3; the published float32 is itself 7e-6 away from float64


def build(case: dict[str, Any]) -> CausalVAE:
    names = {field.name for field in fields(CausalVAEConfig)}
    config = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in case["config"].items()
        if key in names
    }
    tiling = Tiling(**case["tiling"]) if case["tiling"] else None
    vae = CausalVAE(CausalVAEConfig(**config), tiling=tiling)
    return fill_module(vae, salt=case["salt"]).requires_grad_(False)


def filled(case: dict[str, Any], name: str) -> torch.Tensor:
    entry = case["inputs"][name]
    return fill_tensor(entry["fill"], entry["shape"], case["salt"])


@pytest.mark.parametrize("name", CASES)
def test_encode_and_decode(name):
    case, golden = load_case(FAMILY, name)
    vae, z = build(case), filled(case, "z")
    posterior = vae.encode(filled(case, "video"))
    frames = vae.decode(z, golden["decode"].shape[2])
    actual = {"encode_mean": posterior.mean, "encode_std": posterior.std, "decode": frames}
    for key, value in actual.items():
        torch.testing.assert_close(value, golden[key], atol=TOLERANCE, rtol=0)
    logvar = golden["encode_moments"].chunk(2, dim=1)[1]
    torch.testing.assert_close(posterior.logvar, logvar, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("version", VERSIONS)
def test_keys_and_shapes_are_those_of_the_published_checkpoint(version):
    manifest = load_json(FAMILY, f"vae_{version}_manifest")
    with torch.device("meta"):
        vae = CausalVAE(VERSIONS[version])
    state = {key: list(tensor.shape) for key, tensor in vae.state_dict().items()}
    assert state == {key: entry["shape"] for key, entry in manifest.items()}
    total = {"v110": 246_859_499, "v120": 239_189_991}
    assert sum(p.numel() for p in vae.parameters()) == total[version]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_layouts_are_those_of_the_cases(version):
    case = load_json(FAMILY, f"{version}_vae")
    sizes = {"hidden_size": 32, "hidden_size_mult": (1, 1, 2, 2), "num_res_blocks": 1}
    assert build(case).config == replace(VERSIONS[version], **sizes)
