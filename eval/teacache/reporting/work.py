"""The published sizes, and a lower bound for the time of a generation on a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolbox import read_json

from reporting.gpus import Gpu
from videosys import FAMILIES, Blueprint, TransformerWork, blueprint

SIZES = Path(__file__).resolve().parents[2] / "sizes.json"
BYTES = 2  # per bfloat16
REUSED_PASSES = 10  # approximate number of reads and writes of all tokens in a skipped step


@dataclass(frozen=True)
class Setting:
    """A published size: the config of a generation."""

    title: str
    config: Any

    @property
    def study(self) -> str:
        """The model's name in the paper's tables and in folders of samples."""
        return self.config.model_name

    @property
    def plan(self) -> Blueprint:
        """The parts of the published checkpoint, without weights."""
        return blueprint(self.config)


def titled() -> tuple[Setting, ...]:
    """The sizes that have a title."""
    rows = [row for row in read_json(SIZES).values() if "title" in row]
    return tuple(Setting(row["title"], FAMILIES[row["family"]].config(**row["settings"])) for row in rows)


SETTINGS = titled()


def seconds(work: TransformerWork, computed: float, evaluations: int, gpu: Gpu, fused: bool) -> float:
    """A lower bound of the loop's time: matrix products at the GPU's rate, other work at its bandwidth."""
    crossing = work.tokens * work.width * BYTES / gpu.bandwidth
    passes = work.layers * work.passes[1 if fused else 0]
    moved = crossing * (computed * passes + (evaluations - computed) * REUSED_PASSES)
    return work.total(computed, evaluations) / gpu.flops + moved
