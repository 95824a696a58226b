"""OpenSoraT2V, the transformer of Open-Sora-Plan v1.2.0: every token attends to every token of the clip."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, NamedTuple

from torch import Tensor

from videosys.cache import NO_CACHE, Branch, Cache
from videosys.layers import kernels
from videosys.layers.backends import attend
from videosys.layers.modulation import Gated
from videosys.layers.rope import Rotary, rotary_table_3d, rotate_3d
from videosys.models.pixart.layers import AttentionProjections, mask_bias, visible_tokens
from videosys.models.pixart.transformer import (
    FIXED,
    PixArtBlock,
    PixArtCondition,
    PixArtConfig,
    PixArtTransformer,
)
from videosys.parallel import Parallel
from videosys.utils.typed import (
    MOST_BLOCKS,
    MOST_CHANNELS,
    MOST_FRAMES,
    MOST_HEADS,
    MOST_PIXELS,
    limited,
    listing,
)


@dataclass(frozen=True)
class OpenSoraT2VConfig(PixArtConfig):
    """Fields of the published config.json; the defaults are the shape of the released 93x480p.

    The interpolation scales are in every published file; where one is null or missing, it follows from the
    sample size.
    """

    fixed: ClassVar[Mapping[str, object]] = MappingProxyType({**FIXED, "use_rope": True, "downsampler": None})

    num_layers: int = limited(32, most=MOST_BLOCKS)
    num_attention_heads: int = limited(24, most=MOST_HEADS)
    attention_head_dim: int = limited(96, most=MOST_CHANNELS)
    out_channels: int = limited(4, most=MOST_CHANNELS)
    cross_attention_dim: int = limited(2304, most=MOST_CHANNELS)
    sample_size: tuple[int, int] = limited((60, 80), most=MOST_PIXELS)  # latent rows and columns
    sample_size_t: int = limited(24, most=MOST_FRAMES)  # latent frames
    interpolation_scale_t: float | None = None
    interpolation_scale_h: float | None = None
    interpolation_scale_w: float | None = None
    downsampler: str | None = None
    use_rope: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.attention_head_dim % 6:
            raise ValueError(
                f"attention_head_dim {self.attention_head_dim} must be a multiple of 6 (3-D rotary)"
            )
        if min(self.interpolation_scales) <= 0:
            raise ValueError(f"interpolation scales {self.interpolation_scales} must be positive")

    def check_parallel(self, sp: int, latent_size: tuple[int, int, int]) -> None:
        """ValueError if `sp` devices cannot share the tokens of such latents and the heads."""
        super().check_parallel(sp, latent_size)
        heads = self.num_attention_heads
        if heads % sp:
            allowed = [n for n in range(1, heads + 1) if heads % n == 0]
            raise ValueError(
                f"parallel.sp is {sp}, which does not divide the {heads} attention heads; "
                f"allowed: {listing(allowed)}"
            )

    @property
    def interpolation_scales(self) -> tuple[float, float, float]:
        """Divisors of positions along time, height and width; null means from the sample size."""
        frames, (rows, columns) = self.sample_size_t, self.sample_size
        from_size = ((frames - 1) // 16 + 1 if frames % 2 else frames / 16, rows / 30, columns / 40)
        scales = (self.interpolation_scale_t, self.interpolation_scale_h, self.interpolation_scale_w)
        t, h, w = (default if scale is None else scale for scale, default in zip(scales, from_size))
        return t, h, w


class JointLayout(NamedTuple):
    """Positions of all tokens for self-attention, also if x has a shard of them."""

    rotary: Rotary  # two [T * S, 1, 3, d/6]
    bias: Tensor | None  # [B, 1, 1, T * S] if some latents are not visible
    tokens_per_frame: int  # S, of all shards


@dataclass(frozen=True)
class OpenSoraT2VCondition(PixArtCondition):
    """Everything that is constant over the steps of one generation."""

    layout: JointLayout


class JointAttention(AttentionProjections):
    """Attention over all tokens of a clip, with rotary positions. If the tokens are sharded, they are
    exchanged for heads, and back afterwards.
    """

    def __init__(self, dim: int, num_heads: int, bias: bool, parallel: Parallel):
        super().__init__(dim, num_heads, bias)
        self.parallel = parallel

    def forward(self, x: Tensor, layout: JointLayout) -> Tensor:
        """x [B, T, S/n, C]."""
        size = layout.tokens_per_frame
        out = self._attended(x, layout).unflatten(1, (-1, size))
        return self.output(self.parallel.swap(out, gather=3, scatter=2, size=self.num_heads))

    def _attended(self, x: Tensor, layout: JointLayout) -> Tensor:
        """Attention of all tokens for this rank's heads: [B, T * S, heads/n, d]."""
        parts = self.parallel.swap_all(self.project(x), gather=2, scatter=3, size=layout.tokens_per_frame)
        q, k, v = (part.flatten(1, 2) for part in parts)
        del parts  # frees what is not rotated
        if self.uses_kernels and kernels.serves_heads(q, k):
            q, k = kernels.norm_rotate((q, k), table=layout.rotary, group=q.shape[-1] // 6)
        else:
            q = rotate_3d(q, layout.rotary)
            k = rotate_3d(k, layout.rotary)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        return attend(q, k, v, layout.bias, self.attention_backend)


class JointBlock(PixArtBlock):
    """Self-attention over the clip, cross-attention to the text, and a feed-forward."""

    def attention(self, dim: int, num_heads: int, bias: bool) -> JointAttention:
        return JointAttention(dim, num_heads, bias, self.parallel)

    def attend(self, attn: JointAttention, x: Tensor, layout: JointLayout) -> Tensor:
        return attn(x, layout)

    def gated_attention(self, branch: Branch, gate: Tensor, attended: Callable[[], Tensor]) -> Gated:
        """The attention and its gate; a kept one uses the gate of the current step."""
        return branch("attention", attended), gate


class OpenSoraT2V(PixArtTransformer[OpenSoraT2VConfig, OpenSoraT2VCondition]):
    """Predicts the noise of a video's latents, with blocks that attend to the whole clip."""

    block_types = MappingProxyType({"joint": ("transformer_blocks", JointBlock)})

    def prepare(
        self,
        prompt_embeds: Tensor,
        prompt_mask: Tensor | None = None,
        *,
        latent_size: tuple[int, int, int],
        visible_mask: Tensor | None = None,
    ) -> OpenSoraT2VCondition:
        """The condition of one generation.

        prompt_embeds [B, L, D]; prompt_mask [B, L], 1 = keep; visible_mask [B or a divisor of B, T, H, W], 1
        where a latent is part of the clip, 0 where it is padding that is masked. ValueError for
        masks of other shapes.
        """
        grid = self.config.grid(latent_size)
        cos, sin = rotary_table_3d(
            grid.size, self.config.interpolation_scales, self.config.attention_head_dim
        )
        visible = visible_tokens(visible_mask, grid, len(prompt_embeds))
        bias = mask_bias(None if visible is None else visible.flatten(1), self.dtype)
        layout = JointLayout(
            rotary=(cos.to(self.device), sin.to(self.device)),
            bias=None if bias is None else bias.to(self.device),
            tokens_per_frame=grid.tokens_per_frame,
        )
        return OpenSoraT2VCondition(grid, self.prepare_text(prompt_embeds, prompt_mask), layout)

    def run_blocks(
        self, x: Tensor, t6: Tensor, condition: OpenSoraT2VCondition, cache: Cache = NO_CACHE
    ) -> Tensor:
        for i, block in enumerate(self.transformer_blocks):
            x = block(x, t6, condition.text[i], condition.layout, cache.layer("joint", i))
        return x
