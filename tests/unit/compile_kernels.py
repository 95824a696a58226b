"""Compiles our Triton kernels as the launchers ask for them, for a card that need not be here.

python -m tests.unit.compile_kernels CAPABILITY prints a line for each kernel: its name, how many loads read
less than 8 bytes, and bytes of machine code. Run by test_kernels.py in a process of its own, where the
kernels are interpreted.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from videosys.cache.kernels import l1_sums_in_one_pass
from videosys.layers.kernels import launch


def stand_in(capability: int) -> Any:
    """What triton asks of the driver of a card before it launches."""
    return SimpleNamespace(
        get_current_target=lambda: GPUTarget("cuda", capability, 32),
        get_current_device=lambda: 0,
        get_current_stream=lambda device: 0,
        is_active=lambda: True,
    )


def calls() -> list[Callable[[], object]]:
    """The operators with the layouts of the published models."""
    dtype = torch.bfloat16
    qkv = torch.empty(2, 15, 4, 3, 16, 72, dtype=dtype)
    weights, table = [torch.empty(72, dtype=dtype)] * 2, [torch.empty(15, 36)] * 2
    spatial, joint = qkv.flatten(0, 1).unbind(2)[:2], [torch.empty(2, 40, 24, 96, dtype=dtype)] * 2
    spatial_q, text = (torch.empty(2, n, 16, 72, dtype=dtype).transpose(1, 2) for n in (200, 100))
    text_bias = torch.empty(2, 1, 1, 40, dtype=dtype)
    x, (shift, scale, gate) = (
        torch.empty(2, 15, 4, 1152, dtype=dtype),
        torch.empty(3, 2, 1, 1, 1152, dtype=dtype),
    )
    return [
        lambda: launch.attend_frames(*qkv.unbind(3), weights, table, 1e-6),
        lambda: launch.attend_frames(*torch.empty(3, 2, 17, 4, 16, 72).half(), [], [], 0.0),
        lambda: launch.attend_frames(*torch.empty(3, 1, 64, 4, 16, 96, dtype=dtype), [], [], 0.0),
        lambda: launch.attend_tiles(spatial_q, spatial_q, spatial_q, None),
        lambda: launch.attend_tiles(spatial_q, text, text, None),
        lambda: launch.attend_tiles(*[torch.empty(2, 24, 40, 96, dtype=dtype)] * 3, text_bias),
        lambda: launch.norm_rotate(*spatial, weights, [], 1e-6, 36),
        lambda: launch.norm_rotate(*joint, [], [torch.empty(40, 1, 3, 16)] * 2, 0.0, 16),
        lambda: l1_sums_in_one_pass(x, x),
        lambda: launch.modulate(x, shift, scale, 1e-6),
        lambda: launch.add_modulate(x, x, gate, shift, scale, 1e-6),
        lambda: launch.add_modulate(
            x, x, None, shift.expand(2, 15, 1, 1152), scale.expand(2, 15, 1, 1152), 1e-6
        ),
    ]


def main(capability: int) -> None:
    driver.set_active(stand_in(capability))
    run = JITFunction.run

    def compiled(self: Any, *args: Any, **kwargs: Any) -> None:
        kernel = run(self, *args, **{**kwargs, "warmup": True})
        loads = re.findall(r"ld\.global\S*", kernel.asm["ptx"])
        narrow = [load for load in loads if ".v" not in load]
        print(self.__name__, len(narrow), len(kernel.asm["cubin"]))

    JITFunction.run = compiled
    for call in calls():
        call()


if __name__ == "__main__":
    main(int(sys.argv[1]))
