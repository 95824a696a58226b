"""The training recipes of the bundled checkpoints. The parts come from the model family; `recipes.json` has
the values that are not in a config. Config files of a new checkpoint are added to the package before
training.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from eval.training.clips import ClipSpec, render
from videosys import blueprint, load_model, read_config, tiny


@dataclass(frozen=True)
class Recipe:
    """One checkpoint.

    model, config: class and config of the transformer. vae, vae_config: class of the autoencoder and of its
    config. latent_size: latent frames, rows and columns of a clip. num_frames: frames of the clip in pixels,
    every `stride`-th frame of `render`. predicts: noise or velocity. reads_padding: the null text has as many
    rows of the empty prompt as the prompt;
        otherwise it is the empty prompt with a mask.
    """

    model: type[nn.Module]
    config: Any
    vae: type[nn.Module]
    vae_config: type
    latent_size: tuple[int, int, int]
    num_frames: int
    reads_padding: bool
    predicts: str = "noise"
    stride: int = 1

    @classmethod
    def of(cls, name: str, **fields: Any) -> Recipe:
        """The recipe of a bundled checkpoint, with its fields in `recipes.json`."""
        config = tiny.config(name)
        plan = blueprint(config)
        transformer, vae = plan.parts.transformer, plan.parts.vae
        return cls(
            transformer.module_cls,
            transformer.config,
            vae.module_cls,
            type(vae.config),
            plan.latent_size,
            config.clip_frames,
            config.reads_padding(config.negative_text or ""),
            **fields,
        )

    def load_vae(self, folder: Path) -> Any:
        return load_model(self.vae, read_config(self.vae_config, folder), folder)

    def frames(self, spec: ClipSpec) -> Tensor:
        """The target pixels [3, T, 64, 64] of a clip."""
        return render(spec, self.stride * self.num_frames)[:, :: self.stride]

    @torch.no_grad()
    def encode(self, vae: Any, frames: Tensor) -> Tensor:
        """The latents [B, 4, t, 8, 8] of frames [B, 3, T, 64, 64]; the mean of a distribution."""
        latents = vae.encode(frames)
        return latents if isinstance(latents, Tensor) else latents.mean * vae.config.scaling_factor


def read_recipes() -> dict[str, Recipe]:
    """The recipes of all bundled checkpoints, by name."""
    fields = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
    return {name: Recipe.of(name, **fields.get(name, {})) for name in tiny.bundled()}


RECIPES: Mapping[str, Recipe] = MappingProxyType(read_recipes())
NOISE = tuple(name for name, recipe in RECIPES.items() if recipe.predicts == "noise")


def fold_statistics(vae: Any, mean: Tensor, std: Tensor) -> None:
    """Rescale the layers around the latents, so that latents with this mean and std [4] become standard and
    the reconstruction does not change. (The published autoencoders have one factor for all channels.)
    """
    before, after = convolution(vae.quant_conv), convolution(vae.post_quant_conv)
    kernel = [1] * (before.weight.ndim - 2)
    channels = len(mean)
    with torch.no_grad():
        before.bias[:channels] = (before.bias[:channels] - mean) / std
        before.bias[channels:] -= 2 * std.log()  # the second half are log variances
        before.weight[:channels] /= std.view(-1, 1, *kernel)
        after.bias += (after.weight * mean.view(1, -1, *kernel)).flatten(1).sum(1)
        after.weight *= std.view(1, -1, *kernel)


def convolution(layer: Any) -> Any:
    return getattr(layer, "conv", layer)
