"""Contact sheets and GIFs of clips for visual inspection."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

INK, PAPER = (40, 40, 40), (255, 255, 255)
GAP = 4  # pixels between frames
GIF_COLOURS = 128
MARGIN = 12  # pixels around the sheet and above each caption


def contact_sheet(
    videos: Sequence[Tensor], captions: Sequence[str], path: str | Path, *, columns: int = 8, scale: int = 2
) -> None:
    """Write a PNG with one row per uint8 video [T, H, W, 3]: its caption above evenly spaced frames.

    Frames are enlarged `scale` times. ValueError if there are no videos or the number of captions differs.
    """
    if not videos or len(videos) != len(captions):
        raise ValueError(
            f"got {len(videos)} videos and {len(captions)} captions; the numbers must be equal and at least 1"
        )
    strips = [_strip(np.asarray(video), columns, scale) for video in videos]
    font = ImageFont.load_default(size=8 + 4 * scale)
    line = 2 * MARGIN + int(font.getbbox("Ag")[3]) - MARGIN // 2
    width = max(strip.width for strip in strips) + 2 * MARGIN
    sheet = Image.new("RGB", (width, sum(strip.height + line for strip in strips) + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    top = 0
    for strip, caption in zip(strips, captions, strict=True):
        draw.text((MARGIN, top + MARGIN), caption, fill=INK, font=font)
        sheet.paste(strip, (MARGIN, top + line))
        top += line + strip.height
    _save(sheet, path, format="PNG", optimize=True)


def save_gif(videos: Sequence[Tensor], path: str | Path, *, fps: int = 12, scale: int = 2) -> None:
    """Write a looping GIF of uint8 videos [T, H, W, 3] of equal size and length, side by side.

    All frames share one palette without dithering, which would flicker and double the file size.
    """
    if not videos or len({tuple(video.shape) for video in videos}) != 1:
        raise ValueError(f"videos must have one shape, got {[tuple(video.shape) for video in videos]}")
    arrays = [np.asarray(video) for video in videos]
    pages = _indexed([_row([array[i] for array in arrays], scale) for i in range(len(arrays[0]))])
    # GIF durations are in hundredths of a second.
    duration = round(100 / fps) * 10
    _save(pages[0], path, format="GIF", save_all=True, append_images=pages[1:], duration=duration, loop=0)


def _indexed(pages: Sequence[Image.Image]) -> list[Image.Image]:
    """Convert the pages to one common palette."""
    width, height = pages[0].size
    whole = Image.new("RGB", (width, height * len(pages)))
    for i, page in enumerate(pages):
        whole.paste(page, (0, i * height))
    palette = whole.quantize(GIF_COLOURS, dither=Image.Dither.NONE)
    return [page.quantize(palette=palette, dither=Image.Dither.NONE) for page in pages]


def _strip(video: np.ndarray, columns: int, scale: int) -> Image.Image:
    places = np.linspace(0, len(video) - 1, min(columns, len(video))).round().astype(int)
    return _row([video[i] for i in places], scale)


def _row(frames: Sequence[np.ndarray], scale: int) -> Image.Image:
    height, width = frames[0].shape[0] * scale, frames[0].shape[1] * scale
    row = Image.new("RGB", (len(frames) * (width + GAP) - GAP, height), PAPER)
    for i, frame in enumerate(frames):
        picture = Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC)
        row.paste(picture, (i * (width + GAP), 0))
    return row


def _save(image: Image.Image, path: str | Path, **options: object) -> None:
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        image.save(temporary, **options)  # type: ignore[arg-type]
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
