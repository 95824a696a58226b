"""Names for the sizes and lengths that Open-Sora was trained on: ("480p", "9:16") and "2s"."""

from __future__ import annotations

import functools
import json
import math
from importlib.resources import files
from typing import Any

from videosys.utils.typed import MOST_FRAMES

LONG_NUMBER = 20  # digits
SQUARE_BUCKETS = ("256", "512", "1024", "2048", "2880")  # these tables have their own ratios


@functools.cache
def tables() -> Any:
    """Return the published tables: ratios by name, sizes by resolution and ratio, frames by name."""
    text = files("videosys.models.opensora").joinpath("sizes.json").read_text(encoding="utf-8")
    return json.loads(text)


def resolve_size(resolution: str | int, aspect_ratio: str | float) -> tuple[int, int]:
    """Return (height, width) in pixels for a resolution ("144p" ... "4k", "256" ...) and an aspect ratio.

    Ratios are HEIGHT:WIDTH, so "9:16" is a landscape video; the number height / width that a table lists
    ("0.56") is also accepted. The tables 256, 512, 1024, 2048 and 2880 do not list most of the named
    ratios: there a name selects the nearest size. ValueError for any other name or number.
    """
    resolutions = tables()["resolutions"]
    if str(resolution) not in resolutions:
        raise ValueError(f"resolution {resolution!r} is not one of {', '.join(resolutions)}")
    sizes = resolutions[str(resolution)]
    name = str(aspect_ratio).strip()
    listed = tables()["ratios"].get(name, name)
    for ratio, size in sizes.items():
        if same_number(listed, ratio):
            return size[0], size[1]
    if str(resolution) in SQUARE_BUCKETS and name in tables()["ratios"]:
        return nearest_size(name, sizes)
    names = ", ".join(tables()["ratios"])
    raise ValueError(
        f"aspect ratio {aspect_ratio!r} is not one of {names} (height:width) or {', '.join(sizes)}"
    )


def same_number(text: str, ratio: str) -> bool:
    """Return whether a text is the number of a ratio in any notation: "0.5" is "0.50"."""
    try:
        return float(text) == float(ratio)
    except ValueError:
        return False


def nearest_size(name: str, sizes: dict[str, list[int]]) -> tuple[int, int]:
    """Return the size with height / width nearest to the named ratio."""
    height, width = map(int, name.split(":"))
    size = min(sizes.values(), key=lambda size: abs(math.log(size[0] / size[1] * width / height)))
    return size[0], size[1]


def resolve_num_frames(num_frames: str | int) -> int:
    """Return the number of frames for a name ("2s" or "1x" is 51, up to "32s" or "16x") or a number.

    ValueError below 1, and for 2 to 16: Open-Sora measures length in chunks of 17 frames, and its time
    transform divides by zero at less than one chunk that is not a single image.
    """
    names = tables()["num_frames"]
    text = str(num_frames).strip()
    if text in names:
        return names[text]
    if isinstance(num_frames, bool) or not text.removeprefix("-").isdecimal():
        raise ValueError(f"num_frames {num_frames!r} is neither a whole number nor one of {', '.join(names)}")
    count = int(text) if len(text) < LONG_NUMBER else MOST_FRAMES + 1
    if count > MOST_FRAMES:
        raise ValueError(f"num_frames is {text[:LONG_NUMBER]}; it must be {MOST_FRAMES} or less")
    if count < 1:
        raise ValueError(f"num_frames is {count}; it must be 1 (an image) or at least 17")
    if 1 < count < 17:
        raise ValueError(f"num_frames is {count}; Open-Sora supports 1 frame (an image) or 17 and more")
    return count
