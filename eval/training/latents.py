"""Encode training clips as shards of latents: `python -m eval.training.train latents ...`.

The clips of a shard depend only on its number, so several processes can write shards in parallel, and a
transformer can train on the existing shards meanwhile.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from eval.training.clips import ClipSpec
from eval.training.recipes import RECIPES
from eval.training.scored import training_spec
from eval.training.trainer import say
from videosys import CommandParser, replacing

CLIPS_PER_SHARD = 250
CLIPS_PER_PASS = 10  # per call of the autoencoder
HELD_OUT_SHARD = 9999  # like the others, but not used for training


Encode = Callable[[Sequence[ClipSpec]], Tensor]  # returns latents [clips, 4, t, 8, 8]


def write_shard(encode: Encode, folder: Path, number: int) -> None:
    """Write a file of latents [clips, 4, t, 8, 8] with the clips' specs in its header."""
    rng = np.random.default_rng((20, number))
    specs = [training_spec(rng) for _ in range(CLIPS_PER_SHARD)]
    passes = range(0, len(specs), CLIPS_PER_PASS)
    latents = torch.cat([encode(specs[i : i + CLIPS_PER_PASS]) for i in passes])
    header = {"specs": json.dumps([asdict(spec) for spec in specs])}
    with replacing(shard_path(folder, number)) as temporary:
        save_file({"latents": latents}, temporary, metadata=header)


def read_shard(path: Path) -> tuple[Tensor, list[ClipSpec]]:
    with safe_open(path, framework="pt") as file:
        specs = [ClipSpec(**fields) for fields in json.loads(file.metadata()["specs"])]
        return file.get_tensor("latents"), specs


def encoder(model: str, folder: Path) -> Encode:
    """A function that encodes clips as a model's latents, with the autoencoder in a folder."""
    recipe = RECIPES[model]
    vae = recipe.load_vae(folder)
    return lambda specs: recipe.encode(vae, torch.stack([recipe.frames(spec) for spec in specs]))


def shard_path(folder: Path, number: int) -> Path:
    return folder / f"shard_{number:04d}.safetensors"


def main(argv: Sequence[str] | None = None) -> int:
    parser = CommandParser(prog="python -m eval.training.train latents", description=__doc__)
    parser.add_argument("--model", choices=list(RECIPES), default=next(iter(RECIPES)))
    parser.add_argument("--vae", type=Path, required=True, help="folder exported by the vae stage")
    parser.add_argument("--out", type=Path, required=True, help="folder for the shards")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--shards", type=int, default=32)
    args = parser.parse_args(argv)
    encode = encoder(args.model, args.vae)
    args.out.mkdir(parents=True, exist_ok=True)
    for number in [HELD_OUT_SHARD, *range(args.first, args.first + args.shards)]:
        if not shard_path(args.out, number).exists():
            write_shard(encode, args.out, number)
            say(f"wrote shard {number}")
    return 0
