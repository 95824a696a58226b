"""Compiles transformer blocks and decoders (torch.compile), and reports the cost of compilation."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from types import FunctionType, MappingProxyType
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor, nn

from videosys.cache.base import compute_branch
from videosys.layers.attention import TextKV
from videosys.utils.devices import shares_memory
from videosys.utils.triton import COMPILERS

M = TypeVar("M", bound=nn.Module)
Compile = Literal["none", "blocks", "decoder", "all"]
BlockForward = Callable[..., Tensor]
Shapes = tuple[tuple[int, ...], ...]
GraphKey = tuple[Shapes, tuple[tuple[int, int], ...]]
CPU_COMPILERS = ("g++", "clang++", "c++", "cl")
# Not all generated kernels handle the padded strides of large buffers (torch 2.11): a kernel that rotates the
# queries of 2 x 15 x 1590 tokens reads outside its buffer.
OPTIONS: Mapping[str, bool] = MappingProxyType({"comprehensive_padding": False})


@dataclass(frozen=True)
class CompileReport:
    """The compilation in this process so far: seconds, graphs and graph breaks."""

    seconds: float
    graphs: int
    graph_breaks: int

    def __str__(self) -> str:
        return f"compiled {self.graphs} graphs in {self.seconds:.1f} s, {self.graph_breaks} graph breaks"


def compiles_blocks(setting: Compile) -> bool:
    """Whether the transformer's blocks are compiled."""
    return setting in ("blocks", "all")


def compiles_decoder(setting: Compile) -> bool:
    """Whether the autoencoder's decoder is compiled."""
    return setting in ("decoder", "all")


def check_compiler(device: torch.device, setting: Compile = "blocks") -> None:
    """ValueError if no compiler for the device is available. setting: value of `compile`, for the error."""
    if device.type == "mps":
        raise ValueError(f"compile is {setting!r}, which needs a CPU or a CUDA device; on mps set it to none")
    if device.type == "cpu":
        check_program(setting, "C++", "CXX", CPU_COMPILERS)
    elif find_spec("triton") is None:
        raise ValueError(
            f"compile is {setting!r}, and the package triton is missing: pip install triton, or set compile "
            "to none"
        )
    else:
        check_program(setting, "C", "CC", COMPILERS)


def check_program(setting: Compile, language: str, variable: str, names: Sequence[str]) -> None:
    """ValueError if neither the compiler in an environment variable nor one of `names` is available."""
    program = os.environ.get(variable)
    if not any(shutil.which(name) for name in ((program,) if program else names)):
        raise ValueError(
            f"compile is {setting!r}, but no {language} compiler ({program or ', '.join(names)}) was found: "
            f"install one (on Debian: apt install {names[0]}), set {variable}, or set compile to none"
        )


def blocks(model: nn.Module) -> Iterator[nn.Module]:
    """The blocks of a transformer: the members of its module lists."""
    for child in model.children():
        if isinstance(child, nn.ModuleList):
            yield from child


def check_compile_offload(offload: str, device: torch.device, setting: Compile = "blocks") -> None:
    """ValueError if a compiled model would be dropped after each use, as with offload stage on a CPU."""
    if offload == "stage" and shares_memory(device):
        raise ValueError(
            f"compile is {setting!r}, but offload 'stage' drops the model after each use on a {device.type}, "
            "so it would be compiled each time; set offload to none, or compile to none"
        )


def compile_blocks(model: M) -> M:
    """Compile the blocks of the model and return the model. Compilation happens in the first steps.

    Blocks of one class share their graphs, for texts of any length. With a cache that reuses single branches
    (PAB) they run uncompiled, because its decisions change between steps and would cause recompilation.
    """
    compiled = {type(block): functools.cache(compiled_for) for block in blocks(model)}
    for block in blocks(model):
        block.forward = CompiledForward(block, compiled[type(block)])  # type: ignore[method-assign]
    return model


def compiled_for(key: GraphKey) -> BlockForward:
    """A compiled block for inputs of one GraphKey, with separate graphs, because torch limits the number of
    graphs per function and runs further variants uncompiled.
    """
    return torch.compile(copy_function(cast(FunctionType, run_block)), dynamic=False, options={**OPTIONS})


def copy_function(function: FunctionType) -> FunctionType:
    """A copy of a function. The compiler treats it as a different function."""
    return FunctionType(function.__code__.replace(), function.__globals__, function.__name__)


def run_block(block: nn.Module, *inputs: Any) -> Tensor:
    """The function to compile: a block's output without reuse."""
    return type(block).forward(block, *inputs, compute_branch)


class CompiledForward:
    """A block's forward: compiled if the cache keeps whole steps, uncompiled if it keeps branches."""

    def __init__(self, block: nn.Module, compiled: Callable[[GraphKey], BlockForward]):
        self.block, self.compiled = block, compiled

    def __call__(self, *inputs: Any) -> Tensor:
        *inputs, branch = inputs  # type: ignore[assignment]
        if branch is compute_branch:
            texts = list(text_kvs(inputs))
            mark_lengths_dynamic(texts)
            return self.compiled(graph_key(inputs, texts))(self.block, *inputs)
        return type(self.block).forward(self.block, *inputs, branch)


def compile_decoders(model: M) -> M:
    """Compile the decoders of an autoencoder, with one graph per input size; return the autoencoder.
    ValueError if it does not define `decoders`.
    """
    decoders = getattr(model, "decoders", ())
    if not decoders:
        raise ValueError(
            f"compile: {type(model).__name__} defines no decoders; set compile to none or blocks"
        )
    for decoder in decoders:
        decoder.forward = CompiledDecoder(decoder)
    return model


def run_module(module: nn.Module, *inputs: Any, **options: Any) -> Tensor:
    """The function to compile for a decoder: a module's output."""
    return type(module).forward(module, *inputs, **options)


class CompiledDecoder:
    """A decoder's forward, compiled separately for each input size."""

    def __init__(self, module: nn.Module):
        self.module, self.compiled = module, functools.cache(self.compiled_for)

    @staticmethod
    def compiled_for(shapes: Shapes) -> BlockForward:
        """A compiled forward for inputs of these shapes, with separate graphs."""
        return torch.compile(
            copy_function(cast(FunctionType, run_module)), dynamic=False, options={**OPTIONS}
        )

    def __call__(self, *inputs: Any, **options: Any) -> Tensor:
        return self.compiled(shapes_of((*inputs, *options.values())))(self.module, *inputs, **options)


def shapes_of(inputs: Iterable[Any]) -> Shapes:
    """The shapes of the tensors among the inputs."""
    return tuple(tuple(item.shape) for item in inputs if isinstance(item, Tensor))


def text_kvs(inputs: Iterable[Any]) -> Iterator[TextKV]:
    """The texts among a block's inputs, which are in sequences."""
    for item in inputs:
        if isinstance(item, tuple):
            yield from (part for part in item if isinstance(part, TextKV))


def mark_lengths_dynamic(texts: Iterable[TextKV]) -> None:
    """Mark the text length as dynamic for the compiler. The mark stays on the tensors."""
    from torch._dynamo import maybe_mark_dynamic  # takes seconds to import

    for text in texts:
        maybe_mark_dynamic(text.k, 2)
        maybe_mark_dynamic(text.v, 2)
        if text.bias is not None:
            maybe_mark_dynamic(text.bias, 3)


def graph_key(inputs: Iterable[Any], texts: Iterable[TextKV]) -> GraphKey:
    """The key of a graph: the shapes of all tensors except texts, and which samples share a length."""
    return shapes_of(inputs), tuple((text.rows.start, text.rows.stop) for text in texts)


def compile_report() -> CompileReport | None:
    """The cost of compilation in this process; None if this version of torch does not record it."""
    try:
        from torch._dynamo.utils import compilation_time_metrics, counters
    except ImportError:  # torch has no public name for them
        return None
    return CompileReport(
        seconds=sum(compilation_time_metrics.get("_compile.compile_inner", [])),
        graphs=counters["stats"]["unique_graphs"],
        graph_breaks=sum(counters["graph_break"].values()),
    )
