"""What a step takes of a card's memory is what the estimate says."""

from __future__ import annotations

import pytest
import torch

from eval.performance.needs import peak_on_gpu
from tests.gpu.card import DEVICE, MODELS, ON_CARD
from tests.tiny_checkpoint import config_of
from tests.unit.test_estimate import shallow, shallow_of

pytestmark = ON_CARD


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("model", MODELS)
@torch.no_grad()
def test_a_step_of_the_middle_size_needs_what_is_measured(checkpoint, model, dtype):
    setting = shallow(model, getattr(torch, dtype), DEVICE)
    subject = setting.subject()
    subject.step()  # libraries keep memory from their first call on
    inputs = subject.latents.nbytes + subject.prompt_embeds.nbytes
    made = shallow_of(subject, setting, config_of(checkpoint, dtype=dtype, device=DEVICE.type))
    assert made.activations == pytest.approx(peak_on_gpu(subject.step) + inputs, rel=0.15)
