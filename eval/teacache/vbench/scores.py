"""VBench's dimensions, and the quality, semantic and total score computed from their results."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from toolbox import read_json

CONSTANTS = Path(__file__).resolve().parent / "constants.json"
SUFFIX = "_eval_results.json"
DIGITS = 4  # results are first rounded, as in the public script


def constants() -> dict[str, Any]:
    return read_json(CONSTANTS)


def dimensions() -> list[str]:
    """VBench's sixteen dimensions, with underscores as in its files."""
    return [name.replace(" ", "_") for name in constants()["dimensions"]]


def read_scores(folder: Path) -> dict[str, float]:
    """The result of each dimension in a folder, 0 to 1. ValueError for invalid or duplicate results."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    files = sorted(folder.glob(f"*{SUFFIX}"))
    if not files:
        raise ValueError(f"{folder}: contains no *{SUFFIX}; run run_vbench.py to create them")
    found: dict[str, tuple[float, Path]] = {}
    for path in files:
        for name, score in results(path).items():
            if name in found:
                raise ValueError(f"{name} is in both {found[name][1]} and {path}")
            found[name] = score, path
    return {name: score for name, (score, _) in found.items()}


def results(path: Path) -> dict[str, float]:
    """The dimensions of one file. A result is a number, or a list that starts with one."""
    content = read_json(path)
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path}: must contain the results of dimensions by name")
    return {_name(name, path): _score(name, value, path) for name, value in content.items()}


def _name(name: str, path: Path) -> str:
    plain = name.replace(" ", "_")
    if plain not in dimensions():
        raise ValueError(f"{path}: {name!r} is not a dimension of VBench; allowed: {', '.join(dimensions())}")
    return plain


def _score(name: str, value: Any, path: Path) -> float:
    number = value[0] if isinstance(value, list) and value else value
    is_number = isinstance(number, (int, float)) and not isinstance(number, bool)
    if not is_number or not 0 <= round(number, DIGITS) <= 1:  # a mean of cosines may be slightly above 1
        raise ValueError(f"{path}: {name} is {number!r}; it must be a number from 0 to 1")
    return float(number)


def missing(found: Iterable[str]) -> list[str]:
    given = {*found}
    return [name for name in dimensions() if name not in given]


def totals(raw: Mapping[str, float]) -> dict[str, Any]:
    """Quality, semantic and total in percent, with the scaled dimensions.

    Each result is scaled to (x - least) / (most - least). Quality and semantic are the weighted means of
    their dimensions, and total is the weighted mean of both. A mean without dimensions is None, and so is the
    total.
    """
    given = constants()
    scaled = {name: _scaled(round(value, DIGITS), name, given) for name, value in raw.items()}
    quality, semantic = (
        _mean(scaled, given[f"{part}_dimensions"], given["weight"]) for part in ("quality", "semantic")
    )
    total = None
    if quality is not None and semantic is not None:
        weights = given["quality_weight"], given["semantic_weight"]
        total = (quality * weights[0] + semantic * weights[1]) / sum(weights)
    percent = {name: 100 * value for name, value in scaled.items()}
    means = {"quality": quality, "semantic": semantic, "total": total}
    return {
        **{name: None if value is None else 100 * value for name, value in means.items()},
        "scaled": percent,
        "raw": dict(raw),
        "missing": missing(raw),
    }


def _scaled(value: float, name: str, given: Mapping[str, Any]) -> float:
    least, most = given["normalise_min_max"][name.replace("_", " ")]
    return (value - least) / (most - least)


def _mean(scaled: Mapping[str, float], names: Iterable[str], weights: Mapping[str, float]) -> float | None:
    pairs = [(scaled[key], weights[name]) for name in names if (key := name.replace(" ", "_")) in scaled]
    if not pairs:
        return None
    return math.fsum(value * weight for value, weight in pairs) / math.fsum(weight for _, weight in pairs)
