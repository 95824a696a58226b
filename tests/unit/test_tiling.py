"""Tiles: for a function that looks at no neighbour, cutting and blending must change nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from videosys.layers.tiling import PRESETS, Tiles, Tiling, fade_in, tiling_preset, time_chunks

SMALL = Tiling(32, 4, 9, 3, 0.25)


def enlarge(z: torch.Tensor) -> torch.Tensor:
    """1 + 4 (t - 1) frames, 8 times as high and wide, each pixel from one latent."""
    frames = torch.cat((z[:, :, :1], z[:, :, 1:].repeat_interleave(4, dim=2)), dim=2)
    return F.interpolate(frames, scale_factor=(1, 8, 8), mode="nearest")


def reduce(x: torch.Tensor) -> torch.Tensor:
    return F.avg_pool3d(x, (1, 8, 8))[:, :, ::4]


def random(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [(1, 5, 4), (2, 6, 9), (3, 7, 3), (6, 4, 4), (7, 13, 11)])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
def test_tiles_of_a_local_function_give_the_whole(size, overlap):
    tiling, z = replace(SMALL, tile_overlap_factor=overlap), random(2, 3, *size)
    whole = enlarge(z)
    torch.testing.assert_close(tiling.latent_tiles.run(z, enlarge), whole)
    torch.testing.assert_close(tiling.sample_tiles.run(whole, reduce), z)


@pytest.mark.parametrize(
    ("frames", "size", "chunks"),
    [
        (17, 8, [(0, 8), (7, 15), (14, 17)]),
        (15, 8, [(0, 8), (7, 15)]),
        (16, 8, [(0, 8), (7, 15), (14, 16)]),
        (8, 8, [(0, 8)]),
        (9, 8, [(0, 8), (7, 9)]),
        (5, 8, [(0, 5)]),
        (1, 8, [(0, 1)]),
        (3, 2, [(0, 2), (1, 3)]),
        (56, 17, [(0, 17), (16, 33), (32, 49), (48, 56)]),
    ],
)
def test_chunks_of_time(frames, size, chunks):
    assert time_chunks(frames, size) == chunks


def test_frames_of_a_chunk_are_reported_when_they_are_made():
    made: list[int] = []
    SMALL.latent_tiles.run(random(1, 1, 6, 4, 4), enlarge, made.append)
    assert made == [9, 8, 4]


def test_a_tile_fades_in_over_its_neighbour():
    before, tile = torch.zeros(1, 1, 1, 2, 6), torch.ones(1, 1, 1, 2, 6)
    expected = [0, 0.25, 0.5, 0.75, 1, 1]
    assert fade_in(tile, before, 4, 4)[0, 0, 0].tolist() == [expected] * 2
    assert fade_in(tile[..., :3], before, 4, 4)[0, 0, 0, 0].tolist() == pytest.approx([0, 1 / 3, 2 / 3])
    assert fade_in(tile, before[..., :2, :], 3, 4)[0, 0, 0, :, 0].tolist() == [0, 0.5]
    assert torch.equal(fade_in(tile, before, 4, 0), tile)
    assert tile.min() == 1  # the tile itself is left alone


def test_the_neighbours_last_lines_are_met():
    before, tile = torch.arange(6.0).view(1, 1, 1, 1, 6), torch.full((1, 1, 1, 1, 6), 10.0)
    assert fade_in(tile, before, 4, 2)[0, 0, 0, 0].tolist() == [4, 7.5, 10, 10, 10, 10]


def test_what_is_larger_than_a_tile_is_tiled():
    tiles = SMALL.latent_tiles
    assert not tiles.are_needed(torch.zeros(1, 1, 3, 4, 4))
    for shape in ((4, 4, 4), (3, 5, 4), (3, 4, 5)):
        assert tiles.are_needed(torch.zeros(1, 1, *shape))


def test_presets_are_the_published_ones():
    # The original decodes 65 x 512 x 512 in one chunk of tiles at 0, 24, 48; VideoSys in three, at 0 and 48.
    assert len(time_chunks(17, PRESETS["v110"].tile_latent_min_size_t)) == 1
    assert PRESETS["v110"].latent_tiles.step == 24
    assert len(time_chunks(17, PRESETS["videosys"].tile_latent_min_size_t)) == 3
    assert PRESETS["videosys"].latent_tiles.step == 48
    assert PRESETS["v120"].latent_tiles == Tiles(64, 512, 8, 0.125)
    assert PRESETS["v120_save_memory"].sample_tiles == Tiles(256, 32, 29, 0.125)
    assert PRESETS["v120_class"].latent_tiles == Tiles(32, 256, 16, 0.125)
    assert tiling_preset("v120") is PRESETS["v120"]


def test_an_unknown_preset_is_refused():
    with pytest.raises(ValueError, match=r"tiling 'v12' must be one of 'v110'.*did you mean 'v120'"):
        tiling_preset("v12")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tile_latent_min_size": 0}, "tile_latent_min_size must be at least 1, not 0"),
        ({"tile_sample_min_size_t": 1}, "tile_sample_min_size_t must be at least 2"),
        ({"tile_overlap_factor": 1.0}, r"tile_overlap_factor must be in \[0, 1\), not 1.0"),
        ({"tile_overlap_factor": -0.1}, "tile_overlap_factor"),
        ({"tile_overlap_factor": 0.9}, "is too large for tiles of 4 latents"),
    ],
)
def test_impossible_tiles_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **changes)
