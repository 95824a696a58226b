"""Shared by video autoencoders: latent sizes, posteriors, and diffusers' autoencoders of frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from videosys.layers.tiling import Progress
from videosys.parallel import Parallel
from videosys.utils.lazy import imported
from videosys.utils.typed import MOST_CHANNELS, MOST_LEVELS, limited

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, AutoencoderKLTemporalDecoder
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution


class LatentSize:
    """The size of a video's latents, from the two factors of a config.

    needs_multiples: height and width must be multiples of `spatial_factor`; else the rest is cut off.
    """

    needs_multiples: ClassVar[bool] = False

    @property
    def spatial_factor(self) -> int:
        """Pixels per latent row and column."""
        raise NotImplementedError

    def latent_frames(self, num_frames: int) -> int:
        """Number of latent frames for a number of frames."""
        return num_frames

    def latent_size(self, num_frames: int, height: int, width: int) -> tuple[int, int, int]:
        """(frames, rows, columns) of the latents of a video.

        ValueError for a video that is too small, and with `needs_multiples` for other sizes than multiples.
        """
        factor = self.spatial_factor
        if num_frames < 1:
            raise ValueError(f"num_frames must be at least 1, not {num_frames}")
        if min(height, width) < factor or (self.needs_multiples and (height % factor or width % factor)):
            rule = "multiples of" if self.needs_multiples else "at least"
            raise ValueError(f"height and width must be {rule} {factor}, not {height} x {width}")
        return self.latent_frames(num_frames), height // factor, width // factor


@dataclass(frozen=True)
class FrameAutoencoderConfig(LatentSize):
    """Fields of an autoencoder of diffusers on frames; the defaults are those of Stable Diffusion's."""

    block_out_channels: tuple[int, ...] = limited(
        (128, 256, 512, 512), most=MOST_CHANNELS, longest=MOST_LEVELS
    )
    layers_per_block: int = limited(2, most=MOST_LEVELS)
    norm_num_groups: int = limited(32, most=MOST_CHANNELS)
    latent_channels: int = limited(4, most=MOST_CHANNELS)
    scaling_factor: float = 0.18215  # latents are multiplied by this after encoding

    @property
    def spatial_factor(self) -> int:
        """Pixels per latent row and column: 8 as published."""
        return 2 ** (len(self.block_out_channels) - 1)


def build_frame_autoencoder(
    config: FrameAutoencoderConfig, is_temporal: bool = False
) -> AutoencoderKL | AutoencoderKLTemporalDecoder:
    """The model of diffusers with random weights: its parameter names are the published ones.

    is_temporal: with the decoder of Stable Video Diffusion, whose norms have 32 groups.
    """
    images, clips = frame_classes()
    levels = len(config.block_out_channels)
    shape: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "block_out_channels": config.block_out_channels,
        "layers_per_block": config.layers_per_block,
        "latent_channels": config.latent_channels,
        "scaling_factor": config.scaling_factor,
    }
    if is_temporal:
        model = clips(**shape)
        return model.to(next(model.parameters()).device)  # a few tensors are always created on the CPU
    up = ("UpDecoderBlock2D",) * levels
    return images(**shape, up_block_types=up, norm_num_groups=config.norm_num_groups)


def frame_classes() -> tuple[type[AutoencoderKL], type[AutoencoderKLTemporalDecoder]]:
    """diffusers' autoencoders of images, and of clips. Their import is slow, and configs do not need it."""
    return imported("diffusers", "AutoencoderKL"), imported("diffusers", "AutoencoderKLTemporalDecoder")


def use_channels_last(model: nn.Module) -> None:
    """Use the channels-last memory format in the convolutions of an autoencoder, for their weights and
    therefore their outputs.
    """
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for weight in model.parameters():
        if weight.ndim in formats:
            weight.data = weight.data.contiguous(memory_format=formats[weight.ndim])


class VideoAutoencoder(nn.Module):
    """Frames [B, 3, T, H, W] in [-1, 1] to latents [B, C, t, h, w] and back."""

    decoder: nn.Module

    def __init__(self, config: Any, parallel: Parallel):
        super().__init__()
        self.config, self.parallel = config, parallel

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights; inputs are converted to it."""
        return next(self.parameters()).dtype

    @property
    def decoders(self) -> Sequence[nn.Module]:
        """The modules of `decode` that may be compiled."""
        return [self.decoder]

    def latent_size(self, num_frames: int, height: int, width: int) -> tuple[int, int, int]:
        """See the config's."""
        return self.config.latent_size(num_frames, height, width)

    def check_frames(self, frames: Tensor) -> None:
        """ValueError for frames that are not [B, 3, T, H, W], or of a size that has no latents."""
        if frames.ndim != 5 or frames.shape[1] != 3:
            raise ValueError(f"frames must be [B, 3, T, H, W], not {list(frames.shape)}")
        self.latent_size(*frames.shape[2:])

    def check_channels(self, latents: Tensor) -> None:
        """ValueError for latents that are not [B, C, t, h, w]."""
        channels = self.config.latent_channels
        if latents.ndim != 5 or latents.shape[1] != channels:
            raise ValueError(f"latents must be [B, {channels}, T, H, W], not {list(latents.shape)}")

    def in_chunks(
        self, run: Callable[[Tensor], Tensor], chunks: Sequence[Tensor], progress: Progress | None = None
    ) -> Tensor:
        """The results of chunks of frames, one after the other as one tensor; ranks share the chunks.

        `progress` is called with the number of frames of each chunk that is done.
        """
        done = progress and (lambda number: progress(len(chunks[number])))
        return torch.cat(list(self.parallel.map(run, chunks, done)))


def posterior(moments: Tensor) -> DiagonalGaussianDistribution:
    """The normal distribution of latents that moments [B, 2 C, ...] describe: means, then logarithms of
    variances.
    """
    return imported("diffusers.models.autoencoders.vae", "DiagonalGaussianDistribution")(moments)


def mean_or_sample(moments: Tensor, generator: torch.Generator | None) -> Tensor:
    """Latents [B, C, ...] of moments [B, 2 C, ...]: the mean, or with a generator a sample.

    The noise is float32 for every dtype of the moments: diffusers' `sample` draws in that dtype, and another
    dtype gets other noise from the same seed.
    """
    latents = posterior(moments)
    if generator is None:
        return latents.mean
    noise = torch.randn(latents.mean.shape, generator=generator, device=generator.device)
    return latents.mean + latents.std * noise.to(latents.mean)
