"""What a program may have set for all of torch: contexts that set it, and what a caller sees of it."""

from __future__ import annotations

import contextlib
import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from videosys.utils import settled

Context = Callable[[], contextlib.AbstractContextManager[Any]]


@contextlib.contextmanager
def changed(get: Callable[[], Any], set_: Callable[[Any], object], value: Any) -> Iterator[None]:
    before = get()
    set_(value)
    try:
        yield
    finally:
        set_(before)


class ScaledFunctions(TorchFunctionMode):
    """Changes what torch's functions give."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        return result * 2 if func in (torch.nn.functional.linear, torch.cat) else result


class ScaledOperations(TorchDispatchMode):
    """Changes what torch's operations give."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        return result * 2 if func is torch.ops.aten.cat.default else result


@contextlib.contextmanager
def warnings_as_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@contextlib.contextmanager
def seeded_everywhere() -> Iterator[None]:
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    try:
        yield
    finally:
        torch.set_rng_state(states[0]), np.random.set_state(states[1]), random.setstate(states[2])


dtype = partial(changed, torch.get_default_dtype, torch.set_default_dtype)
matmul = partial(changed, torch.get_float32_matmul_precision, torch.set_float32_matmul_precision)
default_device = partial(changed, lambda: None, torch.set_default_device)
flush_denormals = partial(changed, lambda: False, torch.set_flush_denormal)  # torch cannot say what is set
deterministic = partial(
    changed, torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms
)
# What torch.autocast("cuda") sets, on a computer without a card.
card_autocast = partial(
    changed, partial(torch.is_autocast_enabled, "cuda"), partial(torch.set_autocast_enabled, "cuda")
)
SETTINGS: dict[str, Context] = {
    "default bfloat16": partial(dtype, torch.bfloat16),
    "default float16": partial(dtype, torch.float16),
    "default float64": partial(dtype, torch.float64),
    "default device meta": partial(default_device, "meta"),
    "device context meta": partial(torch.device, "meta"),
    "autocast bfloat16": partial(torch.autocast, "cpu", torch.bfloat16),
    "autocast float16": partial(torch.autocast, "cpu", torch.float16),
    "autocast of a card": partial(card_autocast, True),
    "deterministic": partial(deterministic, True),
    "inference mode": torch.inference_mode,
    "gradients": torch.enable_grad,
    "no gradients": torch.no_grad,
    "anomalies": torch.autograd.detect_anomaly,
    "matmul precision": partial(matmul, "medium"),
    "oneDNN off": partial(torch.backends.mkldnn.flags, enabled=False, allow_tf32=None),
    "plain attention": partial(sdpa_kernel, SDPBackend.MATH),
    "denormals flushed": partial(flush_denormals, True),
    "function mode": ScaledFunctions,
    "dispatch mode": ScaledOperations,
    "numpy raises": partial(np.errstate, all="raise"),
    "warnings as errors": warnings_as_errors,
    "seeds": seeded_everywhere,
}

# Several at once, for what is too slow to try with each.
TOGETHER = {
    "16 bits": ("default float16", "default device meta", "autocast bfloat16", "function mode", "seeds"),
    "others": ("default bfloat16", "inference mode", "matmul precision", "plain attention", "dispatch mode"),
}


@contextlib.contextmanager
def together(name: str) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for setting in TOGETHER[name]:
            stack.enter_context(SETTINGS[setting]())
        yield


def seen() -> dict[str, Any]:
    """What a caller sees of all that."""
    smallest = sys.float_info.min
    return {
        "dtype": torch.get_default_dtype(),
        "device": settled.default_device(),
        "modes": torch.overrides._get_current_function_mode_stack(),
        "dispatch": torch.utils._python_dispatch._get_current_dispatch_mode_stack(),
        "autocast": [torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda")],
        "autocast dtype": torch.get_autocast_dtype("cpu"),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "gradients": torch.is_grad_enabled(),
        "anomalies": torch.is_anomaly_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "oneDNN": torch.backends.mkldnn.enabled,
        "attention": [torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.math_sdp_enabled()],
        "denormals": smallest / 2,
        "numpy": np.geterr(),
        "threads": torch.get_num_threads(),
        "folder": os.getcwd(),
        "torch": torch.default_generator.get_state().tolist(),
        "numpy's numbers": np.random.get_state()[1].tolist(),
        "numbers": random.getstate(),
    }
