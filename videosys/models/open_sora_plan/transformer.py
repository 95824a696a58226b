"""OpenSoraT2V, the transformer of Open-Sora-Plan v1.2.0: every token attends to every token of the clip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import nn

from videosys.cache import NO_CACHE, Branch, Cache
from videosys.layers.attention import TextKV
from videosys.layers.backends import attend
from videosys.layers.grid import Grid
from videosys.layers.modulation import modulate, modulation
from videosys.layers.rope import rotary_table_3d, rotate_3d
from videosys.models.pixart.layers import (
    AdaLNSingle,
    Attention,
    CaptionProjection,
    CrossAttention,
    FeedForward,
    PatchEmbed,
    mask_bias,
    visible_text,
)
from videosys.parallel import Parallel
from videosys.utils.typed import listing

# What the published configs say in all sizes; other values would be another network.
FIXED = {
    "activation_fn": "gelu-approximate",
    "norm_type": "ada_norm_single",
    "norm_elementwise_affine": False,
    "norm_eps": 1e-6,
    "patch_size_t": 1,
    "downsampler": None,
    "use_rope": True,
}


@dataclass(frozen=True)
class OpenSoraT2VConfig:
    """Fields of the published config.json; the defaults are the shape of the released 93x480p.

    The interpolation scales are in every published file; where one is null or missing, it follows from the
    sample size.
    """

    num_layers: int = 32
    num_attention_heads: int = 24
    attention_head_dim: int = 96
    in_channels: int = 4
    out_channels: int = 4
    patch_size: int = 2
    patch_size_t: int = 1
    caption_channels: int = 4096
    cross_attention_dim: int = 2304
    attention_bias: bool = True
    sample_size: tuple[int, int] = (60, 80)  # latent rows and columns
    sample_size_t: int = 24  # latent frames
    interpolation_scale_t: float | None = None
    interpolation_scale_h: float | None = None
    interpolation_scale_w: float | None = None
    activation_fn: str = "gelu-approximate"
    norm_type: str = "ada_norm_single"
    norm_elementwise_affine: bool = False
    norm_eps: float = 1e-6
    downsampler: str | None = None
    use_rope: bool = True

    def __post_init__(self) -> None:
        for name, value in FIXED.items():
            if getattr(self, name) != value:
                raise ValueError(f"{name} is {getattr(self, name)!r}, only {value!r} is supported")
        if self.attention_head_dim % 6:
            raise ValueError(
                f"attention_head_dim {self.attention_head_dim} must be a multiple of 6 (3-D rotary)"
            )
        if self.cross_attention_dim != self.hidden_size:
            raise ValueError(
                f"cross_attention_dim {self.cross_attention_dim} must be the width {self.hidden_size}"
            )
        if min(self.interpolation_scales) <= 0:
            raise ValueError(f"interpolation scales {self.interpolation_scales} must be positive")

    @property
    def hidden_size(self) -> int:
        return self.num_attention_heads * self.attention_head_dim

    def check_parallel(self, sp: int, latent_size: tuple[int, int, int]) -> None:
        """ValueError where `sp` devices cannot share the tokens of such latents, and the heads."""
        Grid(latent_size, (1, self.patch_size, self.patch_size)).check_shards(sp)
        heads = self.num_attention_heads
        if heads % sp:
            allowed = [n for n in range(1, heads + 1) if heads % n == 0]
            raise ValueError(
                f"parallel.sp is {sp}, which does not divide the {heads} attention heads; "
                f"allowed: {listing(allowed)}"
            )

    @property
    def interpolation_scales(self) -> tuple[float, float, float]:
        """What positions along time, height and width are divided by; null means from the sample size."""
        frames, (rows, columns) = self.sample_size_t, self.sample_size
        from_size = ((frames - 1) // 16 + 1 if frames % 2 else frames / 16, rows / 30, columns / 40)
        given = (self.interpolation_scale_t, self.interpolation_scale_h, self.interpolation_scale_w)
        t, h, w = (default if scale is None else scale for scale, default in zip(given, from_size))
        return t, h, w


class Layout(NamedTuple):
    """What self-attention needs to know of the places of all tokens, also where x holds a shard of them."""

    rotary: tuple[torch.Tensor, torch.Tensor]  # two [T * S, 1, 3, d/6]
    bias: torch.Tensor | None  # [B, 1, 1, T * S] where some latents are not visible
    tokens_per_frame: int  # S, whole


@dataclass(frozen=True)
class OpenSoraT2VCondition:
    """All that stays the same over the steps of one generation."""

    grid: Grid
    layout: Layout
    text: tuple[tuple[TextKV, ...], ...]  # per block


class TimeVectors(NamedTuple):
    """The time embedding and the six modulation vectors that all blocks share."""

    t: torch.Tensor  # [B, C]
    t6: torch.Tensor  # [B, 1, 6, C]


class JointAttention(Attention):
    """Attention over all tokens of a clip, with rotary positions. Heads are exchanged for tokens around it
    when tokens are sharded.
    """

    def __init__(self, dim: int, num_heads: int, bias: bool, parallel: Parallel):
        super().__init__(dim, num_heads, bias)
        self.parallel = parallel

    def forward(self, x: torch.Tensor, layout: Layout) -> torch.Tensor:
        """x [B, T, S/n, C]."""
        size = layout.tokens_per_frame
        parts = self.parallel.swap_all(self.project(x), gather=2, scatter=3, size=size)
        q, k, v = (part.flatten(1, 2) for part in parts)  # all tokens of some heads: [B, T * S, heads/n, d]
        q, k = rotate_3d(q, layout.rotary), rotate_3d(k, layout.rotary)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        out = attend(q, k, v, layout.bias, self.attention_backend).unflatten(1, (-1, size))
        return self.output(self.parallel.swap(out, gather=3, scatter=2, size=self.num_heads))


class JointBlock(nn.Module):
    """Self-attention over the clip, cross-attention to the text, and a feed-forward."""

    def __init__(self, config: OpenSoraT2VConfig, parallel: Parallel):
        super().__init__()
        dim, heads, bias = config.hidden_size, config.num_attention_heads, config.attention_bias
        self.scale_shift_table = nn.Parameter(torch.randn(6, dim) / dim**0.5)
        self.attn1 = JointAttention(dim, heads, bias, parallel)
        self.attn2 = CrossAttention(dim, heads, bias)
        self.ff = FeedForward(dim)

    def modulated_input(self, x: torch.Tensor, t6: torch.Tensor) -> torch.Tensor:
        """LN(x) modulated by the time: what the self-attention sees, and TeaCache's signal."""
        shift, scale, *_ = modulation(self.scale_shift_table, t6)
        return modulate(x, shift, scale)

    def forward(
        self, x: torch.Tensor, t6: torch.Tensor, text: Sequence[TextKV], layout: Layout, branch: Branch
    ) -> torch.Tensor:
        """x [B, T, S, C], t6 [B, 1, 6, C]. `branch` may answer with what it kept instead of computing.

        A kept attention takes the gate of the step it is used in, a kept feed-forward that of its own.
        """
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation(self.scale_shift_table, t6)
        x = x + gate1 * branch("attention", lambda: self.attn1(modulate(x, shift1, scale1), layout))
        x = x + branch("cross", lambda: self.attn2(x, text))  # the text is asked without a norm
        x = x + branch("mlp", lambda: gate2 * self.ff(modulate(x, shift2, scale2)))
        return x


class OpenSoraT2V(nn.Module):
    """Predicts the noise of a diffusion. Parameter names are those of the published checkpoint."""

    def __init__(self, config: OpenSoraT2VConfig, parallel: Parallel = Parallel()):
        super().__init__()
        self.config, self.parallel = config, parallel
        dim, patch = config.hidden_size, config.patch_size
        self.pos_embed = PatchEmbed(config.in_channels, dim, patch)
        self.adaln_single = AdaLNSingle(dim)
        self.caption_projection = CaptionProjection(config.caption_channels, dim)
        self.transformer_blocks = nn.ModuleList(
            JointBlock(config, parallel) for _ in range(config.num_layers)
        )
        self.scale_shift_table = nn.Parameter(torch.randn(2, dim) / dim**0.5)
        self.proj_out = nn.Linear(dim, patch * patch * config.out_channels)

    @property
    def dtype(self) -> torch.dtype:
        return self.proj_out.weight.dtype

    @property
    def blocks(self) -> list[JointBlock]:
        return cast("list[JointBlock]", list(self.transformer_blocks))

    def prepare(
        self,
        prompt_embeds: torch.Tensor,
        prompt_mask: torch.Tensor | None = None,
        *,
        latent_size: tuple[int, int, int],
        visible_mask: torch.Tensor | None = None,
    ) -> OpenSoraT2VCondition:
        """The condition of one generation.

        prompt_embeds [B, L, D]; prompt_mask [B, L], 1 = keep; visible_mask [B or a divisor of B, T, H, W], 1
        where a latent is part of the clip, 0 where it is padding that no token shall see. ValueError for
        masks of other shapes.
        """
        patch, device = self.config.patch_size, self.proj_out.weight.device
        frames, rows, columns = latent_size
        grid = Grid((frames, rows, columns), (1, patch, patch))
        cos, sin = rotary_table_3d(
            grid.size, self.config.interpolation_scales, self.config.attention_head_dim
        )
        bias = mask_bias(visible_tokens(visible_mask, grid, len(prompt_embeds)), self.dtype)
        layout = Layout(
            rotary=(cos.to(device), sin.to(device)),
            bias=None if bias is None else bias.to(device),
            tokens_per_frame=grid.tokens_per_frame,
        )
        return OpenSoraT2VCondition(grid, layout, self._text(prompt_embeds.to(device), prompt_mask))

    def _text(
        self, prompt_embeds: torch.Tensor, prompt_mask: torch.Tensor | None
    ) -> tuple[tuple[TextKV, ...], ...]:
        embeds, mask = visible_text(prompt_embeds, prompt_mask)
        y, bias = self.caption_projection(embeds), mask_bias(mask, self.dtype)
        return tuple((block.attn2.prepare(slice(0, len(y)), y, bias),) for block in self.blocks)

    def forward(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        condition: OpenSoraT2VCondition,
        cache: Cache = NO_CACHE,
    ) -> torch.Tensor:
        """The noise, float32 [B, C_out, T, H, W], in latents [B, C, T, H, W] at timesteps [B] in 0..1000,
        which need not be whole.
        """
        x, time = self.embed(latents, timesteps, condition)
        if cache.should_compute(lambda kind: self.signal(kind, x, time)):
            x = cache.store(x, self.run_blocks(x, time, condition, cache))
        else:
            x = cache.reuse(x)
        return self.head(x, time, condition)

    def embed(
        self, latents: torch.Tensor, timesteps: torch.Tensor, condition: OpenSoraT2VCondition
    ) -> tuple[torch.Tensor, TimeVectors]:
        """Tokens [B, T, S/n, C], whose places only the rotation of the attention knows, and the time."""
        patches = self.parallel.shard(condition.grid.patchify(latents), dim=2)
        return self.pos_embed(patches), TimeVectors(*self.adaln_single(timesteps))

    def signal(self, kind: str, x: torch.Tensor, time: TimeVectors) -> torch.Tensor:
        """What a cache watches (arXiv 2411.19108, section 3.3): `modulated` input of the first block, or
        `timestep`.
        """
        return time.t if kind == "timestep" else self.blocks[0].modulated_input(x, time.t6)

    def run_blocks(
        self, x: torch.Tensor, time: TimeVectors, condition: OpenSoraT2VCondition, cache: Cache = NO_CACHE
    ) -> torch.Tensor:
        for i, block in enumerate(self.blocks):
            x = block(x, time.t6, condition.text[i], condition.layout, cache.layer("joint", i))
        return x

    def head(self, x: torch.Tensor, time: TimeVectors, condition: OpenSoraT2VCondition) -> torch.Tensor:
        shift, scale = modulation(self.scale_shift_table, time.t[:, None, None])
        patches = self.proj_out(modulate(x, shift, scale))
        patches = self.parallel.gather(patches, dim=2, size=condition.grid.tokens_per_frame)
        return condition.grid.unpatchify(patches).float()


def visible_tokens(visible_mask: torch.Tensor | None, grid: Grid, batch: int) -> torch.Tensor | None:
    """Which tokens [batch, T * S] are visible: those with a visible latent in their patch."""
    if visible_mask is None:
        return None
    grid.check_mask(visible_mask, batch)
    tokens = F.max_pool3d((visible_mask != 0).float(), grid.patch_size, ceil_mode=True).flatten(1)
    return tokens.repeat(batch // len(tokens), 1)
