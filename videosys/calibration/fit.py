"""The polynomial that turns a signal's change into the change of the model's output (paper, section 3.3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from videosys.cache.teacache import polynomial

DEGREES = (1, 2, 3, 4)
LEAST_EXPLAINED = 0.5  # of the variance on held-out prompts, below which a fit is not worth much
BEYOND = 2.0  # times the largest change seen, up to where a polynomial must not be negative
_SAMPLES = 401


@dataclass(frozen=True)
class Fit:
    """A polynomial from the change of a signal to the change of the output.

    coefficients: highest power first. r2, r2_held_out: share of the variance that it explains on the prompts
        it was fitted to and on others (None without others). domain: the least and the largest change seen.
        lowest: its least value from 0 to BEYOND times the largest.
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
        """r2 on held-out prompts, or on its own where there are no others."""
        return self.r2 if self.r2_held_out is None else self.r2_held_out

    def problem(self) -> str | None:
        """The reason not to use this polynomial, or None."""
        if not all(map(math.isfinite, self.coefficients)):
            return "is not finite"
        if self.lowest < 0:
            return f"dips to {self.lowest:.3g} between the changes 0 and {BEYOND * self.domain[1]:.3g}"
        return None

    def warning(self) -> str | None:
        """A remark about a polynomial that is used."""
        return f"explains {self.score:.0%} of the variance" if self.score < LEAST_EXPLAINED else None


Rows = Sequence[Sequence[float]]  # one row per prompt, one number per step


def fit(signal: str, degree: int, changes: Rows, outputs: Rows, held_out: tuple[Rows, Rows] | None) -> Fit:
    """The least-squares polynomial of a degree through all (change of the signal, change of the output).

    held_out: the same two for prompts that the fit does not see. ValueError for too few points.
    """
    x, y = _points(changes, outputs)
    if len(np.unique(x)) <= degree:
        raise ValueError(f"{len(np.unique(x))} different changes of {signal} are too few for degree {degree}")
    scale = float(np.abs(x).max()) or 1.0  # in x / scale the powers are of one size
    solution, *_ = np.linalg.lstsq(np.vander(x / scale, degree + 1), y, rcond=None)
    coefficients = tuple((solution / scale ** np.arange(degree, -1, -1.0)).tolist())
    other = None if held_out is None else _explained(coefficients, *_points(*held_out))
    domain = (float(x.min()), float(x.max()))
    # Runs that skip see larger changes than full runs, and other prompts smaller ones.
    judged = np.linspace(0, BEYOND * domain[1], _SAMPLES).tolist()
    lowest = min(polynomial(coefficients, value) for value in judged)
    return Fit(signal, degree, coefficients, _explained(coefficients, x, y), other, lowest, domain)


def correlation(changes: Rows, outputs: Rows) -> float:
    """Pearson's, between the changes of a signal and of the output over all steps of all prompts."""
    x, y = _points(changes, outputs)
    x, y = x - x.mean(), y - y.mean()
    spread = math.sqrt((x @ x) * (y @ y))
    return float(x @ y / spread) if spread else math.nan


def best_of(fits: Sequence[Fit]) -> Fit | None:
    """The fit without a problem that explains most; None if all have problems."""
    return max((item for item in fits if item.problem() is None), key=lambda item: item.score, default=None)


def _points(changes: Rows, outputs: Rows) -> tuple[np.ndarray, np.ndarray]:
    x, y = (np.concatenate([np.asarray(row, float) for row in rows]) for rows in (changes, outputs))
    seen = np.isfinite(x) & np.isfinite(y)
    return x[seen], y[seen]


def _explained(coefficients: Sequence[float], x: np.ndarray, y: np.ndarray) -> float:
    """R^2, the share of the variance explained; below 0 where the mean would do better."""
    error = y - np.polyval(coefficients, x)
    spread = y - y.mean()
    return float(1 - (error @ error) / (spread @ spread)) if spread @ spread else float("nan")
