"""The forwards of all models on a card, in float32 and bfloat16, against the published ones in float32."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.goldens.load import load_case, load_tensors
from tests.gpu import card
from tests.gpu.card import ON_CARD, distance
from tests.parity import latte, stdit3, test_latte, test_open_sora_plan, test_stdit3

pytestmark = ON_CARD
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


@pytest.fixture(params=TOLERANCE, ids=str)
def dtype(request, monkeypatch) -> torch.dtype:
    """What models and their inputs are made in, on the card."""
    place: dict[str, Any] = {"device": card.DEVICE, "dtype": request.param}
    for module in (test_stdit3, test_open_sora_plan, latte):
        build, filled = module.build, module.filled
        monkeypatch.setattr(module, "build", lambda case, build=build: build(case).to(**place))
        monkeypatch.setattr(module, "filled", lambda *name, filled=filled: filled(*name).to(**place))
    return request.param


@torch.no_grad()
@pytest.mark.parametrize("suffix", test_stdit3.CASES)
def test_stdit3_on_the_card(suffix, dtype):
    with torch.device(card.DEVICE):
        *_, output = test_stdit3.run(suffix)
    want = load_tensors(stdit3.FAMILY, f"stdit3_forward{suffix}")["output"]
    assert distance(output, want) < TOLERANCE[dtype]


@torch.no_grad()
@pytest.mark.parametrize("name", test_open_sora_plan.CASES)
def test_open_sora_t2v_on_the_card(name, dtype):
    case, golden = load_case(test_open_sora_plan.FAMILY, name)
    with torch.device(card.DEVICE):
        _, seen = test_open_sora_plan.run(case)
    assert distance(seen["output"], golden["output"]) < TOLERANCE[dtype]


@torch.no_grad()
@pytest.mark.parametrize("name", test_latte.LATTE_CASES)
def test_latte_t2v_on_the_card(name, dtype):
    case, golden = load_case(latte.LATTE, name)
    with torch.device(card.DEVICE):
        model, latents = latte.build(case), latte.filled(case, "latent")
        condition = model.prepare(
            latte.filled(case, "text"),
            test_latte.text_mask(case),
            latent_size=latents.shape[2:],
            enable_temporal_attentions=case["literal"]["enable_temporal_attentions"],
        )
        output = model(latents, torch.tensor(case["literal"]["timestep"]), condition)
    assert distance(output, golden["output"]) < TOLERANCE[dtype]
