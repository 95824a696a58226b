"""How an autoencoder of single frames cuts them, as a config says it."""

from __future__ import annotations

from dataclasses import dataclass, fields

from videosys.layers.tiling import FrameTiling


@dataclass(frozen=True)
class TiledFrames:
    """The fields of configs whose autoencoder takes frames one by one; names and defaults are diffusers'.

    enable_vae_tiling: cut frames into overlapping tiles that blend into each other; needs less memory, and
        changes the picture, because each tile is normalised alone. Frames no larger than a tile stay whole.
    vae_tile_sample_min_size: pixels of a tile's side. vae_tile_overlap_factor: share of it that overlaps.
    """

    enable_vae_tiling: bool = False
    vae_tile_sample_min_size: int = 256
    vae_tile_overlap_factor: float = 0.25

    def frame_tiling(self) -> FrameTiling | None:
        """How frames are cut; ValueError for what cannot be."""
        tiling = FrameTiling(self.vae_tile_sample_min_size, self.vae_tile_overlap_factor)
        return tiling if self.enable_vae_tiling else None


def field_names(config_cls: type) -> frozenset[str]:
    return frozenset(field.name for field in fields(config_cls))
