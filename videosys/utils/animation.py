"""Animated images and folders of numbered images: which frame is shown when."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from videosys.utils.images import BACKGROUND, Say, frame_count, go_to, open_image, pixels
from videosys.utils.reading import load_json, read_bytes
from videosys.utils.sidecar import sidecar_path

FRAME_PATTERN = "frame_*.png"
MOST_BYTES = 1 << 30  # of a GIF
MOST_SHOWN = 20_000  # frames of an animation, repeated by duration
MOST_DECODED = 1 << 30  # pixels of all frames of an animation up to the last one needed
ZERO = 100  # milliseconds for which browsers show a frame with a duration of 0

_COMMENT = re.compile(r"videosys: (\d{1,9}) frames at (\d{1,12}(?:/\d{1,12})?) per second")


def comment(num_frames: int, fps: float | Fraction) -> str:
    """Return the comment of a GIF that records the number of frames, because a GIF merges equal ones."""
    return f"videosys: {num_frames} frames at {Fraction(fps).limit_denominator(100_000)} per second"


def timeline(durations: Sequence[int], comment: str = "", unit: int = 10) -> tuple[list[int], float]:
    """Return (the index of the stored frame for each output frame, frames per second to two decimals).

    Output frames have equal durations. durations: milliseconds of each stored frame, rounded to `unit` by the
    file format. A frame twice as long as the others is repeated. Without durations each frame is used once,
    and the rate is 0.
    """
    stored = list(range(len(durations)))
    if not any(durations):
        return stored, 0.0
    ends = np.cumsum([duration or ZERO for duration in durations])
    total = float(ends[-1])
    count, rate = _as_commented(comment, len(durations), total) or (_fewest(ends, unit), 0.0)
    if count is None:
        return stored, round(len(durations) * 1000 / total, 2)
    middles = (np.arange(count) + 0.5) * (total / count)
    shown = np.searchsorted(ends, middles, side="right").clip(0, len(durations) - 1).tolist()
    return shown, round(rate or count * 1000 / total, 2)


def _as_commented(comment: str, stored: int, total: float) -> tuple[int, float] | None:
    """Return the frames and the rate from this package's comment, if the durations match it."""
    found = _COMMENT.fullmatch(comment)
    if found is None or found[2].endswith("/0") or not Fraction(found[2]):
        return None
    count, rate = int(found[1]), float(Fraction(found[2]))
    agrees = abs(count * 1000 / rate - total) <= 10 * count and stored <= count <= MOST_SHOWN
    return (count, rate) if agrees else None


def _fewest(ends: np.ndarray, unit: int) -> int | None:
    """Return the smallest number of equally long frames whose ends match these to `unit`, or None."""
    for count in range(len(ends), min(MOST_SHOWN, math.ceil(ends[-1] / unit)) + 1):
        numbers = np.floor(ends * (count / ends[-1]) + 0.5)
        is_near = np.abs(numbers * (ends[-1] / count) - ends).max() <= unit / 2
        if is_near and np.diff(numbers, prepend=0).min() >= 1:
            return count
    return None


def durations(image: Image.Image, path: Path) -> list[int]:
    """Return the milliseconds of each frame of an open animation."""
    if image.format == "GIF":
        found = gif_durations(read_bytes(path, MOST_BYTES))
        if not found:
            raise ValueError("cannot be read as an image: it is damaged and has no frames")
        return found
    count = frame_count(image)
    _check_decoded(image, count)
    found = []
    for number in range(first_frame(image), count):
        go_to(image, number)
        found.append(round(image.info.get("duration", 0)))
    return found


def first_frame(image: Image.Image) -> int:
    """Return the number of the animation's first frame: a PNG may contain a still image before it."""
    return 1 if image.info.get("default_image") else 0


def animation_frames(
    path: Path, shown: Sequence[int], background: str = BACKGROUND, say: Say = lambda words: None
) -> Iterator[np.ndarray]:
    """Yield the frames uint8 [H, W, 3] of an animation for these non-decreasing numbers."""
    with open_image(path) as image:
        offset = first_frame(image)
        _check_decoded(image, offset + max(shown, default=-1) + 1)
        for number, times in itertools.groupby(shown):
            go_to(image, offset + number)
            frame = pixels(image, background, say)
            yield from (frame for _ in times)


def _check_decoded(image: Image.Image, count: int) -> None:
    if count * image.width * image.height > MOST_DECODED:
        size = f"{count} frames of {image.width} x {image.height}"
        raise ValueError(f"needs {size} pixels; the limit is {MOST_DECODED} pixels")


def gif_durations(content: bytes) -> list[int]:
    """Return the milliseconds of each frame of a GIF, without decoding it; it may be cut off."""
    found, delay = [], 0
    place = 13 + _colours(content, 10)
    while place < len(content) and content[place] in (0x21, 0x2C):
        if content[place] == 0x21:  # an extension; 0xF9 has the delay of the next frame
            if content[place + 1 : place + 2] == b"\xf9":
                delay = int.from_bytes(content[place + 4 : place + 6], "little")
            place += 2
        else:
            found.append(delay * 10)
            delay = 0
            place += 11 + _colours(content, place + 9)
        while place < len(content) and content[place]:  # blocks, each preceded by its length, 0 ends them
            place += 1 + content[place]
        place += 1
    return found


def _colours(content: bytes, place: int) -> int:
    """Return the bytes of the colour table described by the flags at `place`."""
    flags = content[place] if place < len(content) else 0
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def folder_files(folder: Path) -> list[Path]:
    """Return the frames of a folder by number. ValueError if one is missing or duplicate."""
    found = ((re.fullmatch(r"frame_([0-9]{1,9})", path.stem), path) for path in folder.glob(FRAME_PATTERN))
    numbered = sorted((int(match[1]), path) for match, path in found if match is not None)
    if not numbered:
        raise ValueError(f"has no frames named {FRAME_PATTERN}")
    for (before, _), (after, path) in itertools.pairwise(numbered):
        if after == before:
            raise ValueError(f"has frame {after} twice: {path.name} has the same number")
        if after != before + 1:
            raise ValueError(f"has frame {before} and frame {after}, but none in between")
    return [path for _, path in numbered]


def folder_rate(folder: Path) -> float:
    """Return the frames per second in the JSON file next to a folder of frames, or 0."""
    try:
        content = load_json(sidecar_path(folder))
        rate = content["config"]["fps"]
    except (OSError, ValueError, LookupError, TypeError):
        return 0.0
    return round(float(rate), 2) if type(rate) in (int, float) and 0 < rate < 1e6 else 0.0
