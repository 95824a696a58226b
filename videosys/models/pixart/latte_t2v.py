"""LatteT2V, the transformer of Latte-1 (arXiv 2401.03048) and of Open-Sora-Plan v1.1.0: alternating spatial
and temporal blocks on tokens [B, T, S, C].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import nn

from videosys.cache import NO_CACHE, Branch, Cache
from videosys.layers.attention import TextKV
from videosys.layers.embeddings import sine_cosine
from videosys.layers.frames import over_frames, within_frames
from videosys.layers.grid import Grid
from videosys.layers.modulation import EPS, modulate, modulation
from videosys.models.pixart.layers import (
    AdaLNSingle,
    CaptionProjection,
    CrossAttention,
    FeedForward,
    PatchEmbed,
    SelfAttention,
    mask_bias,
    visible_text,
)
from videosys.parallel import Parallel

NATIVE_SAMPLE_SIZE = 64  # latent size up to which spatial positions are not squeezed


@dataclass(frozen=True)
class LatteT2VConfig:
    """Fields of the published config.json; the defaults are Latte-1.

    sample_size and video_length: the latent size that the model was trained on; rows and columns set the
        scale of the positions. Another size may be given to `prepare`.
    interpolation_scale_1d: what frame numbers are divided by; None for 1. (Open-Sora-Plan v1.1.0 has a rule
        of its own where its file says nothing: see its pipeline.)
    Fields with one allowed value name what no published checkpoint has otherwise.
    """

    num_layers: int = 28
    num_attention_heads: int = 16
    attention_head_dim: int = 72
    in_channels: int = 4
    out_channels: int = 8
    patch_size: int = 2
    sample_size: int | tuple[int, int] = 64
    video_length: int = 16
    interpolation_scale_1d: float | None = None
    caption_channels: int = 4096
    cross_attention_dim: int = 1152
    norm_eps: float = 1e-6
    attention_bias: Literal[True] = True
    activation_fn: Literal["gelu-approximate"] = "gelu-approximate"
    norm_type: Literal["ada_norm_single"] = "ada_norm_single"
    norm_elementwise_affine: Literal[False] = False
    patch_size_t: Literal[1] = 1
    use_rope: Literal[False] = False
    compress_kv_factor: Literal[1] = 1

    def __post_init__(self) -> None:
        if self.hidden_size % 4:
            raise ValueError(
                f"num_attention_heads ({self.num_attention_heads}) times attention_head_dim "
                f"({self.attention_head_dim}) must be a multiple of 4 (position embedding)"
            )
        if self.cross_attention_dim != self.hidden_size:
            raise ValueError(
                f"cross_attention_dim is {self.cross_attention_dim}; it must be num_attention_heads times "
                f"attention_head_dim, {self.hidden_size}"
            )
        if self.norm_eps != EPS:
            raise ValueError(f"norm_eps is {self.norm_eps}; it must be {EPS}")

    @property
    def hidden_size(self) -> int:
        return self.num_attention_heads * self.attention_head_dim

    def check_parallel(self, sp: int, latent_size: tuple[int, int, int]) -> None:
        """ValueError where `sp` devices cannot share the tokens of such latents."""
        Grid(latent_size, (1, self.patch_size, self.patch_size)).check_shards(sp)

    @property
    def native_size(self) -> int:
        """Latent rows, and columns: all published checkpoints are square."""
        return self.sample_size if isinstance(self.sample_size, int) else self.sample_size[0]

    @property
    def frame_scale(self) -> float:
        return 1.0 if self.interpolation_scale_1d is None else self.interpolation_scale_1d


@dataclass(frozen=True)
class LatteCondition:
    """All that stays the same over the steps of one generation."""

    grid: Grid
    position: torch.Tensor  # [S/n, C]
    frame_position: torch.Tensor | None  # [T, 1, C]; None for a single frame
    text: tuple[tuple[TextKV, ...], ...]  # per spatial block
    visible: torch.Tensor | None  # bias [B*T/n, 1, 1, S] of the spatial attentions; None where all is visible
    enable_temporal_attentions: bool


class SpatialBlock(nn.Module):
    """Self-attention within each frame, cross-attention to the text and an MLP."""

    def __init__(self, config: LatteT2VConfig, parallel: Parallel):
        super().__init__()
        dim, heads = config.hidden_size, config.num_attention_heads
        self.parallel = parallel
        self.scale_shift_table = nn.Parameter(torch.randn(6, dim) / dim**0.5)
        self.attn1 = SelfAttention(dim, heads)
        self.attn2 = CrossAttention(dim, heads)
        self.ff = FeedForward(dim)

    def modulated_input(self, x: torch.Tensor, t6: torch.Tensor) -> torch.Tensor:
        """LN(x) modulated by the time: what the first self-attention sees, and TeaCache's signal."""
        shift, scale, *_ = modulation(self.scale_shift_table, t6)
        return modulate(x, shift, scale)

    def forward(
        self,
        x: torch.Tensor,
        t6: torch.Tensor,
        text: Sequence[TextKV],
        condition: LatteCondition,
        branch: Branch,
    ) -> torch.Tensor:
        """x [B, T, S, C], t6 [B, 1, 6, C]. `branch` may answer with what it kept instead of computing."""
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation(self.scale_shift_table, t6)
        x = x + branch("attention", lambda: gate1 * self.attend(modulate(x, shift1, scale1), condition))
        x = x + branch("cross", lambda: self.attn2(x, text))  # neither norm nor gate
        x = x + branch("mlp", lambda: gate2 * self.ff(modulate(x, shift2, scale2)))
        return x

    def attend(self, x: torch.Tensor, condition: LatteCondition) -> torch.Tensor:
        tokens_per_frame = condition.grid.tokens_per_frame
        return within_frames(
            lambda rows: self.attn1(rows, condition.visible), x, self.parallel, tokens_per_frame
        )


class TemporalBlock(nn.Module):
    """Self-attention over the frames at each position, and an MLP; the text does not enter."""

    def __init__(self, config: LatteT2VConfig):
        super().__init__()
        dim = config.hidden_size
        self.scale_shift_table = nn.Parameter(torch.randn(6, dim) / dim**0.5)
        self.attn1 = SelfAttention(dim, config.num_attention_heads)
        self.ff = FeedForward(dim)

    def forward(self, x: torch.Tensor, t6: torch.Tensor, branch: Branch) -> torch.Tensor:
        """As in a spatial block."""
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation(self.scale_shift_table, t6)
        x = x + branch("attention", lambda: gate1 * over_frames(self.attn1, modulate(x, shift1, scale1)))
        x = x + branch("mlp", lambda: gate2 * self.ff(modulate(x, shift2, scale2)))
        return x


class LatteT2V(nn.Module):
    """Predicts the noise of a video's latents. Parameter names are those of the published checkpoints."""

    # A null caption that some checkpoints carry and no inference code reads.
    ignored_keys = ("caption_projection.y_embedding",)

    def __init__(self, config: LatteT2VConfig, parallel: Parallel = Parallel()):
        super().__init__()
        self.config, self.parallel = config, parallel
        dim, num_layers = config.hidden_size, config.num_layers
        self.pos_embed = PatchEmbed(config.in_channels, dim, config.patch_size)
        self.adaln_single = AdaLNSingle(dim)
        self.caption_projection = CaptionProjection(config.caption_channels, dim)
        self.transformer_blocks = nn.ModuleList(SpatialBlock(config, parallel) for _ in range(num_layers))
        self.temporal_transformer_blocks = nn.ModuleList(TemporalBlock(config) for _ in range(num_layers))
        self.scale_shift_table = nn.Parameter(torch.randn(2, dim) / dim**0.5)
        self.proj_out = nn.Linear(dim, config.patch_size**2 * config.out_channels)

    @property
    def spatial_blocks(self) -> list[SpatialBlock]:
        return cast("list[SpatialBlock]", list(self.transformer_blocks))

    @property
    def temporal_blocks(self) -> list[TemporalBlock]:
        return cast("list[TemporalBlock]", list(self.temporal_transformer_blocks))

    @property
    def dtype(self) -> torch.dtype:
        return self.proj_out.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.proj_out.weight.device

    def prepare(
        self,
        prompt_embeds: torch.Tensor,
        prompt_mask: torch.Tensor | None = None,
        *,
        latent_size: tuple[int, int, int],
        visible_mask: torch.Tensor | None = None,
        enable_temporal_attentions: bool = True,
    ) -> LatteCondition:
        """The condition of one generation.

        prompt_embeds [B, L, D]; prompt_mask [B, L], 1 = keep. visible_mask [B or a divisor of B, T, H, W], 1
        where a latent is part of the picture and 0 where it is padding; a patch is visible when any of its
        latents is. What is masked is pushed away by a finite bias: with all of it masked, all of it is seen.
        enable_temporal_attentions: False leaves out the temporal blocks, so that each frame is a picture.

        Raises ValueError for a latent_size that does not divide into patches and for masks that do not fit.
        """
        grid = self._grid(latent_size)
        text, mask = visible_text(prompt_embeds.to(self.device), prompt_mask)
        y, bias = self.caption_projection(text), mask_bias(mask, self.dtype)
        position = self.parallel.shard(self._position(grid), dim=0)
        frames = self._frame_position(grid) if grid.num_frames > 1 else None
        return LatteCondition(
            grid=grid,
            position=position.to(self.device, self.dtype),
            frame_position=None if frames is None else frames.to(self.device, self.dtype),
            text=tuple((block.attn2.prepare(slice(0, len(y)), y, bias),) for block in self.spatial_blocks),
            visible=self._visible(visible_mask, grid, len(prompt_embeds)),
            enable_temporal_attentions=enable_temporal_attentions,
        )

    def _grid(self, latent_size: tuple[int, int, int]) -> Grid:
        size = tuple(latent_size)
        patch = self.config.patch_size
        if len(size) != 3 or min(size) < 1 or size[1] % patch or size[2] % patch:
            raise ValueError(
                f"latent_size is {size}; it must be (frames, rows, columns), rows and columns multiples of "
                f"{patch}"
            )
        return Grid(size, (1, patch, patch))

    def _position(self, grid: Grid) -> torch.Tensor:
        """[S, C]: the column in the first half of the channels, the row in the second. Both axes are
        stretched to the native size.
        """
        native = self.config.native_size
        base, scale = native // self.config.patch_size, max(native // NATIVE_SAMPLE_SIZE, 1)
        _, rows, columns = grid.size
        half = self.config.hidden_size // 2
        # The checkpoints saw coordinates rounded to float32.
        row, column = (
            sine_cosine(torch.arange(n, dtype=torch.float32) / (n / base) / scale, half)
            for n in (rows, columns)
        )
        return torch.cat((column.repeat(rows, 1), row.repeat_interleave(columns, dim=0)), dim=-1)

    def _frame_position(self, grid: Grid) -> torch.Tensor:
        frames = torch.arange(grid.num_frames, dtype=torch.float64) / self.config.frame_scale
        return sine_cosine(frames, self.config.hidden_size)[:, None]

    def _visible(self, mask: torch.Tensor | None, grid: Grid, batch: int) -> torch.Tensor | None:
        if mask is None:
            return None
        grid.check_mask(mask, batch)
        patches = grid.patchify((mask != 0).to(self.device, torch.float32)[:, None]).amax(dim=-1)
        bias = mask_bias(patches.repeat(batch // len(mask), 1, 1).flatten(0, 1), self.dtype)
        return None if bias is None else self.parallel.shard(bias, dim=0)

    def forward(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        condition: LatteCondition,
        cache: Cache = NO_CACHE,
    ) -> torch.Tensor:
        """Noise and, with twice the channels, an unused variance: float32 [B, C_out, T, H, W].

        latents [B, C, T, H, W]; timesteps [B] in 0..1000.
        """
        x, t, t6 = self.embed(latents, timesteps, condition)
        if cache.should_compute(lambda kind: self.signal(kind, x, t, t6)):
            x = cache.store(x, self.run_blocks(x, t6, condition, cache))
        else:
            x = cache.reuse(x)
        return self.head(x, t, condition)

    def embed(
        self, latents: torch.Tensor, timesteps: torch.Tensor, condition: LatteCondition
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Tokens [B, T, S/n, C] with their positions in the frame, the time t [B, C] and its modulation
        vectors t6 [B, 1, 6, C].
        """
        patches = self.parallel.shard(condition.grid.patchify(latents), dim=2)
        return self.pos_embed(patches) + condition.position, *self.adaln_single(timesteps)

    def signal(self, kind: str, x: torch.Tensor, t: torch.Tensor, t6: torch.Tensor) -> torch.Tensor:
        """What a cache watches (arXiv 2411.19108, section 3.3): `modulated` input of the first block, or
        `timestep`.
        """
        return t if kind == "timestep" else self.spatial_blocks[0].modulated_input(x, t6)

    def run_blocks(
        self, x: torch.Tensor, t6: torch.Tensor, condition: LatteCondition, cache: Cache = NO_CACHE
    ) -> torch.Tensor:
        for i, (spatial, temporal) in enumerate(zip(self.spatial_blocks, self.temporal_blocks)):
            x = spatial(x, t6, condition.text[i], condition, cache.layer("spatial", i))
            if not condition.enable_temporal_attentions:
                continue
            if i == 0 and condition.frame_position is not None:
                x = x + condition.frame_position
            x = temporal(x, t6, cache.layer("temporal", i))
        return x

    def head(self, x: torch.Tensor, t: torch.Tensor, condition: LatteCondition) -> torch.Tensor:
        shift, scale = modulation(self.scale_shift_table, t[:, None, None])
        patches = self.proj_out(modulate(x, shift, scale))
        patches = self.parallel.gather(patches, dim=2, size=condition.grid.tokens_per_frame)
        return condition.grid.unpatchify(patches).float()
