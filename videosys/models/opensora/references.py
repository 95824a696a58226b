"""Reference images and videos as frames of a clip's size."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional as F

from videosys.utils.video import read_video


def load_reference(source: str | Path | Tensor, height: int, width: int) -> Tensor:
    """Return the frames of an image or video, float32 [3, T, height, width] in [-1, 1].

    source: path of a file, or uint8 frames [T, H, W, 3]. An image is one frame. The frames are resized to
    cover the size and cut to it around the centre, so nothing is distorted. ValueError if the file is
    missing, or is neither an image nor a video.
    """
    if height < 1 or width < 1:
        raise ValueError(f"height and width must be 1 or more, not {height} and {width}")
    frames = check_frames(source) if isinstance(source, Tensor) else read_frames(Path(source))
    return torch.stack([fit(frame, height, width) for frame in frames], dim=1)


def check_frames(frames: Tensor) -> Tensor:
    """The frames, if they are uint8 [T, H, W, 3]; else ValueError."""
    if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise ValueError(
            f"reference frames must be uint8 [T, H, W, 3], not {frames.dtype} {list(frames.shape)}"
        )
    return frames


def read_frames(path: Path) -> Tensor:
    """Return the frames uint8 [T, H, W, 3] of an image (upright, as its camera noted) or video file."""
    if not path.is_file():
        raise ValueError(f"reference {str(path)!r} is not a file")
    try:
        with Image.open(path) as image:
            if (
                not getattr(image, "is_animated", False) or image.format == "MPO"
            ):  # MPO: a photo and its previews
                return torch.from_numpy(np.array(ImageOps.exif_transpose(image).convert("RGB")))[None]
    except UnidentifiedImageError:
        pass  # not an image: perhaps a video
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"reference {str(path)!r} cannot be read as an image: {error}") from error
    try:
        return read_video(path)[0]
    except ValueError as error:
        raise ValueError(f"reference {str(path)!r} is neither an image nor a video: {error}") from error


def fit(frame: Tensor, height: int, width: int) -> Tensor:
    """Return one frame [H, W, 3] as float32 [3, height, width] in [-1, 1], resized to cover it and cut."""
    scale = max(height / frame.shape[0], width / frame.shape[1])
    size = [max(least, math.floor(side * scale + 0.5)) for side, least in zip(frame.shape, (height, width))]
    pixels = frame.permute(2, 0, 1)[None].float()
    if size != list(frame.shape[:2]):
        pixels = F.interpolate(pixels, size=size, mode="bicubic", antialias=True, align_corners=False)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return pixels[0, :, top : top + height, left : left + width].clamp(0, 255) / 127.5 - 1
