"""STDiT3, the transformer of Open-Sora v1.2: spatial and temporal blocks in turn, tokens [B, T, S, C]."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import Any, NamedTuple, cast

import torch
from einops import rearrange
from torch import Tensor, nn

from videosys.cache import NO_CACHE, Cache
from videosys.layers.attention import CrossAttention, SelfAttention, TextKV
from videosys.layers.embeddings import CaptionEmbedder, PatchEmbed, ScalarEmbedder, position_embedding
from videosys.layers.feedforward import Mlp
from videosys.layers.frames import spatial_attention, temporal_attention
from videosys.layers.grid import Grid, TokenConfig
from videosys.layers.modulation import AdaLNBlock, TextBlock, modulate, modulation, select_frames
from videosys.layers.rope import Rotary, RotaryEmbedding
from videosys.parallel import Parallel
from videosys.utils.typed import (
    MOST_BLOCKS,
    MOST_CHANNELS,
    MOST_HEADS,
    MOST_LEVELS,
    MOST_PIXELS,
    check_positive,
    limited,
)

LONGEST_PROMPT = 10_000  # tokens; each needs memory in every request


class TokenLayout(NamedTuple):
    """Positions of tokens in time and in a frame, for attention."""

    rotary: Rotary  # two [T, d/2]
    tokens_per_frame: int  # S of all shards


@dataclass(frozen=True)
class STDiT3Config(TokenConfig):
    """Fields of the published config.json; the defaults are the released XL/2."""

    input_sq_size: int = limited(512, most=MOST_PIXELS)
    in_channels: int = limited(4, most=MOST_CHANNELS)
    patch_size: tuple[int, int, int] = limited((1, 2, 2), most=MOST_LEVELS)
    hidden_size: int = limited(1152, most=MOST_CHANNELS)
    depth: int = limited(28, most=MOST_BLOCKS)
    num_heads: int = limited(16, most=MOST_HEADS)
    mlp_ratio: float = limited(4.0, most=64)
    pred_sigma: bool = True
    caption_channels: int = limited(4096, most=MOST_CHANNELS)
    model_max_length: int = limited(300, most=LONGEST_PROMPT)
    qk_norm: bool = True

    def __post_init__(self) -> None:
        check_positive(
            self, "input_sq_size", "in_channels", "patch_size", "hidden_size", "depth", "num_heads"
        )
        check_positive(self, "mlp_ratio", "caption_channels", "model_max_length")
        if self.hidden_size % self.num_heads or self.hidden_size // self.num_heads % 2:
            raise ValueError(
                f"hidden_size {self.hidden_size} must be num_heads ({self.num_heads}) times an even number"
            )
        if self.hidden_size % 4:
            raise ValueError(f"hidden_size {self.hidden_size} must be a multiple of 4 (position embedding)")

    @property
    def out_channels(self) -> int:
        """Channels of the output: velocity, and as many of sigma with pred_sigma."""
        return self.in_channels * (2 if self.pred_sigma else 1)


@dataclass(frozen=True)
class STDiT3Condition:
    """Everything that is constant over the steps of one generation."""

    grid: Grid
    position: Tensor  # [S, C]
    layout: TokenLayout
    fps: Tensor  # [B or 1, C]
    spatial_text: tuple[tuple[TextKV, ...], ...]  # per block
    temporal_text: tuple[tuple[TextKV, ...], ...]


class TimeEmbedding(NamedTuple):
    """The time embedding t [B, C] and its six modulation vectors t6 [B, 1, 6, C].

    If some frames are kept as a condition: the same at timestep 0, and which frames are free, [B, T].
    """

    t: Tensor
    t6: Tensor
    t_kept: Tensor | None = None
    t6_kept: Tensor | None = None
    frame_mask: Tensor | None = None

    def t6_per_frame(self) -> Tensor:
        """[B, 1, 6, C], or [B, T, 6, C] under a frame mask."""
        if self.frame_mask is None or self.t6_kept is None:
            return self.t6
        return select_frames(self.frame_mask, self.t6, self.t6_kept)


class STDiT3Block(TextBlock):
    """Self-attention, cross-attention to the text, MLP; spatial and temporal blocks differ in `attend`."""

    def __init__(self, config: STDiT3Config, parallel: Parallel):
        dim = config.hidden_size
        super().__init__(dim)
        self.parallel = parallel
        self.attn = SelfAttention(dim, config.num_heads, config.qk_norm)
        self.cross_attn = CrossAttention(dim, config.num_heads)
        self.mlp = Mlp(dim, int(dim * config.mlp_ratio), dim)


class SpatialBlock(STDiT3Block):
    """Attention of the tokens within each frame; see `spatial_attention` for sharded tokens."""

    def attend(self, attn: SelfAttention, x: Tensor, layout: TokenLayout) -> Tensor:
        return spatial_attention(attn, x, self.parallel, layout.tokens_per_frame)


class TemporalBlock(STDiT3Block):
    """Attention over the frames at each position, with rotary positions."""

    def attend(self, attn: SelfAttention, x: Tensor, layout: TokenLayout) -> Tensor:
        return temporal_attention(attn, x, layout.rotary)


class FinalLayer(nn.Module):
    """The head: a modulated norm and a linear layer to one patch of velocity (and sigma) per token."""

    def __init__(self, dim: int, patch_volume: int, out_channels: int):
        super().__init__()
        self.uses_kernels = False
        self.scale_shift_table = nn.Parameter(torch.randn(2, dim) / dim**0.5)
        self.linear = nn.Linear(dim, patch_volume * out_channels)

    def forward(self, x: Tensor, time: TimeEmbedding) -> Tensor:
        h = self._modulate(x, time.t)
        if time.frame_mask is not None and time.t_kept is not None:
            # Kept frames are modulated twice: the released weights were trained this way.
            h = select_frames(time.frame_mask, h, self._modulate(h, time.t_kept))
        return self.linear(h)

    def _modulate(self, x: Tensor, t: Tensor) -> Tensor:
        shift, scale = modulation(self.scale_shift_table, t[:, None, None])
        return modulate(x, shift, scale, self.uses_kernels)


class STDiT3(nn.Module):
    """Predicts the velocity of a rectified flow. Parameter names are those of the published checkpoint."""

    float32_parameters = ("rope.freqs",)
    memory_passes = (2 * 57, 2 * 8)  # of all tokens per layer, eager and fused; counted by hand

    def __init__(self, config: STDiT3Config, parallel: Parallel = Parallel()):
        super().__init__()
        self.config, self.parallel = config, parallel
        dim = config.hidden_size
        self.x_embedder = PatchEmbed(config.in_channels, dim, config.patch_size)
        self.t_embedder = ScalarEmbedder(dim)
        self.fps_embedder = ScalarEmbedder(dim)
        self.t_block = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.y_embedder = CaptionEmbedder(config.caption_channels, dim, config.model_max_length)
        self.rope = RotaryEmbedding(dim // config.num_heads)
        self.spatial_blocks = nn.ModuleList(SpatialBlock(config, parallel) for _ in range(config.depth))
        self.temporal_blocks = nn.ModuleList(TemporalBlock(config, parallel) for _ in range(config.depth))
        self.final_layer = FinalLayer(dim, math.prod(config.patch_size), config.out_channels)

    @property
    def stacks(self) -> dict[str, nn.ModuleList]:
        """The blocks by the name of their stack in caches."""
        return {"spatial": self.spatial_blocks, "temporal": self.temporal_blocks}

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights; some are float32 in every model."""
        return self.x_embedder.proj.weight.dtype

    def null_caption(self, length: int) -> Tensor:
        """The unconditional caption [length, D]: as many of its rows as the prompt has tokens."""
        return self.y_embedder.y_embedding[:length]

    def prepare(
        self,
        prompt_embeds: Tensor,
        prompt_mask: Tensor | None = None,
        *,
        latent_size: tuple[int, int, int],
        fps: float | Tensor,
        height: float,
        width: float,
    ) -> STDiT3Condition:
        """The condition of one generation.

        prompt_embeds [B, L, D]; prompt_mask [B or a divisor of B, L], 1 = keep, repeated along the batch;
        fps a number, [1] or [B]; height and width in pixels, which set the scale of the positions.
        """
        if prompt_embeds.shape[-1] != self.config.caption_channels:
            raise ValueError(
                f"the text encoder gives {prompt_embeds.shape[-1]} channels, but the transformer expects "
                f"{self.config.caption_channels}: they belong to different checkpoints"
            )
        grid = self.config.grid(latent_size)
        device = self.x_embedder.proj.weight.device
        texts = text_runs(prompt_embeds.to(device), prompt_mask)
        runs = [(rows, self.y_embedder(y)) for rows, y in texts]
        position = self.parallel.shard(self._position(grid, height, width), dim=0)
        return STDiT3Condition(
            grid=grid,
            position=position.to(device, self.dtype),
            layout=TokenLayout(self.rope(grid.num_frames), grid.tokens_per_frame),
            fps=self.fps_embedder(torch.as_tensor(fps, dtype=torch.float32, device=device).reshape(-1)),
            spatial_text=prepare_text(self.spatial_blocks, runs),
            temporal_text=prepare_text(self.temporal_blocks, runs),
        )

    def _position(self, grid: Grid, height: float, width: float) -> Tensor:
        _, rows, columns = grid.size
        scale = math.sqrt(height * width) / self.config.input_sq_size
        base_size = round(math.sqrt(grid.tokens_per_frame))
        return position_embedding(rows, columns, self.config.hidden_size, scale, base_size)

    def forward(
        self,
        latents: Tensor,
        timesteps: Tensor,
        condition: STDiT3Condition,
        cache: Cache = NO_CACHE,
        frame_mask: Tensor | None = None,
    ) -> Tensor:
        """Velocity and, with pred_sigma, an unused sigma: float32 [B, C_out, T, H, W].

        latents [B, C, T, H, W]; timesteps [B] in 0..1000; frame_mask [B, T] of bool, True where a frame is
        being denoised and False where it is kept as a condition (modulated as at timestep 0).
        """
        x, time = self.embed(latents, timesteps, condition, frame_mask)
        if cache.should_compute(lambda kind: self.signal(kind, x, time)):
            x = cache.store(x, self.run_blocks(x, time, condition, cache))
        else:
            x = cache.reuse(x)
        return self.head(x, time, condition)

    def embed(
        self, latents: Tensor, timesteps: Tensor, condition: STDiT3Condition, frame_mask: Tensor | None = None
    ) -> tuple[Tensor, TimeEmbedding]:
        """Tokens [B, T, S/n, C] with their positions, and the time vectors."""
        patches = self.parallel.shard(condition.grid.patchify(latents), dim=2)
        x = self.x_embedder(patches) + condition.position
        t, t6 = self._time(timesteps, condition)
        if frame_mask is None:
            return x, TimeEmbedding(t, t6)
        kept = self._time(torch.zeros_like(timesteps), condition)
        return x, TimeEmbedding(t, t6, *kept, frame_mask.to(x.device))

    def _time(self, timesteps: Tensor, condition: STDiT3Condition) -> tuple[Tensor, Tensor]:
        t = self.t_embedder(timesteps) + condition.fps
        return t, rearrange(self.t_block(t), "b (six c) -> b 1 six c", six=6)

    def signal(self, kind: str, x: Tensor, time: TimeEmbedding) -> Tensor:
        """The signal of a cache: the first block's input (`modulated`), or the time (`timestep`).

        arXiv 2411.19108, section 3.3 and the ablation of the timestep embedding.
        """
        first = cast(AdaLNBlock, self.spatial_blocks[0])
        return time.t if kind == "timestep" else first.modulated_input(x, time.t6)

    def run_blocks(
        self, x: Tensor, time: TimeEmbedding, condition: STDiT3Condition, cache: Cache = NO_CACHE
    ) -> Tensor:
        """Tokens x [B, T, S/n, C] after all blocks."""
        t6 = time.t6_per_frame()
        for i, (spatial, temporal) in enumerate(zip(*self.stacks.values())):
            x = spatial(x, t6, condition.spatial_text[i], condition.layout, cache.layer("spatial", i))
            x = temporal(x, t6, condition.temporal_text[i], condition.layout, cache.layer("temporal", i))
        return x

    def head(self, x: Tensor, time: TimeEmbedding, condition: STDiT3Condition) -> Tensor:
        """Velocity (and sigma) of tokens x [B, T, S/n, C], gathered: float32 [B, C_out, T, H, W]."""
        patches = self.parallel.gather(self.final_layer(x, time), dim=2, size=condition.grid.tokens_per_frame)
        return condition.grid.unpatchify(patches).float()


def text_runs(prompt_embeds: Tensor, prompt_mask: Tensor | None) -> list[tuple[slice, Tensor]]:
    """Yield runs of neighbouring samples with the same number of kept tokens: (rows, tokens [b, L, D])."""
    batch = prompt_embeds.shape[0]
    if prompt_mask is None:
        return [(slice(0, batch), prompt_embeds)]
    if batch % prompt_mask.shape[0] or prompt_mask.shape[1] != prompt_embeds.shape[1]:
        raise ValueError(
            f"prompt_mask {tuple(prompt_mask.shape)} does not fit text {tuple(prompt_embeds.shape)}"
        )
    mask = prompt_mask.bool().to(prompt_embeds.device).repeat(batch // prompt_mask.shape[0], 1)
    if not bool(mask.any(dim=1).all()):
        raise ValueError("prompt_mask keeps no token of at least one prompt")
    kept = [y[keep] for y, keep in zip(prompt_embeds, mask)]
    groups = [list(group) for _, group in groupby(kept, key=len)]
    ends = accumulate(map(len, groups))
    return [(slice(end - len(group), end), torch.stack(group)) for end, group in zip(ends, groups)]


def prepare_text(
    blocks: Iterable[Any], runs: Sequence[tuple[slice, Tensor]]
) -> tuple[tuple[TextKV, ...], ...]:
    """The keys and values of the text for each block."""
    return tuple(tuple(block.cross_attn.prepare(rows, y) for rows, y in runs) for block in blocks)
