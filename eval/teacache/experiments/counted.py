"""Records the data with which a report counts the work of videos: the transformer, tokens per prompt, and,
for caches that skip parts of a step, the measured FLOPs of whole generations.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from toolbox import read_json, write_json
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop

from experiments import manifest

NAME = "flops.json"


def transformer(pipeline: Any, config: Any) -> dict[str, Any]:
    """A description of a run's transformer as JSON data, sufficient to count its work without weights."""
    shape = pipeline.parts.transformer.config
    return {
        "family": pipeline.family.name,
        "kind": type(shape).__name__,
        "config": dataclasses.asdict(shape),
        "latents": list(pipeline.latent_size(config)),
        "batch": 2 if config.is_guided else 1,
        "temporal": getattr(config, "enable_temporal_attentions", True),
    }


def text_tokens(pipeline: Any, prompt: str, config: Any) -> int:
    """Number of text tokens that the transformer reads for a prompt, with padding only if it is attended."""
    texts = pipeline.encode_texts([prompt], config, quiet=True)
    if config.negative_text is None:  # with several clips, the longest text
        return max(int(mask.sum()) for _, mask in texts.values())
    negative = texts[config.negative_text] if config.is_guided else None
    embeds, mask = pipeline.family.guidance_pair(
        None, [texts[config.prompt_texts(prompt)[0]]], negative, config
    )
    return embeds.shape[1] if mask is None else int(mask.any(dim=0).sum())


def read(root: Path) -> dict[str, dict[str, Any]]:
    """The counts by method: FLOPs of a generation with it (`flops`) and of one that computes everything
    (`base`) for the same prompt. Counts in the format of older versions are ignored.
    """
    path = root / NAME
    content = read_json(path) if path.is_file() else {}
    return {name: counts for name, counts in content.items() if isinstance(counts, dict)}


def note(engine: Any, jobs: Sequence[Any], root: Path) -> None:
    """Count the FLOPs of one generation per method that caches branches of blocks, and of one that computes
    everything, and save them. One prompt and seed is enough: the computed parts depend on the step only.
    """
    known, missing = read(root), lacking(jobs, root)
    if not missing:
        return
    job = jobs[0]
    tokens = text_tokens(engine.pipeline, job.prompt, engine.config)
    base = generation(engine, job.prompt, job.seed, {"cache": "none"})
    for name, method in missing.items():
        flops = generation(engine, job.prompt, job.seed, method.request)
        known[name] = {"prompt": job.prompt, "text_tokens": tokens, "base": base, "flops": flops}
    write_json(root / NAME, known)


def lacking(jobs: Sequence[Any], root: Path) -> dict[str, Any]:
    """The methods of the jobs that cache branches of blocks and were not counted yet, by name."""
    known, methods = read(root), {job.method.name: job.method for job in jobs}
    return {
        name: method for name, method in methods.items() if name not in known and keeps_branches(root / name)
    }


def keeps_branches(folder: Path) -> bool:
    return any(record.get("reused_branches") for record in manifest.read(folder).values())


def generation(engine: Any, prompt: str, seed: int, request: Mapping[str, Any]) -> int:
    """FLOPs of a generation: text encoder, transformer and autoencoder."""
    with FlopCounterMode(display=False, custom_mapping=fused()) as counter:
        engine.generate(prompt, seed=seed, **request)
    return int(counter.get_total_flops())


def fused() -> dict[Any, Any]:
    """FLOP formulas of CPU operators that torch's counter does not know."""
    places = {
        (torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu"): attention,
        (torch.ops.mkldnn, "_linear_pointwise"): linear,
    }
    return {getattr(space, name): flops for (space, name), flops in places.items() if hasattr(space, name)}


def attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop(query, key, value)


def linear(x: Any, weight: Any, other: Any = None, *_: Any, **__: Any) -> int:
    """FLOPs from shapes; a tensor to add or multiply may precede the weight [out, in]."""
    rows = other if isinstance(other, Sequence) and len(other) == 2 else weight
    return 2 * math.prod(x) * rows[0]
