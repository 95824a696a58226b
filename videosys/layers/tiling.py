"""Large videos through an autoencoder in tiles: time in chunks that share a frame, space in blended tiles.

The arithmetic, including borders, is that of the public code, because it affects the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType

import torch
from torch import Tensor

from videosys.parallel import Parallel
from videosys.utils.typed import listing, suggest

TileFunction = Callable[[Tensor], Tensor]
Progress = Callable[[int], object]


@dataclass(frozen=True)
class Tiling:
    """Tile sizes in pixels and frames (sample) and in latents, and the share of a tile that overlaps."""

    tile_sample_min_size: int
    tile_latent_min_size: int
    tile_sample_min_size_t: int
    tile_latent_min_size_t: int
    tile_overlap_factor: float

    def __post_init__(self) -> None:
        for name in ("tile_sample_min_size", "tile_latent_min_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("tile_sample_min_size_t", "tile_latent_min_size_t"):
            if getattr(self, name) < 2:
                raise ValueError(
                    f"{name} must be at least 2 (chunks share a frame), not {getattr(self, name)}"
                )
        if not 0 <= self.tile_overlap_factor < 1:
            raise ValueError(f"tile_overlap_factor must be in [0, 1), not {self.tile_overlap_factor}")
        if min(self.latent_tiles.step, self.sample_tiles.step) < 1:
            raise ValueError(
                f"tile_overlap_factor {self.tile_overlap_factor} is too large for tiles of "
                f"{self.tile_latent_min_size} latents: they would not advance"
            )

    @property
    def sample_tiles(self) -> Tiles:
        """The tiling for encoding: frames to latents."""
        sizes = self.tile_sample_min_size, self.tile_latent_min_size
        return Tiles(*sizes, self.tile_sample_min_size_t, self.tile_overlap_factor)

    @property
    def latent_tiles(self) -> Tiles:
        """The tiling for decoding: latents to frames."""
        sizes = self.tile_latent_min_size, self.tile_sample_min_size
        return Tiles(*sizes, self.tile_latent_min_size_t, self.tile_overlap_factor)


@dataclass(frozen=True)
class Tiles:
    """One direction of a Tiling: tiles of `size` become tiles of `out_size`."""

    size: int
    out_size: int
    size_t: int
    overlap: float

    @property
    def step(self) -> int:
        """The distance between the starts of neighbouring tiles."""
        return int(self.size * (1 - self.overlap))

    def are_needed(self, x: Tensor) -> bool:
        """Whether x [B, C, T, H, W] is larger than one tile."""
        frames, rows, columns = x.shape[2:]
        return rows > self.size or columns > self.size or frames > self.size_t

    def run(
        self, x: Tensor, run: TileFunction, progress: Progress | None = None, parallel: Parallel = Parallel()
    ) -> Tensor:
        """Apply `run` to chunks of time and tiles of space and combine them; devices share the tiles.

        Every chunk but the first drops its first frame, which is also the last one of the previous chunk.
        `progress` is called with the number of frames of a chunk.
        """
        cut = [self.cut(x[:, :, first:end]) for first, end in time_chunks(x.shape[2], self.size_t)]
        outputs = parallel.map(run, [tile for rows in cut for row in rows for tile in row])
        chunks: list[Tensor] = []
        for rows in cut:
            chunk = self.blend([next(outputs) for _ in row] for row in rows)
            chunks.append(chunk[:, :, 1:] if chunks else chunk)
            if progress is not None:
                progress(chunks[-1].shape[2])
        return torch.cat(chunks, dim=2)

    def cut(self, x: Tensor) -> list[list[Tensor]]:
        """Tiles of one chunk, row by row."""
        tops, lefts = (range(0, n, self.step) for n in x.shape[3:])
        return [[x[..., top : top + self.size, left : left + self.size] for left in lefts] for top in tops]

    def blend(self, rows: Iterable[Sequence[Tensor]]) -> Tensor:
        """Combine the tiles of one chunk. A tile fades in over its neighbours above and to the left, which
        are already blended.
        """
        lines = int(self.out_size * self.overlap)
        keep = self.out_size - lines
        above: list[Tensor] = []
        finished = []
        for tiles in rows:
            row: list[Tensor] = []
            for column, tile in enumerate(tiles):
                tile = fade_in(tile, above[column], 3, lines) if above else tile
                row.append(fade_in(tile, row[-1], 4, lines) if row else tile)
            finished.append(torch.cat([tile[..., :keep, :keep] for tile in row], dim=4))
            above = row
        return torch.cat(finished, dim=3)


LATENT_PIXELS = 8  # of all published autoencoders
ALL_FRAMES = 1 << 30


@dataclass(frozen=True)
class FrameTiling:
    """Tiles of frames that are decoded one by one: the side in pixels, and the share of it that overlaps."""

    sample_min_size: int = 256
    overlap_factor: float = 0.25

    def __post_init__(self) -> None:
        size = self.sample_min_size
        if size < LATENT_PIXELS or size % LATENT_PIXELS:
            raise ValueError(f"vae_tile_sample_min_size is {size}; it must be a multiple of {LATENT_PIXELS}")
        if not 0 <= self.overlap_factor < 1 or self.latent_tiles(LATENT_PIXELS).step < 1:
            raise ValueError(
                f"vae_tile_overlap_factor is {self.overlap_factor}; it must be 0 or more and below 1, "
                f"and tiles of {size // LATENT_PIXELS} latents must advance by 1 or more"
            )

    def latent_tiles(self, factor: int) -> Tiles:
        """How to cut latents, each of `factor` pixels a side, into tiles that become frames."""
        return Tiles(self.sample_min_size // factor, self.sample_min_size, ALL_FRAMES, self.overlap_factor)


PRESETS = MappingProxyType(
    {
        "v110": Tiling(256, 32, 65, 17, 0.25),  # v1.1.0, its class and its sampling script
        "v120": Tiling(512, 64, 29, 8, 0.125),  # v1.2.0, its sampling script
        "v120_save_memory": Tiling(256, 32, 29, 8, 0.125),  # the same with save_memory
        "v120_class": Tiling(256, 32, 33, 16, 0.125),  # v1.2.0, the defaults of its class
        "videosys": Tiling(512, 64, 29, 8, 0.25),  # VideoSys and TeaCache, both versions
    }
)


def tiling_preset(name: str) -> Tiling:
    """The published tile sizes of that name; ValueError for a name that is not in PRESETS."""
    if name not in PRESETS:
        raise ValueError(f"tiling {name!r} must be one of {listing(PRESETS)}{suggest(name, PRESETS)}")
    return PRESETS[name]


def time_chunks(frames: int, size: int) -> list[tuple[int, int]]:
    """(first, end) of chunks of `size` frames, each beginning with the last frame of the one before.

    17 frames in chunks of 8: (0, 8), (7, 15), (14, 17).
    """
    starts = list(range(0, frames, size - 1))
    chunks = [(first, after + 1) for first, after in pairwise(starts)]
    if not chunks or chunks[-1][1] < frames:
        chunks.append((starts[-1], frames))
    return chunks


def fade_in(tile: Tensor, before: Tensor, dim: int, lines: int) -> Tensor:
    """`tile` whose first lines along `dim` fade in over the last ones of its neighbour: line k of n has the
    weight k / n.
    """
    lines = min(before.shape[dim], tile.shape[dim], lines)
    if not lines:
        return tile
    shape = [-1 if axis == dim else 1 for axis in range(tile.ndim)]
    weight = (torch.arange(lines, device=tile.device, dtype=torch.float32) / lines).view(shape).to(tile.dtype)
    faded = before.narrow(dim, before.shape[dim] - lines, lines) * (1 - weight)
    faded = faded + tile.narrow(dim, 0, lines) * weight
    return torch.cat((faded, tile.narrow(dim, lines, tile.shape[dim] - lines)), dim=dim)
