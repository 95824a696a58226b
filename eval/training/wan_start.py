"""Initialises a tiny Wan from the tiny Open-Sora-Plan v1.2.0 of the same width and depth.

Both models attend to all tokens of a clip, with the same layers under different names. The differences are
compensated: the layout of rotary pairs, Wan's norms of queries and keys, and the times of a rectified flow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from videosys import OpenSoraT2V, OpenSoraT2VConfig, load_model, read_config
from videosys.layers.embeddings import sinusoid

NAMES = {
    "pos_embed.proj": "patch_embedding",
    "adaln_single.emb.timestep_embedder": "condition_embedder.time_embedder",
    "adaln_single.linear": "condition_embedder.time_proj",
    "caption_projection": "condition_embedder.text_embedder",
    "transformer_blocks": "blocks",
    ".ff.": ".ffn.",
}
GRID = 1000  # number of times at which the time embeddings are fitted


def start_from(model: Any, folder: Path, shares: Tensor) -> None:
    """Copy the weights of a folder into a WanTransformer3DModel of the same shape.

    shares: the clip's share of the variance of noisy latents, by the other model's timestep.
    """
    other = load_model(OpenSoraT2V, read_config(OpenSoraT2VConfig, folder), folder)
    state = model.state_dict()
    for name, value in other.state_dict().items():
        new = renamed(name)
        if ".attn1.to_q." in name or ".attn1.to_k." in name:
            value = interleaved(value, model.config.num_attention_heads)
        state[new] = value.reshape(state[new].shape)
    model.load_state_dict(state)
    fit_times(model.condition_embedder.time_embedder, other, shares)


def renamed(name: str) -> str:
    for old, new in NAMES.items():
        name = name.replace(old, new)
    return name


def interleaved(rows: Tensor, heads: int) -> Tensor:
    """Reorder the rows of a projection: rotary pairs become adjacent instead of a sixth of a head apart."""
    pairs = "(h third pair d) ... -> (h third d pair) ..."
    return rearrange(rows, pairs, h=heads, third=3, pair=2).contiguous()


@torch.no_grad()
def fit_times(embedder: Any, other: Any, shares: Tensor) -> None:
    """Fit the second layer of the time embedding by least squares, so that a time of the flow is embedded
    like the other model's timestep with the same noise-to-clip ratio.
    """
    times = torch.linspace(0.001, 0.999, GRID)
    ratios = ((1 - shares) / shares).sqrt().log().numpy()
    timesteps = np.interp((times / (1 - times)).log().numpy(), ratios, np.arange(len(ratios)))
    wanted, _ = other.adaln_single(torch.from_numpy(timesteps).float())
    features = nn.functional.silu(embedder.linear_1(sinusoid(1000 * times, embedder.linear_1.in_features)))
    solution = least_squares(features, wanted)
    embedder.linear_2.weight.copy_(solution[:-1].T)
    embedder.linear_2.bias.copy_(solution[-1])


def least_squares(features: Tensor, wanted: Tensor, ridge: float = 1e-6) -> Tensor:
    """The weights, with a bias as the last row, that map `features` [rows, n] to `wanted` [rows, m]."""
    x = torch.cat((features, torch.ones(len(features), 1)), dim=1).double()
    square = x.T @ x / len(x) + ridge * torch.eye(x.shape[1], dtype=torch.float64)
    return torch.linalg.solve(square, x.T @ wanted.double() / len(x)).float()


@torch.no_grad()
def settle_norms(model: nn.Module, run: Callable[[], object]) -> None:
    """Set the norms of queries and keys from the statistics of one `run`, so that they have little effect."""

    def settle(norm: Any, inputs: tuple[Tensor]) -> None:
        norm.weight.fill_(float(inputs[0].float().square().mean(-1).sqrt().mean()))

    norms = [part for part in model.modules() if isinstance(part, nn.RMSNorm)]
    hooks = [norm.register_forward_pre_hook(settle) for norm in norms]
    run()
    for hook in hooks:
        hook.remove()


@torch.no_grad()
def fit_head(model: Any, batches: Iterable[tuple[Sequence[Tensor], Tensor]]) -> None:
    """Fit the last layer by least squares to predict velocities from the output of the blocks.

    batches: (arguments of the model, velocity [B, 4, t, 8, 8]) pairs.
    """
    rows: list[Tensor] = []
    hook = model.proj_out.register_forward_pre_hook(lambda _, inputs: rows.append(inputs[0].flatten(0, 1)))
    wanted = []
    for inputs, velocity in batches:
        model(*inputs)
        wanted.append(rearrange(velocity, "b c t (h ph) (w pw) -> (b t h w) (ph pw c)", ph=2, pw=2))
    hook.remove()
    solution = least_squares(torch.cat(rows).float(), torch.cat(wanted))
    model.proj_out.weight.copy_(solution[:-1].T)
    model.proj_out.bias.copy_(solution[-1])
