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
    """What a benchmark runs.

    rounds: number of turns of the compared callables. compile: also measure compiled blocks. models, sizes:
    names. kernels: "auto" (this package's) or "none", for published sizes. floor: also measure the floor of a
    step. tiny: use narrow models and small videos instead of published sizes.
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
        """Yield every model in every dtype."""
        for model in self.models:
            for dtype in DTYPES.values():
                yield Setting.small(model, dtype, self.device)

    @property
    def can_compile(self) -> bool:
        """Whether the compiler for the device is installed."""
        try:
            check_compiler(self.device)
        except ValueError:
            return False
        return True

    def needs_cuda(self, what: str) -> Row | None:
        """The row to report without a GPU; None with a GPU or if the plan is tiny."""
        if self.device.type == "cuda" or self.tiny:
            return None
        return {what: "needs CUDA; not run"}


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
