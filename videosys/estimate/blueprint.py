"""The parts of a config without weights, as described by its family. Nothing is downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from videosys.generation.config import PipelineConfig
from videosys.generation.loader import Components
from videosys.generation.parts import PartFinder, Parts
from videosys.generation.pipeline import Pipeline
from videosys.models import Family, family_of
from videosys.parallel import Parallel
from videosys.utils.settled import settle


@dataclass(frozen=True)
class Blueprint:
    """The data of a config for an estimate.

    history: number of predictions per video that the scheduler keeps. folders: of the local parts. missing:
    the other parts, which use the published configs.
    """

    config: Any
    family: Family
    parts: Parts
    latent_size: tuple[int, int, int]
    evaluations: int
    history: int
    folders: Mapping[str, Path]
    missing: tuple[str, ...]

    @property
    def depth(self) -> int:
        """The number of blocks, or pairs of blocks, of the transformer."""
        return self.parts.transformer.config.depth

    @property
    def latent_channels(self) -> int:
        """The number of latent channels of the autoencoder."""
        return self.parts.vae.config.latent_channels

    @property
    def pipeline(self) -> Pipeline:
        """The family's pipeline without components; modules are passed to its methods."""
        nothing: Any = None
        return self.family.pipeline(self.family, self.parts, Components(nothing, nothing, nothing))

    def transformer(self, depth: int, parallel: Parallel) -> nn.Module:
        """Build a rank's transformer with this many blocks, or pairs of blocks."""
        part = self.parts.transformer
        return part.build(parallel, part.config.with_depth(depth))

    def condition(self, model: Any, prompt_embeds: torch.Tensor) -> Any:
        """The condition argument of the transformer's forward."""
        return self.family.condition(model, prompt_embeds, None, self.latent_size, self.config)

    def decode(self, vae: Any, latents: torch.Tensor) -> torch.Tensor:
        """Decode latents to uint8 frames. If another clip follows, also encode the frames that it
        continues.
        """
        return self.pipeline.decode_rows(vae, latents, self.config, self.config.num_clips > 1).frames

    def with_depth(self, depth: int) -> Blueprint:
        """The same blueprint with another number of blocks."""
        part = self.parts.transformer
        return replace(
            self, parts=replace(self.parts, transformer=replace(part, config=part.config.with_depth(depth)))
        )


@settle
def blueprint(config: PipelineConfig) -> Blueprint:
    """The blueprint of a config, from local folders or else from the published configs."""
    family, finder = family_of(config), PartFinder(config, may_be_missing=True)
    parts = family.parts(config, finder)
    scheduler = family.sampler(config, ())
    return Blueprint(
        config=config,
        family=family,
        parts=parts,
        latent_size=parts.latent_size(config),
        evaluations=len(scheduler.timesteps),
        history=scheduler.history,
        folders=finder.folders,
        missing=tuple(finder.missing),
    )
