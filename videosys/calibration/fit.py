"""The polynomial that turns a signal's change into the change of the model's output (paper, section 3.3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from videosys.cache.teacache import polynomial

DEGREES = (1, 2, 3, 4)
LEAST_EXPLAINED = 0.5  # share of the variance on held-out prompts below which a fit is poor
BEYOND = 2.0  # a polynomial must not be negative up to this multiple of the largest change seen
_SAMPLES = 401


@dataclass(frozen=True)
class Fit:
    """A polynomial from the change of a signal to the change of the output.

    coefficients: highest power first. r2, r2_held_out: share of the variance explained on the fitted and on
        the held-out prompts (None if there are none). domain: smallest and largest change seen. lowest:
        minimum of the polynomial from 0 to BEYOND times the largest change.
    """

    signal: str
    degree: int
    coefficients: tuple[float, ...]
    r2: float
    r2_held_out: float | None
    lowest: float
    domain: tuple[float, float]

    @property
    def score(self) -> float:
        """r2 on the held-out prompts, or on the fitted ones if none are held out."""
        return self.r2 if self.r2_held_out is None else self.r2_held_out

    def problem(self) -> str | None:
        """The reason not to use this polynomial, or None."""
        if not all(map(math.isfinite, self.coefficients)):
            return "is not finite"
        if self.lowest < 0:
            return f"falls to {self.lowest:.3g} for changes between 0 and {BEYOND * self.domain[1]:.3g}"
        return None

    def warning(self) -> str | None:
        """A warning about a usable but poor polynomial, or None."""
        return f"explains {self.score:.0%} of the variance" if self.score < LEAST_EXPLAINED else None


Rows = Sequence[Sequence[float]]  # one row per prompt, one number per step


def fit(signal: str, degree: int, changes: Rows, outputs: Rows, held_out: tuple[Rows, Rows] | None) -> Fit:
    """Fit a polynomial of this degree to all points (change of the signal, change of the output).

    Least squares. held_out: changes and outputs of the held-out prompts. ValueError for too few points.
    """
    x, y = _points(changes, outputs)
    if (count := different(changes, outputs)) <= degree:
        raise ValueError(f"{count} different changes of {signal} are too few for degree {degree}")
    scale = float(np.abs(x).max()) or 1.0  # x / scale keeps the powers in the same range
    solution, *_ = np.linalg.lstsq(np.vander(x / scale, degree + 1), y, rcond=None)
    coefficients = tuple((solution / scale ** np.arange(degree, -1, -1.0)).tolist())
    other = None if held_out is None else _explained(coefficients, *_points(*held_out))
    domain = (float(x.min()), float(x.max()))
    # Runs that skip steps see larger changes than full runs, and other prompts may have smaller ones.
    judged = np.linspace(0, BEYOND * domain[1], _SAMPLES).tolist()
    lowest = min(polynomial(coefficients, value) for value in judged)
    return Fit(signal, degree, coefficients, _explained(coefficients, x, y), other, lowest, domain)


def different(changes: Rows, outputs: Rows) -> int:
    """The number of different changes of a signal for which the change of the output is known."""
    return len(np.unique(_points(changes, outputs)[0]))


def correlation(changes: Rows, outputs: Rows) -> float:
    """Pearson correlation of the changes of a signal and of the output over all steps of all prompts."""
    x, y = _points(changes, outputs)
    if not x.size:
        return math.nan
    x, y = x - x.mean(), y - y.mean()
    spread = math.sqrt((x @ x) * (y @ y))
    return float(x @ y / spread) if spread else math.nan


def best_of(fits: Sequence[Fit]) -> Fit | None:
    """The fit that explains the most variance among those without a problem; None if all have one."""
    return max((item for item in fits if item.problem() is None), key=lambda item: item.score, default=None)


def _points(changes: Rows, outputs: Rows) -> tuple[np.ndarray, np.ndarray]:
    x, y = (np.concatenate([np.asarray(row, float) for row in rows]) for rows in (changes, outputs))
    seen = np.isfinite(x) & np.isfinite(y)
    return x[seen], y[seen]


def _explained(coefficients: Sequence[float], x: np.ndarray, y: np.ndarray) -> float:
    """R^2, the share of the variance explained; negative if the mean is a better predictor."""
    error = y - np.polyval(coefficients, x)
    spread = y - y.mean()
    return float(1 - (error @ error) / (spread @ spread)) if spread @ spread else float("nan")
