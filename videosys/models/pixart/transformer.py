"""Shared by the transformers derived from PixArt: LatteT2V (Latte-1 and Open-Sora-Plan v1.1.0) and
OpenSoraT2V (Open-Sora-Plan v1.2.0). Parameter names are those of diffusers, as in their checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, ClassVar, Generic, TypeVar, cast

import torch
from torch import Tensor, nn

from videosys.cache import NO_CACHE, Cache
from videosys.layers.attention import TextKV
from videosys.layers.embeddings import PatchEmbed
from videosys.layers.grid import Grid, TokenConfig
from videosys.layers.modulation import EPS, AdaLNBlock, TextBlock, modulate, modulation
from videosys.models.pixart.layers import (
    AdaLNSingle,
    CrossAttention,
    FeedForward,
    SelfAttention,
    TwoLinear,
    mask_bias,
    visible_text,
)
from videosys.parallel import Parallel
from videosys.utils.typed import MOST_BLOCKS, MOST_CHANNELS, MOST_HEADS, MOST_LEVELS, limited

# Values of all published configs; other values would be another network.
FIXED: Mapping[str, object] = MappingProxyType(
    {
        "patch_size_t": 1,
        "activation_fn": "gelu-approximate",
        "norm_type": "ada_norm_single",
        "norm_elementwise_affine": False,
        "norm_eps": EPS,
    }
)


@dataclass(frozen=True)
class PixArtConfig(TokenConfig):
    """Fields of the published config.json files that both models use.

    ValueError for a field of `fixed` with another value, and if cross_attention_dim is not the width.
    """

    fixed: ClassVar[Mapping[str, object]] = FIXED

    num_layers: int = limited(most=MOST_BLOCKS)
    num_attention_heads: int = limited(most=MOST_HEADS)
    attention_head_dim: int = limited(most=MOST_CHANNELS)
    out_channels: int = limited(most=MOST_CHANNELS)
    cross_attention_dim: int = limited(most=MOST_CHANNELS)
    in_channels: int = limited(4, most=MOST_CHANNELS)
    patch_size: int = limited(2, most=MOST_LEVELS)
    caption_channels: int = limited(4096, most=MOST_CHANNELS)
    patch_size_t: int = 1
    attention_bias: bool = True
    activation_fn: str = "gelu-approximate"
    norm_type: str = "ada_norm_single"
    norm_elementwise_affine: bool = False
    norm_eps: float = EPS

    def __post_init__(self) -> None:
        for name, value in self.fixed.items():
            if getattr(self, name) != value:
                raise ValueError(f"{name} is {getattr(self, name)!r}; only {value!r} is supported")
        if self.cross_attention_dim != self.hidden_size:
            raise ValueError(
                f"cross_attention_dim {self.cross_attention_dim} must be the width {self.hidden_size}, "
                "num_attention_heads times attention_head_dim"
            )

    @property
    def hidden_size(self) -> int:
        """The width C of tokens."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def depth(self) -> int:
        """Blocks of each stack."""
        return self.num_layers

    def with_depth(self: C, depth: int) -> C:
        """The same model with another number of blocks."""
        return replace(self, num_layers=depth)


@dataclass(frozen=True)
class PixArtCondition:
    """Everything that is constant over the steps of one generation."""

    grid: Grid
    text: tuple[tuple[TextKV, ...], ...]  # per block that reads it


class PixArtBlock(TextBlock):
    """A block with the layers of PixArt: `attn1`, `attn2` if it reads the text, `ff`."""

    names = ("attn1", "attn2", "ff")

    def __init__(self, config: PixArtConfig, parallel: Parallel):
        dim, heads, bias = config.hidden_size, config.num_attention_heads, config.attention_bias
        super().__init__(dim)
        self.parallel = parallel
        self.attn1 = self.attention(dim, heads, bias)
        if "cross" in self.branches:
            self.attn2 = CrossAttention(dim, heads, bias)
        self.ff = FeedForward(dim)

    def attention(self, dim: int, num_heads: int, bias: bool) -> nn.Module:
        """A new self-attention."""
        return SelfAttention(dim, num_heads, bias)


C = TypeVar("C", bound=PixArtConfig)
Condition = TypeVar("Condition", bound=PixArtCondition)


class PixArtTransformer(nn.Module, Generic[C, Condition]):
    """Predicts the noise of a video's latents. A model adds `prepare`, `run_blocks` and its stacks.

    block_types: for each stack (named as in caches), the attribute with its blocks, and their class. The
        blocks of the first stack read the text.
    """

    transformer_blocks: nn.ModuleList
    block_types: ClassVar[Mapping[str, tuple[str, Callable[[Any, Parallel], AdaLNBlock]]]]

    def __init__(self, config: C, parallel: Parallel = Parallel()):
        super().__init__()
        self.config, self.parallel, self.uses_kernels = config, parallel, False
        dim, patch = config.hidden_size, config.patch_size
        self.pos_embed = PatchEmbed(config.in_channels, dim, (patch, patch))
        self.adaln_single = AdaLNSingle(dim)
        self.caption_projection = TwoLinear(config.caption_channels, dim, nn.GELU("tanh"))
        for name, block_cls in self.block_types.values():
            self.add_module(name, nn.ModuleList(block_cls(config, parallel) for _ in range(config.depth)))
        self.scale_shift_table = nn.Parameter(torch.randn(2, dim) / dim**0.5)
        self.proj_out = nn.Linear(dim, patch * patch * config.out_channels)

    @property
    def stacks(self) -> dict[str, nn.ModuleList]:
        """The blocks by the name of their stack."""
        return {stack: getattr(self, name) for stack, (name, _) in self.block_types.items()}

    @property
    def dtype(self) -> torch.dtype:
        return self.proj_out.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.proj_out.weight.device

    def prepare_text(
        self, prompt_embeds: Tensor, prompt_mask: Tensor | None
    ) -> tuple[tuple[TextKV, ...], ...]:
        """Keys and values for each of `transformer_blocks` of text [B, L, D] with a mask [B, L], 1 = keep.

        Shorter texts are padded to the longest, with a bias as mask. ValueError for a mask of a wrong shape.
        """
        text, mask = visible_text(prompt_embeds.to(self.device), prompt_mask)
        y, bias, rows = self.caption_projection(text), mask_bias(mask, self.dtype), slice(0, len(text))
        blocks: Iterable[Any] = self.transformer_blocks
        return tuple((block.attn2.prepare(rows, y, bias),) for block in blocks)

    def forward(
        self, latents: Tensor, timesteps: Tensor, condition: Condition, cache: Cache = NO_CACHE
    ) -> Tensor:
        """The predicted noise, and an unused variance if out_channels is twice in_channels:
        float32 [B, C_out, T, H, W].

        latents [B, C, T, H, W]; timesteps [B] in 0..1000, which need not be whole.
        """
        x, t, t6 = self.embed(latents, timesteps, condition)
        if cache.should_compute(lambda kind: self.signal(kind, x, t, t6)):
            x = cache.store(x, self.run_blocks(x, t6, condition, cache))
        else:
            x = cache.reuse(x)
        return self.head(x, t, condition)

    def embed(
        self, latents: Tensor, timesteps: Tensor, condition: Condition
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens x [B, T, S/n, C], the time embedding t [B, C] and its modulation vectors t6 [B, 1, 6, C]."""
        patches = self.parallel.shard(condition.grid.patchify(latents), dim=2)
        return self.pos_embed(patches), *self.adaln_single(timesteps)

    def signal(self, kind: str, x: Tensor, t: Tensor, t6: Tensor) -> Tensor:
        """The signal of a cache (arXiv 2411.19108, section 3.3): the `modulated` input of the first block
        [B, T, S/n, C], or the `timestep` embedding [B, C].
        """
        first = cast(AdaLNBlock, self.transformer_blocks[0])
        return t if kind == "timestep" else first.modulated_input(x, t6)

    def run_blocks(self, x: Tensor, t6: Tensor, condition: Condition, cache: Cache = NO_CACHE) -> Tensor:
        """x [B, T, S/n, C] after all blocks."""
        raise NotImplementedError

    def head(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The noise of tokens x [B, T, S/n, C], gathered: float32 [B, C_out, T, H, W]."""
        shift, scale = modulation(self.scale_shift_table, t[:, None, None])
        patches = self.proj_out(modulate(x, shift, scale, self.uses_kernels))
        patches = self.parallel.gather(patches, dim=2, size=condition.grid.tokens_per_frame)
        return condition.grid.unpatchify(patches).float()
