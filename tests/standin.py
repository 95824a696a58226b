"""A device that is not here: its tensors lie on the CPU, say that they lie on the device, and obey its rules.

What a card would refuse is an error: an operation on tensors of two devices, a CPU's kernel asked for them,
and the dtypes that the device does not have. Numbers are those of the CPU.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
MAKERS = (torch.tensor, torch.as_tensor, torch.asarray)
PLACES = (torch.device, torch.dtype, str)
MEMORY = 80 << 30


class Away(torch.Tensor):
    """A tensor on the device. kept: its numbers, on the CPU."""

    kept: torch.Tensor
    machine: StandIn

    @staticmethod
    def __new__(cls, kept: torch.Tensor, machine: StandIn) -> Away:
        layout: dict[str, Any] = {"strides": kept.stride(), "storage_offset": kept.storage_offset()}
        # To torch's own code it is on meta: that asks a real device for its driver.
        return torch.Tensor._make_wrapper_subclass(
            cls, kept.size(), **layout, dtype=kept.dtype, device="meta", requires_grad=False
        )

    def __init__(self, kept: torch.Tensor, machine: StandIn):
        self.kept, self.machine = kept, machine

    device = property(lambda self: self.machine.device)  # type: ignore[assignment]
    is_cuda = property(lambda self: self.device.type == "cuda")  # type: ignore[assignment]
    is_meta = property(lambda self: False)  # type: ignore[assignment]

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Away({self.device}, {self.kept})"

    def tolist(self) -> Any:
        return self.kept.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError(f"can't convert {self.device} device type tensor to numpy")

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        machine = next(item.machine for item in flat((args, kwargs or {})) if isinstance(item, Away))
        return machine.run(func, args, kwargs or {})


class StandIn:
    """The device and what was done with it.

    refused: dtypes that it does not have. uploads: bytes of each copy from the CPU. allocated: bytes of all
    tensors that are there; peak: the most at once.
    """

    def __init__(self, kind: str, refused: Sequence[torch.dtype] = ()):
        self.device, self.refused = torch.device(kind, 0), tuple(refused)
        self.uploads: list[int] = []
        self.allocated = self.peak = 0
        self.storages: weakref.WeakSet[Any] = weakref.WeakSet()

    def is_here(self, device: Any) -> bool:
        return isinstance(device, (str, torch.device)) and torch.device(device).type == self.device.type

    def away(self, kept: torch.Tensor) -> Away:
        """A tensor of these numbers on the device."""
        if kept.dtype in self.refused:
            raise TypeError(f"{self.device.type} has no {kept.dtype}")
        storage = kept.untyped_storage()
        if storage not in self.storages:
            self.storages.add(storage)
            self.count(storage.nbytes())
            weakref.finalize(storage, self.count, -storage.nbytes())
        return Away(kept, self)

    def count(self, size: int) -> None:
        self.allocated += size
        self.peak = max(self.peak, self.allocated)

    def reset(self) -> None:
        """Lets the peak be what is there now."""
        self.peak = self.allocated

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """What an operation gives, on the device where its inputs or its `device` are."""
        tensors = [item for item in flat((args, kwargs)) if isinstance(item, torch.Tensor)]
        there = [item for item in tensors if isinstance(item, Away)]
        self.check(func, tensors, there)
        device = kwargs.get("device")
        if there and device is not None and torch.device(device).type == "meta":
            device = self.device  # torch's own code asks for the device of another tensor, and sees meta
        is_there = bool(there) if device is None else self.is_here(device)
        if func is torch.ops.aten.copy_.default:
            is_there = isinstance(args[0], Away)
        if is_there and func in COPIES and len(there) < len(tensors):
            self.uploads += [item.nbytes for item in tensors if not isinstance(item, Away)]
        args, kwargs = tree_map(lambda item: item.kept if isinstance(item, Away) else item, (args, kwargs))
        if self.is_here(device) or func is torch.ops.aten.scalar_tensor.default:  # of numbers beside an Away
            kwargs = {**kwargs, "device": "cpu"}
        result = func(*args, **kwargs)
        same = {id(item.kept): item for item in there}

        def placed(item: Any) -> Any:
            if not is_there or not isinstance(item, torch.Tensor):
                return item
            return same[id(item)] if id(item) in same else self.away(item)

        return tree_map(placed, result)

    def check(self, func: Any, tensors: Sequence[torch.Tensor], there: Sequence[Away]) -> None:
        """RuntimeError for what the device would refuse."""
        if not there or func in COPIES:
            return
        if str(func).startswith("mkldnn"):
            raise RuntimeError(f"{func} is for a CPU, not for {self.device}")
        alien = [item for item in tensors if not isinstance(item, Away) and item.ndim]
        if alien:
            raise RuntimeError(
                f"Expected all tensors to be on the same device: {func} got {tuple(alien[0].shape)} on cpu "
                f"beside {tuple(there[0].shape)} on {self.device}"
            )


def flat(tree: Any) -> list[Any]:
    return torch.utils._pytree.tree_leaves(tree)


class Operations(TorchDispatchMode):
    """Sends what makes tensors on the device to it: operations of such tensors find it themselves."""

    def __init__(self, machine: StandIn):
        super().__init__()
        self.machine = machine

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.machine.run(func, args, kwargs or {})


class Calls(TorchFunctionMode):
    """Stands for those of torch's functions that ask for a device's driver."""

    def __init__(self, machine: StandIn):
        super().__init__()
        self.machine = machine

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.pin_memory:
            return args[0]
        kwargs.pop("pin_memory", None)
        if func in MAKERS and not isinstance(args[0], torch.Tensor):
            device = kwargs.pop("device", None) or torch.empty(0).device
            made = func(*args, **kwargs, device="cpu")
            return self.machine.away(made) if self.machine.is_here(device) else made
        if (
            func is torch.Tensor.__setitem__
            and isinstance(args[0], Away)
            and isinstance(args[2], (int, float))
        ):
            value = torch.tensor(args[2], dtype=args[0].dtype, device="cpu")
            args = (*args[:2], self.machine.away(value))
        if func == torch.Tensor.data.__set__ and (isinstance(args[0], Away) or isinstance(args[1], Away)):
            return replace_data(*args)
        if func in (torch.Tensor.to, torch.Tensor.cuda):
            return self.moved(func, *args, **kwargs)
        return func(*args, **kwargs)

    def moved(self, func: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """x.to(...), with another tensor, a name or no number of the device."""
        if func is torch.Tensor.cuda:
            args = (self.machine.device,)
        if args and isinstance(args[0], torch.Tensor):
            args = (args[0].device, args[0].dtype, *args[1:])
        here = self.machine.is_here
        if isinstance(x, Away):  # that it is there already is not seen by torch's own code
            args = args[1:] if args and (args[0] is None or here(args[0])) else args
            kwargs = {name: item for name, item in kwargs.items() if not here(item)}
            if not any(isinstance(item, PLACES) for item in (*args, *kwargs.values())):
                return x
            return torch.Tensor.to(x, *args, **kwargs)
        args = tuple(self.machine.device if here(item) else item for item in args)
        kwargs = {name: self.machine.device if here(item) else item for name, item in kwargs.items()}
        return torch.Tensor.to(x, *args, **kwargs)


def replace_data(tensor: torch.Tensor, data: torch.Tensor) -> None:
    """Lets a tensor, the same object, be these numbers on their device."""
    new = data.detach()
    is_weight = isinstance(tensor, torch.nn.Parameter)
    torch.utils.swap_tensors(tensor, torch.nn.Parameter(new, tensor.requires_grad) if is_weight else new)


class Event:
    """An event or a stream of a device that does all at once."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.seconds = 0.0

    def record(self, *_: Any) -> None:
        self.seconds = time.perf_counter()

    def elapsed_time(self, other: Event) -> float:
        return 1e3 * (other.seconds - self.seconds)

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


@contextmanager
def stand_in(kind: str = "cuda", refused: Sequence[torch.dtype] = ()) -> Iterator[StandIn]:
    """A machine with one such device, inside the `with` block and on this thread. Gradients are off."""
    machine = StandIn(kind, refused)
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        pretend(patch, machine)
        for mode in (torch.no_grad(), Operations(machine), Calls(machine)):
            stack.enter_context(mode)
        yield machine


def pretend(patch: pytest.MonkeyPatch, machine: StandIn) -> None:
    """Lets torch say that the device is here."""
    kind = machine.device.type
    # Threads of their own would know nothing of it.
    patch.setattr("videosys.generation.pipeline.loaded_ahead", lambda components: nullcontext())
    patch.setattr("videosys.utils.triton.CAN_LAUNCH", False)  # its kernels are for a card's own memory
    for modes in ("without_dispatch_modes", "without_function_modes"):  # of a caller; these are the device
        patch.setattr(f"videosys.utils.settled.{modes}", nullcontext)
    patch.setattr(torch.cuda, "is_available", lambda: kind == "cuda")
    patch.setattr(torch.cuda, "device_count", lambda: int(kind == "cuda"))
    patch.setattr(torch.backends.mps, "is_available", lambda: kind == "mps")
    driver = torch.mps if kind == "mps" else torch.cuda
    for name in ("synchronize", "empty_cache"):
        patch.setattr(driver, name, lambda *_: None)
    if kind == "mps":
        patch.setattr(torch.mps, "recommended_max_memory", lambda: MEMORY)
        patch.setattr(torch.mps, "driver_allocated_memory", lambda: machine.allocated)
        return
    patch.setattr(torch.cuda, "_lazy_init", lambda: None)
    patch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    patch.setattr(torch.cuda, "mem_get_info", lambda *_: (MEMORY - machine.allocated, MEMORY))
    patch.setattr(torch.cuda, "memory_allocated", lambda *_: machine.allocated)
    patch.setattr(torch.cuda, "max_memory_allocated", lambda *_: machine.peak)
    patch.setattr(torch.cuda, "reset_peak_memory_stats", lambda *_: machine.reset())
    for name in ("Event", "Stream", "current_stream"):
        patch.setattr(torch.cuda, name, Event)
    patch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
