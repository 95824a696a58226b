"""FLOPs of a whole generation, counted while it runs: for caches that skip parts of a step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from toolbox import read_json, write_json
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop

from experiments import manifest, methods

NAME = "flops.json"


def read(root: Path) -> dict[str, int]:
    """FLOPs by method, of those that were counted."""
    path = root / NAME
    return read_json(path) if path.is_file() else {}


def note(engine: Any, jobs: Sequence[Any], root: Path) -> None:
    """Counts one generation of every method that keeps branches of blocks, and one of the base, and writes
    them down. The first prompt and seed stand for all: what is computed depends on the step alone.
    """
    known, missing = read(root), lacking(jobs, root)
    if not missing:
        return
    base = methods.Method(methods.BASE, {"cache": "none"})
    for name, method in {methods.BASE: base, **missing}.items():
        known[name] = generation(engine, jobs[0].prompt, jobs[0].seed, method.request)
    write_json(root / NAME, known)


def lacking(jobs: Sequence[Any], root: Path) -> dict[str, Any]:
    """The methods of the jobs that keep branches of blocks and were not counted, by name."""
    known, chosen = read(root), {job.method.name: job.method for job in jobs}
    return {
        name: method for name, method in chosen.items() if name not in known and keeps_branches(root / name)
    }


def keeps_branches(folder: Path) -> bool:
    return any(record.get("reused_branches") for record in manifest.read(folder).values())


def generation(engine: Any, prompt: str, seed: int, request: Mapping[str, Any]) -> int:
    """FLOPs of all parts: text encoder, transformer and autoencoder."""
    with FlopCounterMode(display=False, custom_mapping=fused()) as counter:
        engine.generate(prompt, seed=seed, **request)
    return int(counter.get_total_flops())


def fused() -> dict[Any, Any]:
    """How to count the CPU's own operators, which torch's counter leaves out."""
    places = {
        (torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu"): attention,
        (torch.ops.mkldnn, "_linear_pointwise"): linear,
    }
    return {getattr(space, name): flops for (space, name), flops in places.items() if hasattr(space, name)}


def attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop(query, key, value)


def linear(x: Any, weight: Any, other: Any = None, *_: Any, **__: Any) -> int:
    """Of shapes; another tensor to add or multiply with may stand before the weight [out, in]."""
    rows = other if isinstance(other, Sequence) and len(other) == 2 else weight
    return 2 * math.prod(x) * rows[0]
