"""How our Triton kernels are launched: the arguments that older versions take, and the device."""

from __future__ import annotations

from contextlib import nullcontext

import torch

from tests.unit.test_kernels import interpreted, needs_triton  # noqa: F401 (the first is a fixture)
from videosys.cache import teacache
from videosys.layers import kernels


@needs_triton
def test_no_tuple_of_arguments_has_a_part_that_older_versions_refuse(monkeypatch):
    """Before triton 3.7, None is an argument of its own and not a part of a tuple."""
    from triton.runtime.interpreter import InterpretedFunction

    from tests.unit.compile_kernels import calls

    seen = []
    monkeypatch.setattr(InterpretedFunction, "run", lambda self, *args, **kwargs: seen.append(args))
    for call in calls():
        call()
    assert len(seen) == 12
    tuples = [item for args in seen for item in args if isinstance(item, tuple)]
    assert len(tuples) > 30
    assert not [item for item in tuples if any(part is None or isinstance(part, tuple) for part in item)]


@needs_triton
def test_kernels_are_launched_on_the_device_of_their_tensors(interpreted, monkeypatch):  # noqa: F811
    """With device cuda:1, another device may be the current one."""
    seen = []
    monkeypatch.setattr(torch.cuda, "device_of", lambda tensor: seen.append(tensor) or nullcontext())
    x, vectors = torch.randn(2, 3, 4, 64).half(), torch.randn(2, 1, 1, 64).half()
    q = torch.randn(2, 3, 4, 2, 32).half()
    kernels.attend_frames((q, q, q))
    kernels.attend_tiles(q[:, 0], q[:, 0], q[:, 0])
    kernels.norm_rotate((q[:, 0], q[:, 0]), [q.new_ones(32)] * 2, (), 1e-6, 16)
    kernels.modulate(x, vectors, vectors, 1e-6)
    kernels.add_modulate(x, x, None, vectors, vectors, 1e-6)
    monkeypatch.setattr(teacache, "runs_triton", lambda device: True)
    teacache.l1_sums(x, x)
    assert [item.shape[-1] for item in seen] == [32, 32, 32, 64, 64, 64]
