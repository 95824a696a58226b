"""Reference images and videos, resized to the size of a clip."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from videosys.utils.clips import Clip, is_frame_folder, open_clip
from videosys.utils.ffmpeg import NoVideoError
from videosys.utils.images import BACKGROUND
from videosys.utils.reading import expanded

MOST_COVERING = 1 << 25  # pixels of a frame that covers a clip, before cropping; or 8 times the clip's


@dataclass(frozen=True)
class OpenReference:
    """An image or video before its frames are read; size is (height, width)."""

    name: str
    size: tuple[int, int]
    num_frames: int
    frames: Callable[[int, int | None], Iterator[Tensor]]

    def load(self, height: int, width: int, start: int = 0, stop: int | None = None) -> Tensor:
        """Return frames `start` to before `stop`, float32 [3, T, height, width] in [-1, 1].

        They are resized to cover the size and cropped around the centre, without distortion, one at a
        time: at most one is kept at its original size. ValueError for a frame that cannot be read.
        """
        try:
            frames = [fit(frame, height, width) for frame in self.frames(start, stop)]
        except ValueError as error:
            raise ValueError(f"reference {error}") from error
        return torch.stack(frames, dim=1)


def open_reference(source: str | Path | Tensor, background: str = BACKGROUND) -> OpenReference:
    """Open an image or video (with EXIF rotation), or uint8 frames [T, H, W, 3].

    Transparent parts show `background`. ValueError for a missing file, or one of another kind.
    """
    if isinstance(source, Tensor):
        height, width = check_frames(source).shape[1:3]
        return OpenReference("the reference", (height, width), len(source), partial(given_frames, source))
    name = f"reference {str(source)!r}"
    if not expanded(source).is_file() and not is_frame_folder(source):
        raise ValueError(f"{name} is not a file")
    try:
        clip = open_clip(source, background)
    except NoVideoError as error:
        raise ValueError(f"reference {error}; it is neither an image nor a video") from error
    except ValueError as error:
        raise ValueError(f"reference {error}") from error
    return OpenReference(name, clip.size, len(clip.order), partial(decoded_frames, clip))


def load_reference(
    source: str | Path | Tensor, height: int, width: int, background: str = BACKGROUND
) -> Tensor:
    """Return the frames of an image or video, float32 [3, T, height, width] in [-1, 1].

    source: path of a file, or uint8 frames [T, H, W, 3]. An image is one frame. The frames are resized to
    cover the size and cropped around the centre, without distortion. Transparent parts show
    `background`. ValueError if the file is missing, is neither an image nor a video, or has a shape that
    would be cropped almost completely.
    """
    if height < 1 or width < 1:
        raise ValueError(f"height and width must be 1 or more, not {height} and {width}")
    reference = open_reference(source, background)
    check_shape(reference, height, width)
    return reference.load(height, width)


def check_shape(reference: OpenReference, height: int, width: int) -> None:
    """Raise a ValueError if a frame that covers the size would be huge and mostly cropped."""
    rows, columns = covering(reference.size, height, width)
    if rows * columns > max(MOST_COVERING, 8 * height * width):
        shape = f"{reference.size[0]} x {reference.size[1]} (height x width)"
        change = f"it must be enlarged to {rows} x {columns} to cover {height} x {width}"
        raise ValueError(f"{reference.name} is {shape}; {change}")


def check_frames(frames: Tensor) -> Tensor:
    """The frames, if they are uint8 [T, H, W, 3]; else ValueError."""
    if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise ValueError(
            f"reference frames must be uint8 [T, H, W, 3], not {frames.dtype} {list(frames.shape)}"
        )
    return frames


def decoded_frames(clip: Clip, start: int, stop: int | None) -> Iterator[Tensor]:
    """Frames uint8 [H, W, 3] from `start` to before `stop`, one at a time."""
    return map(torch.from_numpy, clip.frames(start, stop))


def given_frames(frames: Tensor, start: int, stop: int | None) -> Iterator[Tensor]:
    """As `read`, for frames [T, H, W, 3] in memory."""
    return iter(frames[start:stop])


def covering(size: tuple[int, int], height: int, width: int) -> tuple[int, int]:
    """Return the (height, width) of a frame after resizing to cover another size."""
    scale = max(height / size[0], width / size[1])
    rows, columns = (max(least, math.floor(side * scale + 0.5)) for side, least in zip(size, (height, width)))
    return rows, columns


def fit(frame: Tensor, height: int, width: int) -> Tensor:
    """Return one frame [H, W, 3] as float32 [3, height, width] in [-1, 1], resized and cropped."""
    size = covering((frame.shape[0], frame.shape[1]), height, width)
    pixels = frame.permute(2, 0, 1)[None].float()
    if size != frame.shape[:2]:
        pixels = F.interpolate(pixels, size=size, mode="bicubic", antialias=True, align_corners=False)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return pixels[0, :, top : top + height, left : left + width].clamp(0, 255) / 127.5 - 1
