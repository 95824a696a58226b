"""Options of calibration commands: step budgets, and the split into calibration and held-out prompts."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from videosys.utils.prompts import read_prompts

SHARES = (0.2, 0.25, 1 / 3, 0.4, 0.5, 0.6, 2 / 3, 0.8)  # of all steps
FEW_SHARES = (0.2, 1 / 3, 0.5, 2 / 3, 0.8)  # without a search
T = TypeVar("T")


def split(prompts: Sequence[T], held_out: int | None) -> tuple[Sequence[T], Sequence[T]]:
    """Split into (calibration prompts, held-out prompts)."""
    count = max(len(prompts) // 3, 1) if held_out is None else held_out
    if not 0 <= count < len(prompts):
        text = f"there are {len(prompts)} prompts and {count} would be held out"
        raise ValueError(f"{text}; at least one must be left")
    return prompts[: len(prompts) - count], prompts[len(prompts) - count :]


def budgets(wanted: Sequence[int] | None, steps: int, shares: Sequence[float] = SHARES) -> list[int]:
    """The numbers of computed steps to search schedules for; by default these shares of all steps."""
    numbers = sorted(set(wanted or (max(round(share * steps), 2) for share in shares)))
    if not 2 <= numbers[0] <= numbers[-1] < steps:
        raise ValueError(f"--budgets are {numbers}; they must be 2 to {steps - 1}, of {steps} steps")
    return numbers


def numbers(text: str) -> list[int]:
    """Parse whole numbers separated by commas."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a list of whole numbers, such as 10,15,20"
        ) from None


def listed(path: Path) -> Sequence[str]:
    """Read the prompts of a file. A ValueError names the option."""
    try:
        return read_prompts(path).prompts
    except ValueError as error:
        raise ValueError(f"--prompts {error}") from error
