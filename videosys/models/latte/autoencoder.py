"""Latte's autoencoders, built of diffusers' modules: frames one by one, or decoded fourteen together by the
decoder of Stable Video Diffusion.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from torch import Tensor, nn

from videosys.layers.posterior import posterior
from videosys.layers.tiling import FrameTiling
from videosys.parallel import Parallel

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, AutoencoderKLTemporalDecoder

Progress = Callable[[int], object]

IMAGES, TEMPORAL = "AutoencoderKL", "AutoencoderKLTemporalDecoder"

# How attention was called in files that are older than diffusers 0.12.
RENAMED = MappingProxyType({"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"})


@dataclass(frozen=True)
class LatteVAEConfig:
    """Fields of the published config.json files of both; the defaults are those of the one for images."""

    _class_name: str = IMAGES
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    latent_channels: int = 4
    norm_num_groups: int = 32
    scaling_factor: float = 0.18215  # latents of the transformer are those of the VAE times this
    decode_chunk_size: int = 14  # frames that the temporal decoder sees together

    def __post_init__(self) -> None:
        if self._class_name not in (IMAGES, TEMPORAL):
            raise ValueError(f"_class_name {self._class_name!r} must be {IMAGES!r} or {TEMPORAL!r}")
        if self.is_temporal and self.norm_num_groups != 32:
            raise ValueError(f"norm_num_groups {self.norm_num_groups} must be 32 with {TEMPORAL}")
        if self.decode_chunk_size < 1:
            raise ValueError(f"decode_chunk_size must be at least 1, not {self.decode_chunk_size}")

    @property
    def is_temporal(self) -> bool:
        return self._class_name == TEMPORAL

    @property
    def spatial_factor(self) -> int:
        """Pixels per latent row and column: 8 as published."""
        return 2 ** (len(self.block_out_channels) - 1)

    def latent_size(self, num_frames: int, height: int, width: int) -> tuple[int, int, int]:
        """(frames, rows, columns) of the latents of a video; ValueError if a side is under one latent."""
        if num_frames < 1:
            raise ValueError(f"num_frames must be at least 1, not {num_frames}")
        factor = self.spatial_factor
        if min(height, width) < factor:
            raise ValueError(f"height and width must be at least {factor}, not {height} x {width}")
        return num_frames, height // factor, width // factor


def build(config: LatteVAEConfig) -> AutoencoderKL | AutoencoderKLTemporalDecoder:
    """The model of diffusers with random weights: its parameter names are the published ones."""
    import diffusers  # seconds to import, and the config needs none of it

    levels = len(config.block_out_channels)
    shape = {
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "block_out_channels": config.block_out_channels,
        "layers_per_block": config.layers_per_block,
        "latent_channels": config.latent_channels,
        "scaling_factor": config.scaling_factor,
    }
    if config.is_temporal:
        return diffusers.AutoencoderKLTemporalDecoder(**shape)
    up = ("UpDecoderBlock2D",) * levels
    return diffusers.AutoencoderKL(**shape, up_block_types=up, norm_num_groups=config.norm_num_groups)


class LatteVAE(nn.Module):
    """Frames [B, 3, T, H, W] in [-1, 1] to latents [B, 4, T, h, w], the transformer's, and back."""

    def __init__(
        self, config: LatteVAEConfig, parallel: Parallel = Parallel(), tiling: FrameTiling | None = None
    ):
        """tiling: of the frames that are decoded; None leaves them whole."""
        super().__init__()
        self.config, self.parallel = config, parallel
        self.tiles = None if tiling is None else tiling.latent_tiles(config.spatial_factor)
        model = build(config)
        self.encoder, self.decoder, self.quant_conv = model.encoder, model.decoder, model.quant_conv
        self.post_quant_conv = nn.Identity() if config.is_temporal else model.post_quant_conv

    @staticmethod
    def current_key(key: str) -> str:
        """What a parameter of an older file is called now."""
        if ".attentions." not in key:
            return key
        return ".".join(RENAMED.get(part, part) for part in key.split("."))

    @property
    def dtype(self) -> torch.dtype:
        return self.quant_conv.weight.dtype

    def latent_size(self, num_frames: int, height: int, width: int) -> tuple[int, int, int]:
        return self.config.latent_size(num_frames, height, width)

    def encode(self, frames: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Latents [B, 4, T, h, w], frame by frame: the mean, or with a generator a sample.

        ValueError for frames that are not [B, 3, T, H, W] with sides of at least 8.
        """
        if frames.ndim != 5 or frames.shape[1] != 3:
            raise ValueError(f"frames must be [B, 3, T, H, W], not {list(frames.shape)}")
        self.latent_size(*frames.shape[2:])
        rows = rearrange(frames.to(self.dtype), "b c t h w -> (b t) c h w")
        moments = torch.cat([self.quant_conv(self.encoder(row)) for row in rows.split(1)])
        made = posterior(rearrange(moments, "(b t) c h w -> b c t h w", b=len(frames)))
        latents = made.mean if generator is None else made.sample(generator)
        return latents * self.config.scaling_factor

    def decode(self, latents: Tensor, num_frames: int, progress: Progress | None = None) -> Tensor:
        """Frames [B, 3, num_frames, 8 h, 8 w], about in [-1, 1] (not clamped).

        The temporal decoder sees chunks of 14 frames of one video. `progress` is called with the number of
        frames that a chunk has finished. ValueError for latents that are not [B, 4, num_frames, h, w].
        """
        channels = self.config.latent_channels
        if latents.ndim != 5 or latents.shape[1:3] != (channels, num_frames) or num_frames < 1:
            raise ValueError(
                f"latents must be [B, {channels}, {num_frames}, H, W], not {list(latents.shape)}"
            )
        latents = latents.to(self.dtype) / self.config.scaling_factor
        size = self.config.decode_chunk_size if self.config.is_temporal else 1
        chunks = [chunk for video in latents.transpose(1, 2) for chunk in video.split(size)]
        frames = self.parallel.map(
            self._decode_in_tiles, chunks, progress and (lambda number: progress(len(chunks[number])))
        )
        return rearrange(torch.cat(list(frames)), "(b t) c h w -> b c t h w", b=len(latents))

    def _decode_in_tiles(self, latents: Tensor) -> Tensor:
        """Frames [n, 3, 8 h, 8 w] of latents [n, 4, h, w], in one piece where one tile holds them."""
        x = latents[None].transpose(1, 2)  # time is a dimension of its own where tiles are cut
        if self.tiles is None or not self.tiles.are_needed(x):
            return self._decode_chunk(latents)
        frames = self.tiles.run(
            x, lambda tile: self._decode_chunk(tile[0].transpose(0, 1)).transpose(0, 1)[None]
        )
        return frames[0].transpose(0, 1)

    def _decode_chunk(self, latents: Tensor) -> Tensor:
        """Frames [n, 3, 8 h, 8 w] of latents [n, 4, h, w] that are decoded together."""
        latents = self.post_quant_conv(latents)
        if self.config.is_temporal:
            is_image = torch.zeros(1, len(latents), dtype=latents.dtype, device=latents.device)
            return self.decoder(latents, image_only_indicator=is_image, num_frames=len(latents))
        return self.decoder(latents)
