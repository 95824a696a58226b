"""What a transformer needs by its depth, and how many tensors of tokens a step has at once."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from eval.performance.models import Setting, Size, models, with_transformer
from eval.performance.needs import peak_on_cpu
from tests.tiny_checkpoint import config_of
from tests.unit.test_estimate import LARGE, SMALL_TEXT, estimator_of

CPU = torch.device("cpu")


@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize("model", models())
def test_two_shallow_models_tell_what_a_deeper_one_needs(checkpoint, model, depth):
    estimator = estimator_of(Setting.small(model, torch.float32), config_of(checkpoint, **LARGE), depth)
    assert estimator.transformer() == estimator.shallow_transformer(depth)


@pytest.mark.parametrize("model", models())
@torch.no_grad()
def test_a_deeper_model_needs_what_is_measured(checkpoint, model):
    """The tokens before the first block and those before the running one are both in memory."""
    setting = Setting.small(model, torch.bfloat16, CPU, Size((8, 32, 32), text=SMALL_TEXT))
    subject = replace(setting, plan=with_transformer(setting.plan, setting.config.with_depth(3))).subject()
    subject.step()
    inputs = subject.latents.nbytes + subject.prompt_embeds.nbytes
    made = estimator_of(setting, config_of(checkpoint, dtype="bfloat16"), 3).transformer()
    assert made.activations == pytest.approx(peak_on_cpu(subject.step) + inputs, rel=0.1)


# The most tensors of tokens that a step has at once, on a CPU and on a GPU without this package's kernels.
TOKENS = {"STDiT3": (12.7, 15.7), "LatteT2V": (9.7, 9.7), "OpenSoraT2V": (12.7, 12.7)}


@pytest.mark.parametrize("model", TOKENS)
def test_a_step_keeps_no_tensor_that_it_does_not_read_again(checkpoint, model):
    setting = Setting.small(model, torch.bfloat16)
    tokens = setting.tokens * setting.config.hidden_size * setting.dtype.itemsize
    for device, most in zip(("cpu", "cuda"), TOKENS[model]):
        config = config_of(checkpoint, dtype="bfloat16", device=device)
        assert most - 1 < estimator_of(setting, config, 5).transformer().activations / tokens < most
