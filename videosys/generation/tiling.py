"""Config fields of pipelines whose autoencoder decodes frames one by one."""

from __future__ import annotations

from dataclasses import dataclass

from videosys.generation.config import loading
from videosys.layers.tiling import FrameTiling
from videosys.utils.typed import MOST_PIXELS


@dataclass(frozen=True)
class FrameTilingConfig:
    """Tiling of autoencoders of single frames; names and defaults are those of diffusers.

    enable_vae_tiling: cut frames into overlapping tiles that blend into each other; needs less memory, and
        changes the picture, because each tile is normalised alone. Frames no larger than a tile stay whole.
    vae_tile_sample_min_size: side of a tile in pixels. vae_tile_overlap_factor: share of it that overlaps.
    """

    enable_vae_tiling: bool = loading(False)
    vae_tile_sample_min_size: int = loading(256, most=MOST_PIXELS)
    vae_tile_overlap_factor: float = loading(0.25)

    def frame_tiling(self) -> FrameTiling | None:
        """The tiling; None without tiling. ValueError for impossible sizes."""
        tiling = FrameTiling(self.vae_tile_sample_min_size, self.vae_tile_overlap_factor)
        return tiling if self.enable_vae_tiling else None
