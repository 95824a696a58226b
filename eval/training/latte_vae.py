"""Create the tiny Latte's autoencoder from the spatial stage of the tiny Open-Sora's:
`python -m eval.training.train latte_vae --out FOLDER`.

Latte has one latent per frame, so it needs only the spatial stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from eval.training.recipes import RECIPES, fold_statistics
from eval.training.scored import training_spec
from eval.training.trainer import say
from videosys import CommandParser, LatteVAE, LatteVAEConfig, resolve, save_model

CLIPS = 100  # used to measure the mean and deviation of the latents


def main(argv: Sequence[str] | None = None) -> int:
    parser = CommandParser(prog="python -m eval.training.train latte_vae", description=__doc__)
    parser.add_argument("--vae", default="bundled:opensora/vae", help="folder of the vae stage")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    stage = RECIPES["opensora"].load_vae(resolve(args.vae))
    published = stage.config
    config = LatteVAEConfig(
        block_out_channels=published.block_out_channels,
        layers_per_block=published.layers_per_block,
        norm_num_groups=published.norm_num_groups,
        scaling_factor=1.0,
    )
    vae = LatteVAE(config)
    vae.load_state_dict(stage.spatial.state_dict())
    rng, frames = np.random.default_rng(30), RECIPES["latte"].frames
    with torch.no_grad():
        latents = torch.cat([vae.encode(frames(training_spec(rng))[None]) for _ in range(CLIPS)])
    axes = (0, 2, 3, 4)
    fold_statistics(vae, latents.mean(axes), latents.std(axes))
    state = {name: value.bfloat16() for name, value in vae.state_dict().items()}
    save_model(state, config, args.out)
    say(f"wrote {args.out}: {sum(v.numel() for v in state.values())} parameters")
    return 0
