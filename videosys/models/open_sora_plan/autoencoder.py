"""CausalVAE, the autoencoder of Open-Sora-Plan v1.1.0 and v1.2.0: 4 x 8 x 8 pixels to one latent."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videosys.layers.autoencoder import LatentSize, VideoAutoencoder, posterior
from videosys.layers.tiling import Progress, Tiling
from videosys.models.open_sora_plan import autoencoder_layers as layers
from videosys.parallel import Parallel
from videosys.utils.typed import listing, suggest

if TYPE_CHECKING:
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

LayerTable = Mapping[str, Callable[..., nn.Module] | None]

# Config fields that name the class of a layer, alone or one per level.
LAYERS: Mapping[str, LayerTable] = {
    "encoder_conv_in": layers.CONVS,
    "encoder_conv_out": layers.CONVS,
    "encoder_attention": layers.ATTENTIONS,
    "encoder_resnet_blocks": layers.RESNETS,
    "encoder_spatial_downsample": layers.SPATIAL_DOWNS,
    "encoder_temporal_downsample": layers.TIME_DOWNS,
    "encoder_mid_resnet": layers.RESNETS,
    "decoder_conv_in": layers.CONVS,
    "decoder_conv_out": layers.CONVS,
    "decoder_attention": layers.ATTENTIONS,
    "decoder_resnet_blocks": layers.RESNETS,
    "decoder_spatial_upsample": layers.SPATIAL_UPS,
    "decoder_temporal_upsample": layers.TIME_UPS,
    "decoder_mid_resnet": layers.RESNETS,
}
NORMALIZED = (layers.RESNETS, layers.ATTENTIONS)  # their layers take a number of groups last
JOINT_DOWN, JOINT_UP = "Spatial2xTime2x3DDownsample", "Spatial2xTime2x3DUpsample"
JOINT = frozenset({JOINT_DOWN, JOINT_UP})


@dataclass(frozen=True)
class CausalVAEConfig(LatentSize):
    """Fields of the published config.json. The layout per level has no default: versions differ in it."""

    needs_multiples: ClassVar[bool] = True

    encoder_spatial_downsample: tuple[str, ...]
    encoder_temporal_downsample: tuple[str, ...]
    encoder_resnet_blocks: tuple[str, ...]
    decoder_spatial_upsample: tuple[str, ...]
    decoder_temporal_upsample: tuple[str, ...]
    decoder_resnet_blocks: tuple[str, ...]
    hidden_size: int = 128
    hidden_size_mult: tuple[int, ...] = (1, 2, 4, 4)
    z_channels: int = 4
    embed_dim: int = 4
    num_res_blocks: int = 2
    double_z: bool = True
    attn_resolutions: tuple[int, ...] = ()
    q_conv: str = "CausalConv3d"
    encoder_conv_in: str = "Conv2d"
    encoder_conv_out: str = "CausalConv3d"
    encoder_attention: str = "AttnBlock3DFix"
    encoder_mid_resnet: str = "ResnetBlock3D"
    decoder_conv_in: str = "CausalConv3d"
    decoder_conv_out: str = "CausalConv3d"
    decoder_attention: str = "AttnBlock3DFix"
    decoder_mid_resnet: str = "ResnetBlock3D"
    use_quant_layer: bool = True
    scaling_factor: float = 0.18215  # latents of the transformer are those of the VAE times this
    norm_num_groups: int = (
        layers.NORM_GROUPS
    )  # fewer for narrow models: a group of one channel keeps no colour

    def __post_init__(self) -> None:
        if self.attn_resolutions or not self.double_z or self.q_conv != "CausalConv3d":
            raise ValueError(
                f"attn_resolutions {self.attn_resolutions}, double_z {self.double_z} and q_conv "
                f"{self.q_conv!r} must be (), True and 'CausalConv3d'"
            )
        if not self.use_quant_layer and self.embed_dim != self.z_channels:
            raise ValueError(f"embed_dim {self.embed_dim} must be z_channels {self.z_channels}")
        if min(self.hidden_size, self.norm_num_groups) < 1 or self.hidden_size % self.norm_num_groups:
            raise ValueError(
                f"hidden_size {self.hidden_size} must be a multiple of norm_num_groups {self.norm_num_groups}"
            )
        for name, registry in LAYERS.items():
            self._check_layers(name, registry)
        self._check_factors()

    def _check_layers(self, name: str, registry: LayerTable) -> None:
        value = getattr(self, name)
        names = (value,) if isinstance(value, str) else value
        if not isinstance(value, str) and len(value) != len(self.hidden_size_mult):
            raise ValueError(f"{name} {value} must have one entry per level of {self.hidden_size_mult}")
        for layer in names:
            if layer not in registry:
                raise ValueError(
                    f"{name}: {layer!r} must be one of {listing(registry)}{suggest(layer, registry)}"
                )

    def _check_factors(self) -> None:
        up = (self.decoder_spatial_upsample, self.decoder_temporal_upsample)
        factors = self.spatial_factor, self.temporal_factor
        if factors != (_factor(up[0]), _factor((*up[1], *(name for name in up[0] if name in JOINT)))):
            raise ValueError(
                f"the decoder must enlarge as much as the encoder reduces ({factors[0]} in space, "
                f"{factors[1]} in time), not by {up[0]} and {up[1]}"
            )

    @staticmethod
    def published(version: str) -> CausalVAEConfig:
        """The layout of a release of Open-Sora-Plan, v110 or v120; ValueError for another."""
        if version not in PUBLISHED:
            raise ValueError(f"version is {version!r}; allowed: {listing(PUBLISHED)}")
        return PUBLISHED[version]

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels per level."""
        return tuple(self.hidden_size * factor for factor in self.hidden_size_mult)

    @property
    def latent_channels(self) -> int:
        return self.embed_dim

    @property
    def spatial_factor(self) -> int:
        """Pixels per latent row and column: 8 as published."""
        return _factor(self.encoder_spatial_downsample)

    @property
    def temporal_factor(self) -> int:
        """Frames per latent frame after the first: 4 as published."""
        joint = (name for name in self.encoder_spatial_downsample if name in JOINT)
        return _factor((*self.encoder_temporal_downsample, *joint))

    def latent_frames(self, num_frames: int) -> int:
        """Latent frames that are decoded to a video: 65 frames need 17."""
        return math.ceil((num_frames - 1) / self.temporal_factor) + 1


def _factor(names: tuple[str, ...]) -> int:
    return 2 ** sum(bool(name) for name in names)


V110 = CausalVAEConfig(
    encoder_spatial_downsample=("Downsample", "Downsample", "Downsample", ""),
    encoder_temporal_downsample=("", "TimeDownsampleRes2x", "TimeDownsampleRes2x", ""),
    encoder_resnet_blocks=("ResnetBlock2D", "ResnetBlock2D", "ResnetBlock3D", "ResnetBlock3D"),
    decoder_spatial_upsample=("", "SpatialUpsample2x", "SpatialUpsample2x", "SpatialUpsample2x"),
    decoder_temporal_upsample=("", "", "TimeUpsampleRes2x", "TimeUpsampleRes2x"),
    decoder_resnet_blocks=("ResnetBlock3D",) * 4,
)
V120 = replace(
    V110,
    encoder_spatial_downsample=("Downsample", JOINT_DOWN, JOINT_DOWN, ""),
    encoder_temporal_downsample=("",) * 4,
    decoder_spatial_upsample=("", "SpatialUpsample2x", JOINT_UP, JOINT_UP),
    decoder_temporal_upsample=("",) * 4,
)
PUBLISHED: Mapping[str, CausalVAEConfig] = MappingProxyType({"v110": V110, "v120": V120})


def build(config: CausalVAEConfig, field: str, *sizes: int, level: int | None = None) -> nn.Module:
    """The layer that a config field names, for that level where there is one per level."""
    name = getattr(config, field) if level is None else getattr(config, field)[level]
    layer = LAYERS[field][name]
    norm = (config.norm_num_groups,) if LAYERS[field] in NORMALIZED else ()
    return nn.Identity() if layer is None else layer(*sizes, *norm)


class Level(nn.Module):
    """Residual blocks, then a change of space, then one of time."""

    def __init__(self, blocks: list[nn.Module], sampling: dict[str, nn.Module]):
        super().__init__()
        self.block = nn.ModuleList(blocks)
        self.sampling = tuple(sampling)
        for name, layer in sampling.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (*self.block, *(self.get_submodule(name) for name in self.sampling)):
            x = layer(x)
        return x


class Middle(nn.Module):
    """Block, attention within frames, block."""

    def __init__(self, config: CausalVAEConfig, side: str):
        super().__init__()
        width = config.widths[-1]
        self.block_1 = build(config, f"{side}_mid_resnet", width, width)
        self.attn_1 = build(config, f"{side}_attention", width)
        self.block_2 = build(config, f"{side}_mid_resnet", width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Encoder(nn.Module):
    """Frames [B, 3, T, H, W] to what quant_conv turns into moments."""

    def __init__(self, config: CausalVAEConfig):
        super().__init__()
        widths = config.widths
        self.conv_in = build(config, "encoder_conv_in", 3, config.hidden_size)
        self.down = nn.ModuleList(self._level(config, level) for level in range(len(widths)))
        self.mid = Middle(config, "encoder")
        self.norm_out = layers.group_norm(widths[-1], config.norm_num_groups)
        self.conv_out = build(config, "encoder_conv_out", widths[-1], 2 * config.z_channels)

    @staticmethod
    def _level(config: CausalVAEConfig, level: int) -> Level:
        width = config.widths[level]
        inputs = (config.hidden_size, *config.widths)[level], *[width] * (config.num_res_blocks - 1)
        return Level(
            [build(config, "encoder_resnet_blocks", c_in, width, level=level) for c_in in inputs],
            {
                "downsample": build(config, "encoder_spatial_downsample", width, level=level),
                "time_downsample": build(config, "encoder_temporal_downsample", width, level=level),
            },
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    """The encoder backwards, from the last level to the first, with one more block in each."""

    def __init__(self, config: CausalVAEConfig):
        super().__init__()
        widths = config.widths
        self.conv_in = build(config, "decoder_conv_in", config.z_channels, widths[-1])
        self.mid = Middle(config, "decoder")
        self.up = nn.ModuleList(self._level(config, level) for level in range(len(widths)))
        self.norm_out = layers.group_norm(widths[0], config.norm_num_groups)
        self.conv_out = build(config, "decoder_conv_out", widths[0], 3)

    @staticmethod
    def _level(config: CausalVAEConfig, level: int) -> Level:
        width = config.widths[level]
        inputs = (*config.widths, config.widths[-1])[level + 1], *[width] * config.num_res_blocks
        return Level(
            [build(config, "decoder_resnet_blocks", c_in, width, level=level) for c_in in inputs],
            {
                "upsample": build(config, "decoder_spatial_upsample", width, level=level),
                "time_upsample": build(config, "decoder_temporal_upsample", width, level=level),
            },
        )

    def forward(self, latents: Tensor) -> Tensor:
        x = self.mid(self.conv_in(latents))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class CausalVAE(VideoAutoencoder):
    """Frames [B, 3, T, H, W] in [-1, 1] to latents [B, 4, t, h, w] and back, whole or in tiles.

    Latents are those of the VAE itself: the transformer's divided by `config.scaling_factor`.
    """

    ignored_keys = ("loss.",)  # of its training

    def __init__(
        self, config: CausalVAEConfig, parallel: Parallel = Parallel(), tiling: Tiling | None = None
    ):
        super().__init__(config, parallel)
        self.tiling = tiling
        self._check_tiling()
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        moments, channels = 2 * config.z_channels, config.embed_dim
        has_quant = config.use_quant_layer
        self.quant_conv = layers.CausalConv3d(moments, 2 * channels, 1) if has_quant else nn.Identity()
        self.post_quant_conv = (
            layers.CausalConv3d(channels, config.z_channels, 1) if has_quant else nn.Identity()
        )

    def _check_tiling(self) -> None:
        tiling, factor = self.tiling, self.config.spatial_factor
        if tiling is not None and tiling.tile_sample_min_size != factor * tiling.tile_latent_min_size:
            raise ValueError(
                f"tile_sample_min_size {tiling.tile_sample_min_size} must be {factor} times "
                f"tile_latent_min_size {tiling.tile_latent_min_size}"
            )

    @property
    def dtype(self) -> torch.dtype:
        return self.decoder.norm_out.weight.dtype

    def encode(self, frames: Tensor) -> DiagonalGaussianDistribution:
        """The distribution of the latents; T frames have (T - 1) // 4 + 1 of them in time.

        ValueError for frames that are not [B, 3, T, H, W] with sides that are multiples of 8.
        """
        self.check_frames(frames)
        x = frames.to(self.dtype)
        if self.tiling is not None and self.tiling.sample_tiles.are_needed(x):
            return posterior(self.tiling.sample_tiles.run(x, self.moments, parallel=self.parallel))
        return posterior(self.moments(x))

    def moments(self, x: Tensor) -> Tensor:
        """Means and logarithms of variances [B, 8, t, h, w] of frames, in one piece."""
        return self.quant_conv(self.encoder(x))

    def decode(self, latents: Tensor, num_frames: int, progress: Progress | None = None) -> Tensor:
        """Frames [B, 3, num_frames, 8 h, 8 w], about in [-1, 1] (not clamped).

        `progress` is called with the number of frames that a chunk of time has finished.
        ValueError for latents that are not [B, 4, t, h, w] or whose t is not that of `num_frames`.
        """
        self.check_latents(latents, num_frames)
        latents = latents.to(self.dtype)
        if self.tiling is not None and self.tiling.latent_tiles.are_needed(latents):
            frames = self.tiling.latent_tiles.run(latents, self.frames, progress, self.parallel)
            return frames[:, :, :num_frames]
        frames = self.frames(latents)[:, :, :num_frames]
        if progress is not None:
            progress(num_frames)
        return frames

    def frames(self, latents: Tensor) -> Tensor:
        """All 1 + 4 (t - 1) frames of latents, in one piece."""
        return self.decoder(self.post_quant_conv(latents))

    def check_latents(self, latents: Tensor, num_frames: int) -> None:
        self.check_channels(latents)
        factor = self.config.temporal_factor
        most = 1 + factor * (latents.shape[2] - 1)
        if not max(1, most - factor + 1) <= num_frames <= most:
            raise ValueError(
                f"num_frames {num_frames} must be in {max(1, most - factor + 1)} .. {most} for latents with "
                f"{latents.shape[2]} frames"
            )
