"""Latte's autoencoders, from diffusers' modules: frames one by one, or fourteen decoded together by the
decoder of Stable Video Diffusion.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

import torch
from einops import rearrange
from torch import Tensor, nn

from videosys.layers.autoencoder import (
    FrameAutoencoderConfig,
    VideoAutoencoder,
    build_frame_autoencoder,
    mean_or_sample,
)
from videosys.layers.tiling import FrameTiling, Progress
from videosys.parallel import Parallel
from videosys.utils.typed import MOST_FRAMES, limited

IMAGES, TEMPORAL = "AutoencoderKL", "AutoencoderKLTemporalDecoder"

# Names of attention in files older than diffusers 0.12.
RENAMED = MappingProxyType({"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"})


@dataclass(frozen=True)
class LatteVAEConfig(FrameAutoencoderConfig):
    """Fields of the published config.json files of both; the defaults are those of the one for images."""

    _class_name: str = IMAGES
    decode_chunk_size: int = limited(14, most=MOST_FRAMES)  # frames decoded together

    def __post_init__(self) -> None:
        if self._class_name not in (IMAGES, TEMPORAL):
            raise ValueError(f"_class_name {self._class_name!r} must be {IMAGES!r} or {TEMPORAL!r}")
        if self.is_temporal and self.norm_num_groups != 32:
            raise ValueError(f"norm_num_groups {self.norm_num_groups} must be 32 with {TEMPORAL}")
        if self.decode_chunk_size < 1:
            raise ValueError(f"decode_chunk_size must be at least 1, not {self.decode_chunk_size}")

    @property
    def chunk_frames(self) -> int:
        """How many frames are decoded together."""
        return self.decode_chunk_size if self.is_temporal else 1

    @property
    def is_temporal(self) -> bool:
        """Whether frames are decoded together."""
        return self._class_name == TEMPORAL


class LatteVAE(VideoAutoencoder):
    """Frames [B, 3, T, H, W] in [-1, 1] to latents [B, 4, T, h, w], the transformer's, and back."""

    def __init__(
        self, config: LatteVAEConfig, parallel: Parallel = Parallel(), tiling: FrameTiling | None = None
    ):
        """tiling: of the decoded frames, or None."""
        super().__init__(config, parallel)
        self.tiles = None if tiling is None else tiling.latent_tiles(config.spatial_factor)
        model = build_frame_autoencoder(config, config.is_temporal)
        self.encoder, self.decoder, self.quant_conv = model.encoder, model.decoder, model.quant_conv
        self.post_quant_conv = nn.Identity() if config.is_temporal else model.post_quant_conv

    @staticmethod
    def current_key(key: str) -> str:
        """The current name of a parameter of an older file."""
        if ".attentions." not in key:
            return key
        return ".".join(RENAMED.get(part, part) for part in key.split("."))

    def encode(self, frames: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Latents [B, 4, T, h, w], frame by frame: the mean, or with a generator a sample.

        ValueError for frames that are not [B, 3, T, H, W] with sides of at least 8.
        """
        self.check_frames(frames)
        rows = rearrange(frames.to(self.dtype), "b c t h w -> (b t) c h w")
        moments = torch.cat([self.quant_conv(self.encoder(row)) for row in rows.split(1)])
        moments = rearrange(moments, "(b t) c h w -> b c t h w", b=len(frames))
        return mean_or_sample(moments, generator) * self.config.scaling_factor

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
        videos = latents.transpose(1, 2)
        chunks = [chunk for video in videos for chunk in video.split(self.config.chunk_frames)]
        frames = self.in_chunks(self._decode_in_tiles, chunks, progress)
        return rearrange(frames, "(b t) c h w -> b c t h w", b=len(latents))

    def _decode_in_tiles(self, latents: Tensor) -> Tensor:
        """Frames [n, 3, 8 h, 8 w] of latents [n, 4, h, w], without tiling if they fit into one tile."""
        x = latents[None].transpose(1, 2)  # tiling needs a separate time dimension
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
