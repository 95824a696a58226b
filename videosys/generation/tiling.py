"""Config fields of pipelines whose autoencoder decodes frames one by one."""

from __future__ import annotations

from dataclasses import dataclass

from videosys.generation.config import loading
from videosys.layers.tiling import FrameTiling
from videosys.utils.typed import MOST_PIXELS


@dataclass(frozen=True)
class FrameTilingConfig:
    """Tiling for autoencoders of single frames, with the names and defaults of diffusers.

    enable_vae_tiling: decode frames in overlapping, blended tiles. This needs less memory, and changes the
        result, because each tile is normalized separately. Frames up to the size of a tile are not tiled.
    vae_tile_sample_min_size: side of a tile in pixels. vae_tile_overlap_factor: overlapping share of a tile.
    """

    enable_vae_tiling: bool = loading(False)
    vae_tile_sample_min_size: int = loading(256, most=MOST_PIXELS)
    vae_tile_overlap_factor: float = loading(0.25)

    def frame_tiling(self) -> FrameTiling | None:
        """The tiling, or None if disabled. ValueError for invalid sizes."""
        tiling = FrameTiling(self.vae_tile_sample_min_size, self.vae_tile_overlap_factor)
        return tiling if self.enable_vae_tiling else None
