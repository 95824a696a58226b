"""LatteT2V, the transformer of Latte-1 (arXiv 2401.03048) and of Open-Sora-Plan v1.1.0: alternating spatial
and temporal blocks on tokens [B, T, S, C].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor

from videosys.cache import NO_CACHE, Cache
from videosys.layers.embeddings import arange, sine_cosine
from videosys.layers.frames import spatial_attention, temporal_attention
from videosys.layers.grid import Grid
from videosys.models.pixart.layers import SelfAttention, mask_bias, visible_tokens
from videosys.models.pixart.transformer import (
    FIXED,
    PixArtBlock,
    PixArtCondition,
    PixArtConfig,
    PixArtTransformer,
)
from videosys.utils.typed import MOST_BLOCKS, MOST_CHANNELS, MOST_FRAMES, MOST_HEADS, MOST_PIXELS, limited

NATIVE_SAMPLE_SIZE = 64  # latent size up to which spatial positions are not scaled


@dataclass(frozen=True)
class LatteT2VConfig(PixArtConfig):
    """Fields of the published config.json; the defaults are Latte-1.

    sample_size and video_length: the latent size that the model was trained on; rows and columns set the
        scale of the positions. Another size may be given to `prepare`.
    interpolation_scale_1d: divisor of frame numbers; None for 1. (Open-Sora-Plan v1.1.0 has its own
        rule if the file has no value: see its pipeline.)
    """

    fixed: ClassVar[Mapping[str, object]] = MappingProxyType(
        {**FIXED, "attention_bias": True, "use_rope": False, "compress_kv_factor": 1}
    )

    num_layers: int = limited(28, most=MOST_BLOCKS)
    num_attention_heads: int = limited(16, most=MOST_HEADS)
    attention_head_dim: int = limited(72, most=MOST_CHANNELS)
    out_channels: int = limited(8, most=MOST_CHANNELS)
    cross_attention_dim: int = limited(1152, most=MOST_CHANNELS)
    sample_size: int | tuple[int, int] = limited(64, most=MOST_PIXELS)
    video_length: int = limited(16, most=MOST_FRAMES)
    interpolation_scale_1d: float | None = None
    use_rope: bool = False
    compress_kv_factor: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden_size % 4:
            raise ValueError(
                f"num_attention_heads ({self.num_attention_heads}) times attention_head_dim "
                f"({self.attention_head_dim}) must be a multiple of 4 (position embedding)"
            )

    @property
    def native_size(self) -> int:
        """Latent rows, and columns: all published checkpoints are square."""
        return self.sample_size if isinstance(self.sample_size, int) else self.sample_size[0]

    @property
    def frame_scale(self) -> float:
        """The divisor of frame numbers."""
        return 1.0 if self.interpolation_scale_1d is None else self.interpolation_scale_1d


@dataclass(frozen=True)
class LatteCondition(PixArtCondition):
    """Everything that is constant over the steps of one generation."""

    position: Tensor  # [S/n, C]
    frame_position: Tensor | None  # [T, 1, C]; None for a single frame
    visible: Tensor | None  # bias [B*T/n, 1, 1, S] of the spatial attentions; None if all is visible
    enable_temporal_attentions: bool


class SpatialBlock(PixArtBlock):
    """Attention of the tokens within each frame, and to the text."""

    def attend(self, attn: SelfAttention, x: Tensor, condition: LatteCondition) -> Tensor:
        tokens_per_frame = condition.grid.tokens_per_frame
        return spatial_attention(
            lambda rows: attn(rows, condition.visible), x, self.parallel, tokens_per_frame
        )


class TemporalBlock(PixArtBlock):
    """Attention over the frames at each position, without text."""

    branches = ("attention", "mlp")

    def attend(self, attn: SelfAttention, x: Tensor, condition: LatteCondition) -> Tensor:
        return temporal_attention(attn, x)


class LatteT2V(PixArtTransformer[LatteT2VConfig, LatteCondition]):
    """Predicts the noise of a video's latents, with alternating spatial and temporal blocks."""

    # A null caption in some checkpoints that inference does not use.
    ignored_keys = ("caption_projection.y_embedding",)
    memory_passes = (33 + 25, 2 * 4)  # of all tokens per layer, eager and fused; counted by hand

    block_types = MappingProxyType(
        {
            "spatial": ("transformer_blocks", SpatialBlock),
            "temporal": ("temporal_transformer_blocks", TemporalBlock),
        }
    )

    def prepare(
        self,
        prompt_embeds: Tensor,
        prompt_mask: Tensor | None = None,
        *,
        latent_size: tuple[int, int, int],
        visible_mask: Tensor | None = None,
        enable_temporal_attentions: bool = True,
    ) -> LatteCondition:
        """The condition of one generation.

        prompt_embeds [B, L, D]; prompt_mask [B, L], 1 = keep. visible_mask [B or a divisor of B, T, H, W], 1
        where a latent is part of the frame and 0 where it is padding; a patch is visible when any of its
        latents is. Masked tokens get a finite bias: if all are masked, all are visible.
        enable_temporal_attentions: False skips the temporal blocks, so that frames are independent.

        Raises ValueError for a latent_size that does not divide into patches and for masks of wrong shapes.
        """
        self._check_patches(latent_size)
        grid = self.config.grid(latent_size)
        position = self.parallel.shard(self._position(grid), dim=0)
        frames = self._frame_position(grid) if grid.num_frames > 1 else None
        return LatteCondition(
            grid=grid,
            position=position.to(self.device, self.dtype),
            frame_position=None if frames is None else frames.to(self.device, self.dtype),
            text=self.prepare_text(prompt_embeds, prompt_mask),
            visible=self._visible(visible_mask, grid, len(prompt_embeds)),
            enable_temporal_attentions=enable_temporal_attentions,
        )

    def _check_patches(self, latent_size: tuple[int, int, int]) -> None:
        size, patch = tuple(latent_size), self.config.patch_size
        if len(size) != 3 or min(size) < 1 or size[1] % patch or size[2] % patch:
            raise ValueError(
                f"latent_size is {size}; it must be (frames, rows, columns), rows and columns multiples of "
                f"{patch}"
            )

    def _position(self, grid: Grid) -> Tensor:
        """[S, C]: the column in the first half of the channels, the row in the second. Both axes are
        scaled to the native size.
        """
        native = self.config.native_size
        base, scale = native // self.config.patch_size, max(native // NATIVE_SAMPLE_SIZE, 1)
        _, rows, columns = grid.size
        half = self.config.hidden_size // 2
        # The checkpoints were trained with coordinates in float32.
        row, column = (sine_cosine(arange(n) / (n / base) / scale, half) for n in (rows, columns))
        return torch.cat((column.repeat(rows, 1), row.repeat_interleave(columns, dim=0)), dim=-1)

    def _frame_position(self, grid: Grid) -> Tensor:
        frames = arange(grid.num_frames, dtype=torch.float64) / self.config.frame_scale
        return sine_cosine(frames, self.config.hidden_size)[:, None]

    def _visible(self, mask: Tensor | None, grid: Grid, batch: int) -> Tensor | None:
        tokens = visible_tokens(mask, grid, batch)
        bias = mask_bias(None if tokens is None else tokens.flatten(0, 1), self.dtype)
        return None if bias is None else self.parallel.shard(bias.to(self.device), dim=0)

    def embed(
        self, latents: Tensor, timesteps: Tensor, condition: LatteCondition
    ) -> tuple[Tensor, Tensor, Tensor]:
        x, t, t6 = super().embed(latents, timesteps, condition)
        return x + condition.position, t, t6

    def run_blocks(self, x: Tensor, t6: Tensor, condition: LatteCondition, cache: Cache = NO_CACHE) -> Tensor:
        for i, (spatial, temporal) in enumerate(zip(*self.stacks.values())):
            x = spatial(x, t6, condition.text[i], condition, cache.layer("spatial", i))
            if not condition.enable_temporal_attentions:
                continue
            if i == 0 and condition.frame_position is not None:
                x = x + condition.frame_position
            x = temporal(x, t6, None, condition, cache.layer("temporal", i))
        return x
