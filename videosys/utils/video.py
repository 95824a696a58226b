"""Video files: mp4 (lossy or lossless), GIF, one PNG, or a folder of PNGs; the size is kept exactly."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import MappingProxyType

import imageio_ffmpeg
import numpy as np
import torch
from PIL import Image

from videosys.utils.animation import FRAME_PATTERN, comment
from videosys.utils.clips import MOST_BYTES, open_clip
from videosys.utils.ffmpeg import count_frames
from videosys.utils.files import replacing
from videosys.utils.images import BACKGROUND
from videosys.utils.logging import get_logger
from videosys.utils.reading import expanded
from videosys.utils.rescue import RAW, read_raw, rescued
from videosys.utils.reservations import sweep
from videosys.utils.settled import settle

LARGEST_CRF = 51
SLOWEST, FASTEST = 0.01, 1000  # frames per second that every format supports
LONGEST_NAME = 255  # bytes, on the common file systems
_LOG = get_logger("video")


@settle
def save_video(
    video: torch.Tensor | np.ndarray,
    path: str | Path,
    *,
    fps: float | Fraction,
    crf: int = 18,
    lossless: bool = False,
    overwrite: bool = True,
) -> Path:
    """Save a video and return the path of its file.

    `video` is uint8 [T, H, W, 3]. The suffix picks the format: .mp4, .gif, .png (one frame), and none (or
    a trailing slash) for a folder of PNG frames. `crf` is x264's rate factor for mp4 (0 best, 51 worst);
    `lossless` stores exact RGB, which all decoders but few players support. ValueError for wrong
    arguments. The file is written atomically; if writing fails, the video goes to a temporary folder
    or, raw, to a .npy file, whose path is returned and logged as a warning. UnsavedVideo (an OSError) if
    nothing can be written: the caller still has the frames.
    """
    frames = _frames(video)
    kind = _check_format(path, len(frames), lossless)
    _check_rate(fps, crf)
    target = expanded(path)
    _check_target(target, kind, overwrite)
    write = partial(_WRITERS[kind], frames, fps=fps, crf=crf, lossless=lossless)
    try:
        return write(target)
    except MemoryError:
        raise
    except Exception as error:  # of the file system, ffmpeg, imageio or Pillow
        return rescued(frames, target, kind, write, error)


def check_writable(
    path: str | Path,
    shape: Sequence[int] = (1, 1, 1),
    *,
    lossless: bool = False,
    overwrite: bool = True,
    count: int = 1,
) -> None:
    """Raise a ValueError before the work if a video [T, H, W] cannot be saved at `path`.

    The folder is created, a probe file is written to it, and its free space is compared with an estimate for
    `count` such videos.
    """
    kind = _check_format(path, shape[0], lossless)
    target = expanded(path)
    _check_target(target, kind, overwrite)
    folder = target.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"0")
    except OSError as error:
        raise ValueError(f"output folder {str(folder)!r} cannot be written: {error.strerror}") from error
    size = math.prod(shape) * 3 * count
    needed = size if lossless or kind in (".png", "") else size // 4
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(
            f"output folder {str(folder)!r} has {free >> 20} MiB free; {needed >> 20} MiB may be needed"
        )


@settle
def read_video(path: str | Path, background: str = BACKGROUND) -> tuple[torch.Tensor, float]:
    """Return (frames uint8 [T, H, W, 3], frames per second to two decimals) of a video, image or folder.

    The frames are equally spaced: for a variable rate, the nearest ones in time are used; frames of an
    animation are repeated by their durations. The rate of images is 0. Transparent parts show
    `background`. ValueError for an unreadable file, or above `MOST_BYTES`.
    """
    if Path(path).suffix == RAW:
        return read_raw(expanded(path)), 0.0
    clip = open_clip(path, background)
    size = len(clip.order) * math.prod(clip.size) * 3
    if size > MOST_BYTES:
        raise ValueError(f"{path}: has {size >> 20} MiB of frames; the limit is {MOST_BYTES >> 20} MiB")
    return torch.from_numpy(np.stack(list(clip.frames()))), clip.fps


def _frames(video: torch.Tensor | np.ndarray) -> np.ndarray:
    if not isinstance(video, (torch.Tensor, np.ndarray)):
        raise ValueError(f"video must be a tensor or an array, got {type(video).__name__}")
    frames = (
        video.detach().cpu().numpy()
        if isinstance(video, torch.Tensor) and video.dtype == torch.uint8
        else video
    )
    if str(video.dtype).removeprefix("torch.") != "uint8" or video.ndim != 4 or video.shape[-1] != 3:
        raise ValueError(f"video must be uint8 [T, H, W, 3], got {video.dtype} {list(video.shape)}")
    if 0 in video.shape:
        raise ValueError(f"video must have frames and pixels, got {list(video.shape)}")
    return np.ascontiguousarray(frames)


def _check_format(path: str | Path, num_frames: int, lossless: bool) -> str:
    """Return the format of a path: a suffix in lower case, or "" for a folder of frames."""
    kind = "" if str(path).endswith(("/", os.sep)) else Path(path).suffix.lower()
    if kind not in _WRITERS:
        raise ValueError(
            f"output {str(path)!r} must end in .mp4, .gif or .png, or have no suffix for a folder of frames"
        )
    if Path(path).name in _WRITERS:
        raise ValueError(f"output {str(path)!r} has no file name")
    if len(os.fsencode(Path(path).name)) > LONGEST_NAME:
        raise ValueError(f"output name {Path(path).name[:40]!r}... is longer than {LONGEST_NAME} bytes")
    if kind == ".png" and num_frames != 1:
        raise ValueError(f"output {str(path)!r} can have one frame, not {num_frames}; use a folder")
    if kind == ".gif" and lossless:
        raise ValueError(f"output {str(path)!r} cannot be lossless: a GIF has 256 colours")
    return kind


def _check_rate(fps: float | Fraction, crf: int) -> None:
    if isinstance(fps, bool) or not isinstance(fps, (int, float, Fraction)) or not SLOWEST <= fps <= FASTEST:
        raise ValueError(f"fps must be a number above 0, got {fps!r}; the range is {SLOWEST} to {FASTEST}")
    if type(crf) is not int or not 0 <= crf <= LARGEST_CRF:
        raise ValueError(f"crf must be a whole number from 0 to {LARGEST_CRF}, got {crf!r}")


def _check_target(path: Path, kind: str, overwrite: bool) -> None:
    """Raise a ValueError if `path` exists and must not or cannot safely be replaced."""
    if not path.exists():
        return
    content = set(path.iterdir()) if path.is_dir() else {path}
    if content and not overwrite:
        raise ValueError(f"output {str(path)!r} already exists, and overwrite is off")
    if kind and path.is_dir():
        raise ValueError(f"output {str(path)!r} is a folder")
    if not kind and content - set(path.glob(FRAME_PATTERN)):
        raise ValueError(f"output {str(path)!r} must be a new folder, or contain only frames")


def _write_mp4(frames: np.ndarray, path: Path, *, fps: float | Fraction, crf: int, lossless: bool) -> Path:
    height, width = frames.shape[1:3]
    odd = bool(height % 2 or width % 2)
    if odd and not lossless:
        _LOG.warning("%dx%d is odd: stored as yuv444p, which some players do not support", width, height)
    with replacing(path) as temporary:
        writer = imageio_ffmpeg.write_frames(
            str(temporary.resolve()),
            (width, height),
            fps=Fraction(fps).limit_denominator(100_000),
            quality=None,
            macro_block_size=1,  # any other value would rescale the frames to a multiple of it
            codec="libx264rgb" if lossless else "libx264",
            pix_fmt_out="rgb24" if lossless else "yuv444p" if odd else "yuv420p",
            output_params=_mp4_options(crf, lossless),
            ffmpeg_log_level="error",
        )
        with contextlib.closing(writer):
            writer.send(None)
            for frame in frames:
                writer.send(frame)
        # ffmpeg's exit is not reported, so a full disk is noticed here.
        written = count_frames(temporary) if temporary.exists() else 0
        if written != len(frames):
            raise OSError(f"{written} of {len(frames)} frames were written")
    return path


def _mp4_options(crf: int, lossless: bool) -> list[str]:
    if lossless:
        return ["-crf", "0", "-movflags", "+faststart"]
    # Stored in the file, because players otherwise guess the colour space from the size.
    colours = ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709"]
    scale = ["-vf", "scale=out_color_matrix=bt709:flags=accurate_rnd+full_chroma_int"]
    return [*scale, *colours, "-crf", str(crf), "-movflags", "+faststart"]


def _write_gif(frames: np.ndarray, path: Path, *, fps: float | Fraction, **_: object) -> Path:
    # A GIF counts hundredths of a second: rounding the ends, not the lengths, keeps the total exact.
    ends = [round(number * 100 / Fraction(fps)) * 10 for number in range(len(frames) + 1)]
    lengths = [max(end - start, 10) for start, end in itertools.pairwise(ends)]
    first, *others = [Image.fromarray(frame) for frame in frames]
    with replacing(path) as temporary:
        # Equal consecutive frames are merged, with the sum of their durations; the comment has the original
        # count.
        note = comment(len(frames), fps)
        first.save(temporary, save_all=True, append_images=others, duration=lengths, loop=0, comment=note)
    return path


def _write_png(frames: np.ndarray, path: Path, **_: object) -> Path:
    with replacing(path) as temporary:
        Image.fromarray(frames[0]).save(temporary)
    return path


def _write_folder(frames: np.ndarray, path: Path, **_: object) -> Path:
    with replacing(path) as temporary:
        temporary.mkdir()
        for number, frame in enumerate(frames):
            Image.fromarray(frame).save(temporary / FRAME_PATTERN.replace("*", f"{number:05}"))
    return path


_WRITERS: Mapping[str, Callable[..., Path]] = MappingProxyType(
    {".mp4": _write_mp4, ".gif": _write_gif, ".png": _write_png, "": _write_folder}
)
