"""The plan of a benchmark, and its results as rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch

from eval.performance.models import Setting, models
from videosys import check_compiler

Row = dict[str, Any]  # a line of a table
DTYPES = MappingProxyType({"float32": torch.float32, "bfloat16": torch.bfloat16})
NO_COMPILER = "no compiler"


@dataclass(frozen=True)
class Plan:
    """Where it runs, how often all that is compared takes turns, which models and published sizes, whether
    blocks are compiled too, whether published sizes use this package's kernels (auto) or none, whether the
    floor of a step is measured beside it, and whether narrow models and small videos stand for the published.
    """

    device: torch.device = torch.device("cpu")  # noqa: RUF009 (it never changes)
    rounds: int = 5
    compile: bool = True
    models: tuple[str, ...] = field(default_factory=lambda: tuple(models()))
    sizes: tuple[str, ...] = ()
    kernels: str = "auto"
    floor: bool = True
    tiny: bool = False

    def settings(self) -> Iterator[Setting]:
        """Every model in every dtype."""
        for model in self.models:
            for dtype in DTYPES.values():
                yield Setting.small(model, dtype, self.device)

    @property
    def can_compile(self) -> bool:
        """Whether the compiler is here that the device needs."""
        try:
            check_compiler(self.device)
        except ValueError:
            return False
        return True

    def needs_cuda(self, what: str) -> Row | None:
        """The result without a GPU, unless it is tiny."""
        if self.device.type == "cuda" or self.tiny:
            return None
        return {what: "needs CUDA; not run"}


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
