"""The token grid of a clip: how latents become patches and how patches become latents again."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

T = TypeVar("T", bound="TokenConfig")


@dataclass(frozen=True)
class Grid:
    """Latent frames, rows and columns of a clip, and the patch that groups them into tokens."""

    latent_size: tuple[int, int, int]
    patch_size: tuple[int, int, int] = (1, 2, 2)

    @property
    def size(self) -> tuple[int, int, int]:
        """Tokens along time, height and width; an incomplete patch counts as one."""
        t, h, w = (math.ceil(n / p) for n, p in zip(self.latent_size, self.patch_size))
        return t, h, w

    @property
    def num_frames(self) -> int:
        """Token frames T."""
        return self.size[0]

    @property
    def tokens_per_frame(self) -> int:
        """Tokens S of a frame."""
        return self.size[1] * self.size[2]

    def check_shards(self, count: int) -> None:
        """ValueError if a frame has too few tokens for `count` devices."""
        _, rows, columns = self.size
        if count > self.tokens_per_frame:
            raise ValueError(
                f"parallel.sp is {count}; it must be {self.tokens_per_frame} or less, as many tokens as "
                f"a frame has ({rows} x {columns})"
            )

    def check_mask(self, mask: Tensor, batch: int) -> None:
        """ValueError unless a visible_mask is [B, T, H, W] for these latents, B a divisor of `batch`."""
        if mask.ndim != 4 or tuple(mask.shape[1:]) != tuple(self.latent_size) or batch % len(mask):
            raise ValueError(
                f"visible_mask is {tuple(mask.shape)}; it must be [B, T, H, W] with B a divisor of {batch} "
                f"and T, H, W {tuple(self.latent_size)}"
            )

    def patchify(self, latents: Tensor) -> Tensor:
        """Flattened patches [B, T, S, c*pt*ph*pw] of latents [B, c, T, H, W], zero-padded at the far ends."""
        if tuple(latents.shape[2:]) != tuple(self.latent_size):
            raise ValueError(
                f"latents are {tuple(latents.shape[2:])}, prepared for {tuple(self.latent_size)}"
            )
        pt, ph, pw = self.patch_size
        missing = [n * p - size for n, p, size in zip(self.size, self.patch_size, self.latent_size)]
        if any(missing):
            latents = F.pad(latents, (0, missing[2], 0, missing[1], 0, missing[0]))
        return rearrange(latents, "b c (t pt) (h ph) (w pw) -> b t (h w) (c pt ph pw)", pt=pt, ph=ph, pw=pw)

    def unpatchify(self, tokens: Tensor) -> Tensor:
        """Latents [B, c, T, H, W], without padding, of head outputs [B, T, S, pt*ph*pw*c]."""
        pt, ph, pw = self.patch_size
        _, h, w = self.size
        latents = rearrange(
            tokens, "b t (h w) (pt ph pw c) -> b c (t pt) (h ph) (w pw)", h=h, w=w, pt=pt, ph=ph, pw=pw
        )
        num_frames, height, width = self.latent_size
        return latents[:, :, :num_frames, :height, :width]


class TokenConfig:
    """The interface of a transformer's config for depth and tokens.

    The config is a dataclass with the fields `depth`, blocks of each stack, and `patch_size`, the latents of
    a token: rows and columns alike, or (frames, rows, columns).
    """

    patch_size: Any

    def with_depth(self: T, depth: int) -> T:
        """The same model with another number of blocks."""
        return replace(self, depth=depth)  # type: ignore[type-var]

    def grid(self, latent_size: tuple[int, int, int]) -> Grid:
        """The token grid of latents with this many frames, rows and columns."""
        size, patch = tuple(latent_size), self.patch_size
        return Grid(size, (1, patch, patch) if isinstance(patch, int) else patch)  # type: ignore[arg-type]

    def check_parallel(self, sp: int, latent_size: tuple[int, int, int]) -> None:
        """ValueError if `sp` devices cannot share the tokens of such latents."""
        self.grid(latent_size).check_shards(sp)
