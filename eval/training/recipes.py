"""What is trained for each tiny checkpoint that predicts noise: classes, sizes, and how text enters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from eval.training.clips import ClipSpec, render
from videosys import (
    CausalVAE,
    CausalVAEConfig,
    LatteT2V,
    LatteT2VConfig,
    LatteVAE,
    LatteVAEConfig,
    OpenSoraT2V,
    OpenSoraT2VConfig,
    load_model,
    read_config,
)

TEXT_WIDTH = 96  # of the T5 encoder that all tiny checkpoints share
LATTE_FRAMES, PLAN_FRAMES = 16, 33
LATENT_SIDE = 8


@dataclass(frozen=True)
class Recipe:
    """One checkpoint.

    frames: the pixels [3, T, 64, 64] that the model is to make of a clip. encode: their latents
        [1, 4, t, 8, 8], as the transformer sees them. reads_padding: the null text is as many rows of the
        empty prompt as the prompt has; otherwise it is the empty prompt behind a mask.
    """

    model: type[nn.Module]
    config: Any
    vae: type[nn.Module]
    vae_config: type
    frames: Callable[[ClipSpec], Tensor]
    encode: Callable[[Any, Tensor], Tensor]
    latent_frames: int
    reads_padding: bool

    @property
    def latent_size(self) -> tuple[int, int, int]:
        return self.latent_frames, LATENT_SIDE, LATENT_SIDE

    def load_vae(self, folder: Path) -> nn.Module:
        return load_model(self.vae, read_config(self.vae_config, folder), folder)


def every_second(spec: ClipSpec) -> Tensor:
    """Latte keeps a latent per frame, so its clips have half as many frames a second."""
    return render(spec)[:, : 2 * LATTE_FRAMES : 2]


def plan_frames(spec: ClipSpec) -> Tensor:
    return render(spec, PLAN_FRAMES)


def encode_latte(vae: LatteVAE, frames: Tensor) -> Tensor:
    return vae.encode(frames)


def encode_plan(vae: CausalVAE, frames: Tensor) -> Tensor:
    return vae.encode(frames).mean * vae.config.scaling_factor


LATTE = LatteT2VConfig(
    num_layers=4,
    num_attention_heads=4,
    attention_head_dim=32,
    cross_attention_dim=128,
    caption_channels=TEXT_WIDTH,
    sample_size=LATENT_SIDE,
    video_length=LATTE_FRAMES,
    interpolation_scale_1d=2.0,  # as far apart as in the Plan's latents, so that weights can pass over
)
PLAN_V110 = LatteT2VConfig(
    num_layers=4,
    num_attention_heads=4,
    attention_head_dim=32,
    cross_attention_dim=128,
    caption_channels=TEXT_WIDTH,
    sample_size=(LATENT_SIDE, LATENT_SIDE),
    video_length=9,
    interpolation_scale_1d=1.0,
)
PLAN_V120 = OpenSoraT2VConfig(
    num_layers=6,
    num_attention_heads=4,
    attention_head_dim=36,
    cross_attention_dim=144,
    caption_channels=TEXT_WIDTH,
    sample_size=(LATENT_SIDE, LATENT_SIDE),
    sample_size_t=9,
    interpolation_scale_t=1.0,
    interpolation_scale_h=1.0,
    interpolation_scale_w=1.0,
)
RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "latte": Recipe(
            LatteT2V, LATTE, LatteVAE, LatteVAEConfig, every_second, encode_latte, LATTE_FRAMES, True
        ),
        "open_sora_plan_v110": Recipe(
            LatteT2V, PLAN_V110, CausalVAE, CausalVAEConfig, plan_frames, encode_plan, 9, True
        ),
        "open_sora_plan_v120": Recipe(
            OpenSoraT2V, PLAN_V120, CausalVAE, CausalVAEConfig, plan_frames, encode_plan, 9, False
        ),
    }
)


def fold_statistics(vae: Any, mean: Tensor, std: Tensor) -> None:
    """Rescales the layers around the latents, so that latents of that mean and std [4] become standard and
    the reconstruction stays what it was. (The published autoencoders have one factor for all channels.)
    """
    before, after = convolution(vae.quant_conv), convolution(vae.post_quant_conv)
    kernel = [1] * (before.weight.ndim - 2)
    channels = len(mean)
    with torch.no_grad():
        before.bias[:channels] = (before.bias[:channels] - mean) / std
        before.bias[channels:] -= 2 * std.log()  # the second half are logarithms of variances
        before.weight[:channels] /= std.view(-1, 1, *kernel)
        after.bias += (after.weight * mean.view(1, -1, *kernel)).flatten(1).sum(1)
        after.weight *= std.view(1, -1, *kernel)


def convolution(layer: Any) -> Any:
    return getattr(layer, "conv", layer)
