"""Every size and length of the published tables, and what is none."""

from __future__ import annotations

import math

import pytest

from tests.goldens.load import load_json
from videosys.models.opensora.sizes import resolve_num_frames, resolve_size

SIZES = load_json("opensora", "sizes")
NAMES = SIZES["ratio_key_of_name"]
NAMED, SQUARE = SIZES["named_resolutions"], SIZES["square_bucket_resolutions"]


@pytest.mark.parametrize("resolution", NAMED)
def test_named_sizes(resolution):
    sizes = NAMED[resolution]["sizes"]
    assert len(sizes) == len(NAMES) == 17
    for name, ratio in NAMES.items():
        assert resolve_size(resolution, name) == tuple(sizes[ratio])


@pytest.mark.parametrize("resolution", [*NAMED, *SQUARE])
def test_sizes_by_number(resolution):
    for ratio, size in (NAMED | SQUARE)[resolution]["sizes"].items():
        assert resolve_size(resolution, ratio) == tuple(size)
        assert resolve_size(resolution, float(ratio)) == tuple(size)


@pytest.mark.parametrize("resolution", SQUARE)
def test_square_buckets_by_name(resolution):
    sizes = [tuple(size) for size in SQUARE[resolution]["sizes"].values()]
    for name in NAMES:
        height, width = map(int, name.split(":"))
        found = resolve_size(resolution, name)
        assert found in sizes
        assert abs(math.log(found[0] / found[1] * width / height)) < 0.07  # the tables are that coarse
        if height == width:
            assert found[0] == found[1] == int(resolution)


def test_square_buckets_take_the_nearest():
    assert resolve_size("256", "9:16") == (192, 336)
    assert resolve_size("512", "16:9") == (672, 384)
    assert resolve_size("2880", "12:25") == (1920, 4096)
    assert resolve_size(1024, "3:8") == (640, 1600)


def test_names_are_height_to_width():
    assert resolve_size("480p", "9:16") == (480, 854)
    assert resolve_size("480p", "16:9") == (854, 480)


@pytest.mark.parametrize("resolution", ["481p", "480", "", "480P", None])
def test_unknown_resolutions(resolution):
    with pytest.raises(ValueError, match=r"is not one of 144p, 240p, .* 2880"):
        resolve_size(resolution, "9:16")


@pytest.mark.parametrize("resolution", ["480p", "256"])
@pytest.mark.parametrize("ratio", ["21:9", "9/16", "", "0.561", "nan", None, "9:16:1"])
def test_unknown_ratios(resolution, ratio):
    with pytest.raises(ValueError, match=r"aspect ratio .* is not one of 3:8.*9:16.*height:width"):
        resolve_size(resolution, ratio)


@pytest.mark.parametrize(("name", "count"), SIZES["num_frames"].items())
def test_named_lengths(name, count):
    assert resolve_num_frames(name) == count


@pytest.mark.parametrize(
    ("value", "count"), [(1, 1), ("1", 1), (17, 17), (18, 18), ("51", 51), (816, 816), (5000, 5000)]
)
def test_plain_lengths(value, count):
    assert resolve_num_frames(value) == count


@pytest.mark.parametrize("count", [*range(2, 17), "2", "16"])
def test_lengths_without_a_time_transform(count):
    with pytest.raises(
        ValueError, match=f"num_frames is {count}; Open-Sora supports 1 frame .* or 17 and more"
    ):
        resolve_num_frames(count)


@pytest.mark.parametrize("count", [0, -1, "-17", "0"])
def test_no_frames(count):
    with pytest.raises(ValueError, match=f"num_frames is {count}; it must be 1"):
        resolve_num_frames(count)


@pytest.mark.parametrize("value", ["3s", "51.0", 51.5, "", True, None, "2 s", "--3", [51]])
def test_what_is_no_length(value):
    with pytest.raises(ValueError, match=r"is neither a whole number nor one of 1x, .*32s"):
        resolve_num_frames(value)
