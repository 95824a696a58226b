"""A context in which global settings of torch do not change results. They are restored afterwards.

Results are defined for torch's default settings. Modes that only count or measure (torch's
FlopCounterMode, its profiler) stay active.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar, cast

import torch
from torch.utils import _python_dispatch as dispatch

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

END = object()
AUTOCAST = ("cpu", "cuda", "mps")
COUNTERS = "torch.utils.flop_counter"  # module of dispatch modes that do not affect results
EXACT = ("none", "ieee")  # values of a float32 precision that do not round


@dataclass(frozen=True)
class Setting:
    """A global setting of torch. neutral: values that do not change results; the first one is set."""

    get: Callable[..., Any]
    set: Callable[..., object]
    neutral: tuple[Any, ...]

    def deviation(self) -> Any | None:
        """The value if it could change a result, else None."""
        try:
            value = self.get()
        except RuntimeError:  # torch has two interfaces for precisions, and refuses to read a mixture
            return None
        return None if value in self.neutral else value


def default_device() -> torch.device:
    """torch's default device. torch 2.6 fails to read one that was reset to None."""
    with contextlib.suppress(AttributeError):
        return torch.get_default_device()
    return torch.device("cpu")


def deterministic() -> tuple[bool, bool]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )


def use_deterministic(modes: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(modes[0], warn_only=modes[1])


def low_level(get: str, set_: str, *neutral: Any) -> list[Setting]:
    """A setting behind two functions of torch._C; an empty list if this version of torch lacks it.

    The public functions fail if a program has frozen these settings, and they warn.
    """
    core: Any = torch._C
    if not (hasattr(core, get) and hasattr(core, set_)):
        return []
    return [Setting(getattr(core, get), getattr(core, set_), neutral)]


def precision(backend: str, operation: str, *neutral: str) -> list[Setting]:
    """A float32 precision as torch 2.9 and later name them."""
    getters = low_level("_get_fp32_precision_getter", "_set_fp32_precision_setter", *neutral)
    return [
        Setting(
            functools.partial(item.get, backend, operation),
            functools.partial(item.set, backend, operation),
            neutral,
        )
        for item in getters
    ]


SETTINGS = (
    Setting(torch.get_default_dtype, torch.set_default_dtype, (torch.float32,)),
    Setting(deterministic, use_deterministic, ((False, False), (False, True))),
    Setting(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, ("highest",)),
    *precision("generic", "all", *EXACT),
    *precision("mkldnn", "all", *EXACT),
    *precision("mkldnn", "matmul", *EXACT),
    *precision("mkldnn", "conv", *EXACT),
    *precision("cuda", "all", *EXACT),
    *precision("cuda", "matmul", *EXACT),
    *precision("cuda", "conv", "tf32"),
    *low_level("_get_mkldnn_enabled", "_set_mkldnn_enabled", True),
    *low_level("_get_mkldnn_deterministic", "_set_mkldnn_deterministic", False),
    *low_level("_get_nnpack_enabled", "_set_nnpack_enabled", True),
    *low_level("_get_cudnn_enabled", "_set_cudnn_enabled", True),
    *low_level("_get_cudnn_benchmark", "_set_cudnn_benchmark", False),
    *low_level("_get_cudnn_deterministic", "_set_cudnn_deterministic", False),
    *low_level("_get_flash_sdp_enabled", "_set_sdp_use_flash", True),
    *low_level("_get_mem_efficient_sdp_enabled", "_set_sdp_use_mem_efficient", True),
    *low_level("_get_math_sdp_enabled", "_set_sdp_use_math", True),
    *low_level("_get_cudnn_sdp_enabled", "_set_sdp_use_cudnn", True),
    *low_level("_get_math_sdp_allow_fp16_bf16_reduction", "_set_math_sdp_allow_fp16_bf16_reduction", False),
    *low_level("_get_cublas_allow_fp16_accumulation", "_set_cublas_allow_fp16_accumulation", False),
    *low_level(
        "_get_cpu_allow_fp16_reduced_precision_reduction",
        "_set_cpu_allow_fp16_reduced_precision_reduction",
        False,
    ),
)


class ProcessSettings:
    """The settings of the process. They are neutral while any thread is in a settled context: the first
    thread sets them, and the last one restores those that nobody else has changed. lock: held by whoever
    changes one for a moment. It is reentrant, because the garbage collector may end a settled generator in
    the thread that holds it.
    """

    def __init__(self) -> None:
        self.lock, self._users = threading.RLock(), 0
        self._found: dict[Setting, Any] = {}

    @contextlib.contextmanager
    def settled(self) -> Iterator[None]:
        with self.lock:
            self._users += 1
            for setting in SETTINGS:
                value = setting.deviation()
                if value is not None:
                    self._found[setting] = value
                    setting.set(setting.neutral[0])
        try:
            yield
        finally:
            with self.lock:
                self._users -= 1
                if self._users == 0:
                    self._restore()

    def _restore(self) -> None:
        while self._found:
            setting, value = self._found.popitem()  # the last one first
            if setting.deviation() is None:
                setting.set(value)


PROCESS = ProcessSettings()


class ThreadContexts(threading.local):
    """The settled contexts that a thread is in, outermost first."""

    def __init__(self) -> None:
        self.stacks: list[contextlib.ExitStack] = []


THREAD = ThreadContexts()


@contextlib.contextmanager
def settled() -> Iterator[None]:
    """A context in which torch computes on the CPU in float32 by default, in full precision,
    without gradients, autocast and modes, regardless of the caller's settings.
    """
    stack = contextlib.ExitStack()
    enter(stack)
    THREAD.stacks.append(stack)
    try:
        yield
    finally:
        THREAD.stacks.pop().close()


def enter(stack: contextlib.ExitStack) -> None:
    """Set neutral values, which the stack restores when it is closed."""
    stack.enter_context(PROCESS.settled())
    stack.enter_context(without_function_modes())
    stack.enter_context(without_dispatch_modes())
    if default_device().type != "cpu":
        stack.enter_context(torch.device("cpu"))
    for kind in AUTOCAST:
        if torch.is_autocast_enabled(kind):
            stack.enter_context(torch.autocast(kind, enabled=False))
    stack.enter_context(torch.inference_mode(False))
    stack.enter_context(torch.no_grad())
    stack.enter_context(with_denormals())


@contextlib.contextmanager
def unsettled() -> Iterator[None]:
    """Within settled contexts, a context for a function of the caller: it sees the caller's settings, and
    its changes apply to the caller.
    """
    for stack in reversed(THREAD.stacks):
        stack.close()
    try:
        yield
    finally:
        for stack in THREAD.stacks:
            enter(stack)


def settle(function: Callable[P, R]) -> Callable[P, R]:
    """The function, run in a settled context; a generator function is in it while it computes an item."""
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def in_pieces(*args: P.args, **kwargs: P.kwargs) -> Any:
            return settled_steps(cast(Any, function(*args, **kwargs)))

        return in_pieces

    @functools.wraps(function)
    def whole(*args: P.args, **kwargs: P.kwargs) -> R:
        with settled():
            return function(*args, **kwargs)

    return whole


def settled_steps(items: Iterator[T]) -> Iterator[T]:
    """The items, each computed in a settled context, which ends before the caller gets the item."""
    try:
        while True:
            with settled():
                item = next(items, END)
            if item is END:
                return
            yield cast(T, item)
            del item  # not kept here while the next one is computed
    finally:
        with settled():
            getattr(items, "close", lambda: None)()


@contextlib.contextmanager
def without_function_modes() -> Iterator[None]:
    """Disable the caller's TorchFunctionModes, such as the default device."""
    from torch.overrides import _len_torch_function_stack, _pop_mode, _push_mode

    modes = [_pop_mode() for _ in range(_len_torch_function_stack())]
    try:
        yield
    finally:
        for mode in reversed(modes):
            _push_mode(mode)


@contextlib.contextmanager
def without_dispatch_modes() -> Iterator[None]:
    """Disable the caller's TorchDispatchModes except those that count."""
    with dispatch._disable_current_modes() as modes:
        counters = [mode for mode in reversed(modes) if type(mode).__module__ == COUNTERS]
        for mode in counters:
            dispatch._push_mode(mode)
        try:
            yield
        finally:
            for _ in counters:
                dispatch._pop_mode()


@contextlib.contextmanager
def with_denormals() -> Iterator[None]:
    """Keep denormal float32 numbers in this thread; do not flush them to zero."""
    smallest = sys.float_info.min
    are_flushed = smallest / 2 == 0  # a processor flag that torch cannot read
    if not are_flushed:
        yield
        return
    torch.set_flush_denormal(False)
    try:
        yield
    finally:
        torch.set_flush_denormal(True)
