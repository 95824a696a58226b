"""GPUs by name, with the peak values of their data sheets."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from toolbox import read_json

CARDS = Path(__file__).resolve().parent / "gpus.json"
DEFAULT = "H200"
# Shares of the peaks that large matrix products and copies reach; assumed equal for all GPUs.
PRODUCTS, COPIES = 0.8, 0.9


@dataclass(frozen=True)
class Gpu:
    """Peak values of a GPU: bfloat16 FLOP/s of matrix products, and memory bandwidth in bytes/s."""

    name: str
    peak_flops: float
    peak_bandwidth: float
    source: str = "as given"

    @property
    def flops(self) -> float:
        """FLOPs per second that large products reach."""
        return PRODUCTS * self.peak_flops

    @property
    def bandwidth(self) -> float:
        """Bytes per second that large copies reach."""
        return COPIES * self.peak_bandwidth


def known() -> dict[str, Gpu]:
    """The GPUs of the table."""
    return {
        name: Gpu(name, card["tflops"] * 1e12, card["bandwidth"] * 1e12, card["source"])
        for name, card in read_json(CARDS).items()
        if name != "note"
    }


def find(text: str) -> Gpu:
    """The GPU of a name, or of NAME=TFLOPS,TBS with peaks in TFLOP/s (bfloat16, without sparsity) and TB/s.

    ValueError for an unknown name; it lists the known ones.
    """
    name, equals, numbers = text.partition("=")
    cards = known()
    if equals:
        return Gpu(name.strip(), *(number * 1e12 for number in peaks(text, numbers)))
    card = next((value for key, value in cards.items() if key.lower() == name.strip().lower()), None)
    if card is None:
        raise ValueError(
            f"--gpu {text!r} is unknown; allowed: {', '.join(cards)}, or NAME=TFLOPS,TBS with the peak "
            "values of another GPU (bfloat16 without sparsity, memory bandwidth), such as A800=312,2.039"
        )
    return card


def peaks(text: str, numbers: str) -> tuple[float, float]:
    try:
        flops, bandwidth = (float(number) for number in numbers.split(","))
    except ValueError:
        flops = bandwidth = math.nan
    if not (0 < flops < math.inf and 0 < bandwidth < math.inf and text.partition("=")[0].strip()):
        raise ValueError(
            f"--gpu {text!r} must be NAME=TFLOPS,TBS, with two numbers above 0, such as A800=312,2.039"
        )
    return flops, bandwidth
