"""CausalVAE, the autoencoder of Open-Sora-Plan v1.1.0 and v1.2.0: 4 x 8 x 8 pixels to one latent."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn

from videosys.layers.autoencoder import LatentSize, VideoAutoencoder, posterior
from videosys.layers.tiling import Progress, Tiling
from videosys.models.open_sora_plan.autoencoder_layers import LAYERS, CausalConv3d, LayerTable, group_norm
from videosys.parallel import Parallel
from videosys.utils.typed import MOST_CHANNELS, MOST_LEVELS, limited, listing, suggest

if TYPE_CHECKING:
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

JOINT_DOWN, JOINT_UP = "Spatial2xTime2x3DDownsample", "Spatial2xTime2x3DUpsample"
JOINT = frozenset({JOINT_DOWN, JOINT_UP})


@dataclass(frozen=True)
class CausalVAEConfig(LatentSize):
    """Fields of the published config.json. The layout per level has no default, since versions differ."""

    needs_multiples: ClassVar[bool] = True

    encoder_spatial_downsample: tuple[str, ...]
    encoder_temporal_downsample: tuple[str, ...]
    encoder_resnet_blocks: tuple[str, ...]
    decoder_spatial_upsample: tuple[str, ...]
    decoder_temporal_upsample: tuple[str, ...]
    decoder_resnet_blocks: tuple[str, ...]
    hidden_size: int = limited(128, most=MOST_CHANNELS)
    hidden_size_mult: tuple[int, ...] = limited((1, 2, 4, 4), most=MOST_LEVELS, longest=MOST_LEVELS)
    z_channels: int = limited(4, most=MOST_CHANNELS)
    embed_dim: int = limited(4, most=MOST_CHANNELS)
    num_res_blocks: int = limited(2, most=MOST_LEVELS)
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
    scaling_factor: float = 0.18215  # latents of the VAE are multiplied by this for the transformer
    norm_num_groups: int = 32  # fewer for narrow models: a group of one channel loses colour

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
        for field in fields(self):
            self._check_layers(field.name, LAYERS.get(part_of(field.name)))
        self._check_factors()

    def _check_layers(self, name: str, table: LayerTable | None) -> None:
        value = getattr(self, name)
        if table is None:
            return
        if not isinstance(value, str) and len(value) != len(self.hidden_size_mult):
            raise ValueError(f"{name} {value} must have one entry per level of {self.hidden_size_mult}")
        for layer in (value,) if isinstance(value, str) else value:
            if layer not in table:
                raise ValueError(f"{name}: {layer!r} must be one of {listing(table)}{suggest(layer, table)}")

    def _check_factors(self) -> None:
        space, time = self.decoder_spatial_upsample, self.decoder_temporal_upsample
        if _factors(space, time) != (self.spatial_factor, self.temporal_factor):
            raise ValueError(
                f"the decoder must upsample by the factors of the encoder ({self.spatial_factor} in space, "
                f"{self.temporal_factor} in time), not by {space} and {time}"
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
        """Channels C of latents [B, C, T, H, W]."""
        return self.embed_dim

    @property
    def spatial_factor(self) -> int:
        """Pixels per latent row and column: 8 as published."""
        return _factors(self.encoder_spatial_downsample, self.encoder_temporal_downsample)[0]

    @property
    def temporal_factor(self) -> int:
        """Frames per latent frame after the first: 4 as published."""
        return _factors(self.encoder_spatial_downsample, self.encoder_temporal_downsample)[1]

    def latent_frames(self, num_frames: int) -> int:
        """Latent frames that are decoded to a video: 65 frames need 17."""
        return math.ceil((num_frames - 1) / self.temporal_factor) + 1


def part_of(field: str) -> str:
    """The key of LAYERS for a config field: "conv_in" for "encoder_conv_in"."""
    return field.removeprefix("encoder_").removeprefix("decoder_")


def _factors(space: tuple[str, ...], time: tuple[str, ...]) -> tuple[int, int]:
    """The factors in space and time of layers, named per level."""
    joint = [name for name in space if name in JOINT]
    return 2 ** sum(map(bool, space)), 2 ** sum(map(bool, (*time, *joint)))


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
    """The layer named in a config field, for this level if there is one per level."""
    names = getattr(config, field)
    return LAYERS[part_of(field)][names if level is None else names[level]](*sizes)


def sequence(**layers: nn.Module) -> nn.Sequential:
    """Layers run in this order; the names are those of their parameters."""
    return nn.Sequential(OrderedDict(layers))


def backwards(levels: list[nn.Sequential]) -> nn.Sequential:
    """Levels run from the last to the first, named by number."""
    return nn.Sequential(OrderedDict(reversed([(str(i), layers) for i, layers in enumerate(levels)])))


def level(config: CausalVAEConfig, side: str, index: int, c_in: int, count: int) -> nn.Sequential:
    """Residual blocks, then a change of space, then one of time."""
    width, groups = config.widths[index], config.norm_num_groups
    inputs = [c_in, *[width] * (count - 1)]
    way = "downsample" if side == "encoder" else "upsample"
    blocks = [build(config, f"{side}_resnet_blocks", size, width, groups, level=index) for size in inputs]
    space = build(config, f"{side}_spatial_{way}", width, level=index)
    time = build(config, f"{side}_temporal_{way}", width, level=index)
    return sequence(block=nn.Sequential(*blocks), **{way: space, f"time_{way}": time})


def middle(config: CausalVAEConfig, side: str) -> nn.Sequential:
    """Block, attention within frames, block."""
    width, groups = config.widths[-1], config.norm_num_groups
    return sequence(
        block_1=build(config, f"{side}_mid_resnet", width, width, groups),
        attn_1=build(config, f"{side}_attention", width, groups),
        block_2=build(config, f"{side}_mid_resnet", width, width, groups),
    )


def encoder(config: CausalVAEConfig) -> nn.Sequential:
    """Frames [B, 3, T, H, W] to the input of quant_conv, which gives moments."""
    widths, blocks = config.widths, config.num_res_blocks
    inputs = enumerate((config.hidden_size, *widths[:-1]))
    return sequence(
        conv_in=build(config, "encoder_conv_in", 3, config.hidden_size),
        down=nn.Sequential(*(level(config, "encoder", i, c_in, blocks) for i, c_in in inputs)),
        mid=middle(config, "encoder"),
        norm_out=group_norm(widths[-1], config.norm_num_groups),
        act=nn.SiLU(),
        conv_out=build(config, "encoder_conv_out", widths[-1], 2 * config.z_channels),
    )


def decoder(config: CausalVAEConfig) -> nn.Sequential:
    """The reverse of the encoder, from the last level to the first, with one more block in each."""
    widths, blocks = config.widths, config.num_res_blocks + 1
    inputs = enumerate((*widths[1:], widths[-1]))
    return sequence(
        conv_in=build(config, "decoder_conv_in", config.z_channels, widths[-1]),
        mid=middle(config, "decoder"),
        up=backwards([level(config, "decoder", i, c_in, blocks) for i, c_in in inputs]),
        norm_out=group_norm(widths[0], config.norm_num_groups),
        act=nn.SiLU(),
        conv_out=build(config, "decoder_conv_out", widths[0], 3),
    )


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
        self.encoder, self.decoder = encoder(config), decoder(config)
        self.quant_conv: nn.Module = nn.Identity()
        self.post_quant_conv: nn.Module = nn.Identity()
        if config.use_quant_layer:
            z_channels, channels = config.z_channels, config.embed_dim
            self.quant_conv = CausalConv3d(2 * z_channels, 2 * channels, 1)
            self.post_quant_conv = CausalConv3d(channels, z_channels, 1)

    def _check_tiling(self) -> None:
        tiling, factor = self.tiling, self.config.spatial_factor
        if tiling is not None and tiling.tile_sample_min_size != factor * tiling.tile_latent_min_size:
            raise ValueError(
                f"tile_sample_min_size {tiling.tile_sample_min_size} must be {factor} times "
                f"tile_latent_min_size {tiling.tile_latent_min_size}"
            )

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
        """ValueError if latents [B, C, T, H, W] do not match this number of frames."""
        self.check_channels(latents)
        factor = self.config.temporal_factor
        most = 1 + factor * (latents.shape[2] - 1)
        if not max(1, most - factor + 1) <= num_frames <= most:
            raise ValueError(
                f"num_frames {num_frames} must be in {max(1, most - factor + 1)} .. {most} for latents with "
                f"{latents.shape[2]} frames"
            )
