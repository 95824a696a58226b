"""Draws training clips with some motions or shapes more often: `--more spin=3`."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping

from eval.training.clips import ClipSpec
from videosys.tiny.words import PHRASES, SHAPES


def add_factors(parser: argparse.ArgumentParser) -> None:
    """Add the argument for factors of motions and shapes."""
    parser.add_argument(
        "--more",
        type=factor,
        nargs="+",
        default=[],
        metavar="NAME=FACTOR",
        help="how many times more often clips with this motion or shape are drawn, such as spin=4",
    )


def odds_of(spec: ClipSpec, factors: Mapping[str, float]) -> float:
    """How many times more often a clip is drawn. factors: of motions and shapes, 1 if missing."""
    return factors.get(spec.motion, 1.0) * factors.get(spec.shape, 1.0)


def factor(text: str) -> tuple[str, float]:
    """Parse an option like spin=4 into the name of a motion or shape, and a positive number."""
    name, _, value = text.partition("=")
    allowed = (*PHRASES, *SHAPES)
    if name not in allowed:
        raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(allowed)}")
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"the factor of {name} is {value!r}; it must be a positive number")
    return name, number
