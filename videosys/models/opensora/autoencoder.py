"""The Open-Sora v1.2 VAE: a 2-D autoencoder on every frame, then a causal 3-D one on chunks of 17 frames."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
from videosys.models.opensora.temporal_autoencoder import TemporalVAE
from videosys.parallel import Parallel
from videosys.utils.typed import (
    MOST_CHANNELS,
    MOST_FRAMES,
    MOST_LEVELS,
    check_multiple,
    check_positive,
    limited,
)

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

CHUNK_FRAMES = 17  # the unit of loops, references and joins of clips
NOISE_FRAMES = 4  # frames per draw of noise; fixed, so that micro_batch_size only affects memory


@dataclass(frozen=True)
class OpenSoraVAEConfig(FrameAutoencoderConfig):
    """Shape of both stages; the defaults are those of the published checkpoint.

    Spatial latents times `scaling_factor` enter the temporal stage.
    """

    temporal_filters: int = limited(128, most=MOST_CHANNELS)
    num_res_blocks: int = limited(4, most=MOST_LEVELS)
    channel_multipliers: tuple[int, ...] = limited((1, 2, 2, 4), most=MOST_LEVELS, longest=MOST_LEVELS)
    temporal_downsample: tuple[bool, ...] = (False, True, True)
    num_groups: int = limited(32, most=MOST_CHANNELS)
    micro_frame_size: int = CHUNK_FRAMES  # frames that are encoded together, independent of others
    micro_batch_size: int = limited(4, most=MOST_FRAMES)  # frames of the spatial stage at once: memory only

    def __post_init__(self):
        if len(self.temporal_downsample) != len(self.channel_multipliers) - 1:
            raise ValueError(
                f"temporal_downsample {self.temporal_downsample} must have one entry less than "
                f"channel_multipliers {self.channel_multipliers}"
            )
        check_positive(self, "block_out_channels", "layers_per_block", "norm_num_groups", "latent_channels")
        check_positive(self, "scaling_factor", "temporal_filters", "num_res_blocks", "channel_multipliers")
        check_positive(self, "num_groups", "micro_batch_size")
        check_multiple(self, "block_out_channels", "norm_num_groups")
        check_multiple(self, "temporal_filters", "num_groups")
        if self.micro_frame_size != CHUNK_FRAMES:
            raise ValueError(f"micro_frame_size is {self.micro_frame_size}; it must be {CHUNK_FRAMES}")

    @property
    def chunk_frames(self) -> int:
        """How many frames are decoded together."""
        return self.micro_frame_size

    @property
    def temporal_widths(self) -> tuple[int, ...]:
        """Channels of the temporal stage at each level, the outermost first."""
        return tuple(self.temporal_filters * factor for factor in self.channel_multipliers)

    @property
    def temporal_factor(self) -> int:
        """Frames per latent frame: 4 as published."""
        return 2 ** sum(self.temporal_downsample)

    def latent_frames(self, num_frames: int) -> int:
        """17 frames give 5 latent frames, a last chunk of r frames gives ceil(r / 4)."""
        whole, rest = divmod(num_frames, self.micro_frame_size)
        per_chunk = math.ceil(self.micro_frame_size / self.temporal_factor)
        return whole * per_chunk + math.ceil(rest / self.temporal_factor)


class OpenSoraVAE(VideoAutoencoder):
    """Frames [B, 3, T, H, W] in [-1, 1] to standardized latents [B, 4, t, h, w] and back.

    `scale` and `shift` [1, 4, 1, 1, 1] come from the checkpoint and are neutral until it is loaded.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self, config: OpenSoraVAEConfig, parallel: Parallel = Parallel(), tiling: FrameTiling | None = None
    ):
        """tiling: of the frames in the spatial stage, by diffusers, or None."""
        super().__init__(config, parallel)
        self.spatial_vae = nn.ModuleDict({"module": build_frame_autoencoder(config)})
        if tiling is not None:
            self.spatial.enable_tiling()
            self.spatial.tile_sample_min_size = tiling.sample_min_size
            self.spatial.tile_latent_min_size = tiling.latent_tiles(config.spatial_factor).size
            self.spatial.tile_overlap_factor = tiling.overlap_factor
        self.temporal_vae = TemporalVAE(config)
        self.register_buffer("shift", torch.zeros(1, config.latent_channels, 1, 1, 1))
        self.register_buffer("scale", torch.ones(1, config.latent_channels, 1, 1, 1))

    @property
    def spatial(self) -> AutoencoderKL:
        """The stage on single frames, an AutoencoderKL."""
        return self.spatial_vae["module"]

    @property
    def temporal(self) -> TemporalVAE:
        """The stage on chunks of frames."""
        return self.temporal_vae

    @property
    def decoders(self) -> Sequence[nn.Module]:
        return [self.spatial.decoder, self.temporal.decoder]

    def encode(self, frames: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Latents [B, 4, t, h, w]: the mean of each stage, or with a generator a sample of each.

        Noise is drawn from the generator per group of four frames, then per temporal chunk.
        ValueError for frames that are not [B, 3, T, H, W] with sides of at least 8.
        """
        self.check_frames(frames)
        x = self.encode_frames(frames.to(self.dtype), generator)
        chunks = self.parallel.map(self.temporal.encode, x.split(self.config.micro_frame_size, dim=2))
        latents = torch.cat([mean_or_sample(moments, generator) for moments in chunks], dim=2)
        return (latents - self.shift) / self.scale

    def encode_frames(self, frames: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Spatial latents times the scaling factor, [B, 4, T, h, w]."""
        moments = self.spatial_moments(rearrange(frames, "b c t h w -> (b t) c h w"))
        x = torch.cat([mean_or_sample(group, generator) for group in moments.split(NOISE_FRAMES)])
        return rearrange(x, "(b t) c h w -> b c t h w", b=len(frames)) * self.config.scaling_factor

    def spatial_moments(self, frames: Tensor) -> Tensor:
        """Moments [N, 8, h, w] of frames [N, 3, H, W], a micro batch at a time."""
        batches = frames.split(self.config.micro_batch_size)
        return self.in_chunks(lambda batch: self.spatial.encode(batch).latent_dist.parameters, batches)

    def decode(self, latents: Tensor, num_frames: int, progress: Progress | None = None) -> Tensor:
        """Frames [B, 3, num_frames, 8 h, 8 w], about in [-1, 1] (not clamped).

        `progress` is called with the number of frames that a micro batch has finished.
        ValueError for latents that are not [B, 4, t, h, w] or whose t is not that of `num_frames`.
        """
        self.check_latents(latents, num_frames)
        latents = (latents * self.scale + self.shift).to(self.dtype)
        whole = self.config.micro_frame_size
        chunks = self.parallel.map(
            self.temporal.decode_all, latents.split(self.config.latent_frames(whole), dim=2)
        )
        # The first decoded frames of a chunk correspond to the padding at its front.
        x = [chunk[:, :, -min(whole, num_frames - i * whole) :] for i, chunk in enumerate(chunks)]
        return self.decode_frames(torch.cat(x, dim=2), progress)

    def check_latents(self, latents: Tensor, num_frames: int) -> None:
        """ValueError if latents [B, C, T, H, W] do not match this number of frames."""
        self.check_channels(latents)
        if num_frames < 1 or self.config.latent_frames(num_frames) != latents.shape[2]:
            raise ValueError(
                f"num_frames {num_frames} has {self.config.latent_frames(max(num_frames, 0))} latent frames, "
                f"but latents have {latents.shape[2]}"
            )

    def decode_frames(self, x: Tensor, progress: Progress | None = None) -> Tensor:
        """Frames [B, 3, T, H, W] of scaled spatial latents [B, 4, T, h, w], a micro batch at a time."""
        folded = rearrange(x, "b c t h w -> (b t) c h w") / self.config.scaling_factor
        batches = folded.split(self.config.micro_batch_size)
        frames = self.in_chunks(lambda batch: self.spatial.decode(batch).sample, batches, progress)
        return rearrange(frames, "(b t) c h w -> b c t h w", b=len(x))
