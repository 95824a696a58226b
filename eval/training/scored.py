"""The fixed captions for scoring the tiny checkpoints. They are excluded from training."""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np

from eval.training.captions import caption
from eval.training.clips import ATTRIBUTES, ClipSpec, sample_spec

FILE = "score_captions.json"
NUM_CAPTIONS = 60
HELD_OUT_EVERY = 5  # 12 of 60 captions have a colour-shape pair that is excluded from training
_CANDIDATES = 400


@functools.cache
def scored() -> tuple[tuple[str, ClipSpec], ...]:
    """The committed (caption, spec) pairs; every fifth has a held-out colour-shape pair."""
    rows = json.loads(Path(__file__).with_name(FILE).read_text(encoding="utf-8"))
    return tuple((row["caption"], ClipSpec(**row["spec"])) for row in rows)


@functools.cache
def _scored_attributes() -> frozenset[tuple[str, ...]]:
    return frozenset(spec.attributes for _, spec in scored())


def is_scored(spec: ClipSpec) -> bool:
    """Whether a scored caption has the same shape, colour, background, size and motion."""
    return spec.attributes in _scored_attributes()


def training_spec(rng: np.random.Generator) -> ClipSpec:
    """A random spec for training, without held-out colour-shape pairs and scored captions."""
    while is_scored(spec := sample_spec(rng)):
        pass
    return spec


def choose(seed: int = 0) -> Iterator[dict]:
    """Generate the rows of `score_captions.json`, with about equal frequencies of each attribute's values."""
    rng = np.random.default_rng(seed)
    counts: Counter[tuple[bool, str]] = Counter()
    taken: set[tuple[str, ...]] = set()
    for i in range(NUM_CAPTIONS):
        held_out = i % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
        candidates = [sample_spec(rng, held_out) for _ in range(_CANDIDATES)]
        fresh = [spec for spec in candidates if spec.attributes not in taken]
        spec = min(fresh, key=lambda spec: _crowding(spec, counts))
        taken.add(spec.attributes)
        counts.update((spec.is_held_out, value) for value in _values(spec))
        yield {"caption": caption(spec, rng), "spec": {name: asdict(spec)[name] for name in ATTRIBUTES}}


def _values(spec: ClipSpec) -> tuple[str, ...]:
    return (*spec.attributes, f"{spec.colour} {spec.shape}")


def _crowding(spec: ClipSpec, counts: Counter[tuple[bool, str]]) -> int:
    return sum(counts[spec.is_held_out, value] ** 2 for value in _values(spec))


def main() -> None:
    """Print a new `score_captions.json`."""
    rows = ",\n".join(f"  {json.dumps(row)}" for row in choose())
    print(f"[\n{rows}\n]")


if __name__ == "__main__":
    main()
