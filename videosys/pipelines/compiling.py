"""Transformers whose blocks are compiled (torch.compile), with what compiling took."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from types import FunctionType
from typing import Any, Literal, TypeVar, cast

import torch
from torch import nn

from videosys.cache.base import compute_branch

M = TypeVar("M", bound=nn.Module)
Compile = Literal["none", "blocks"]
CPU_COMPILERS = ("g++", "clang++", "c++", "cl")


@dataclass(frozen=True)
class CompileReport:
    """Compiling so far, in this process: seconds, graphs made, and places where a graph had to end early."""

    seconds: float
    graphs: int
    graph_breaks: int


def check_compiler(device: torch.device) -> None:
    """ValueError where nothing is at hand that could compile for the device."""
    if device.type == "cpu":
        wanted = os.environ.get("CXX")
        if not any(shutil.which(name) for name in ((wanted,) if wanted else CPU_COMPILERS)):
            raise ValueError(
                f"compile is 'blocks', and there is no C++ compiler ({wanted or ', '.join(CPU_COMPILERS)}): "
                "install one (on Debian: apt install g++), name it in CXX, or set compile to none"
            )
    elif find_spec("triton") is None:
        raise ValueError(
            "compile is 'blocks', and the package triton is missing: pip install triton, or set compile to "
            "none"
        )


def blocks(model: nn.Module) -> Iterator[nn.Module]:
    """The blocks of a transformer: the members of its lists."""
    for child in model.children():
        if isinstance(child, nn.ModuleList):
            yield from child


def check_kept(offload: str, device: torch.device) -> None:
    """ValueError where a compiled model would be forgotten after each use: on a CPU, stages are dropped."""
    if offload == "stage" and device.type == "cpu":
        raise ValueError(
            "compile is 'blocks', and offload is 'stage', which drops the model after each use on a CPU: it "
            "would be compiled each time; set offload to none, or compile to none"
        )


def compile_blocks(model: M) -> M:
    """The model itself, whose blocks run compiled from now on; compiling happens in the first steps.

    Blocks of one class share their graphs. Under a cache that keeps single branches (PAB) they run as they
    are: what such a cache decides changes from step to step and would be compiled anew each time.
    """
    kinds = {type(block) for block in blocks(model)}
    compiled = {kind: torch.compile(separate(cast(FunctionType, run_block)), dynamic=False) for kind in kinds}
    for block in blocks(model):
        block.forward = CompiledForward(block, compiled[type(block)])  # type: ignore[method-assign]
    return model


def separate(function: FunctionType) -> FunctionType:
    """The same function anew: of one function the compiler makes only a few graphs (sizes, models) and runs
    all others as they are.
    """
    return FunctionType(function.__code__.replace(), function.__globals__, function.__name__)


def run_block(block: nn.Module, *inputs: Any) -> torch.Tensor:
    return type(block).forward(block, *inputs, compute_branch)


class CompiledForward:
    """A block's forward: compiled where the cache keeps whole steps, as it is where it keeps branches."""

    def __init__(self, block: nn.Module, compiled: Callable[..., torch.Tensor]):
        self.block, self.compiled = block, compiled

    def __call__(self, *inputs: Any) -> torch.Tensor:
        *inputs, branch = inputs  # type: ignore[assignment]
        if branch is compute_branch:
            return self.compiled(self.block, *inputs)
        return type(self.block).forward(self.block, *inputs, branch)


def compile_report() -> CompileReport:
    """What compiling has taken in this process."""
    from torch._dynamo.utils import compilation_time_metrics, counters

    return CompileReport(
        seconds=sum(compilation_time_metrics.get("_compile.compile_inner", [])),
        graphs=counters["stats"]["unique_graphs"],
        graph_breaks=sum(counters["graph_break"].values()),
    )
