"""Fallback locations for a finished video that cannot be written: no computed frame is lost."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch

from videosys.utils.files import remove, replacing
from videosys.utils.logging import get_logger
from videosys.utils.owners import hidden_path

RAW = ".npy"
_LOG = get_logger("video")


class UnsavedVideo(OSError):
    """A video could not be written anywhere; its frames are only in memory."""


def rescued(
    frames: np.ndarray, path: Path, kind: str, write: Callable[[Path], Path], error: Exception
) -> Path:
    """Write a video that could not be written to `path` elsewhere; return and log the new path.

    It is a file of the same format in a new temporary folder, else the raw frames there or in the original
    folder. UnsavedVideo if all of them fail.
    """
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    attempts = (
        lambda: _in_temporary_folder(kind, write),
        lambda: _in_temporary_folder(RAW, lambda place: write_raw(frames, place)),
        lambda: write_raw(frames, path.with_name(f"{path.name[:100]}{RAW}")),
    )
    for attempt in attempts:
        with contextlib.suppress(Exception):
            place = attempt()
            _LOG.warning("%s cannot be written (%s); the video is in %s", path, reason, place)
            return place
    raise UnsavedVideo(
        f"{path} cannot be written ({reason}), nor can any other file; the video is only in memory"
    ) from error


def _in_temporary_folder(kind: str, write: Callable[[Path], Path]) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="videosys-"))
    try:
        return write(folder / f"video{kind}")
    except BaseException:
        remove(folder)
        raise


def write_raw(frames: np.ndarray, path: Path) -> Path:
    """Write the raw frames, flush them to the disk, and return their path."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, frames, allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
    return path


@contextlib.contextmanager
def report_remaining(prompts: Iterable[str]) -> Iterator[None]:
    """Turn a write error of the `with` block into a ValueError that adds the remaining prompts.

    prompts: of the remaining videos, in order; read only after an error.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        left = list(prompts)
        rest = f"; {len(left)} prompts remain, starting with {left[0][:60]!r}" if left else ""
        raise ValueError(f"{error}{rest}") from error


def check_room(folder: str | Path, size: int) -> None:
    """ValueError if a folder cannot take this many bytes: they are written as a test."""
    block, place = os.urandom(1 << 20), hidden_path(Path(folder) / "room")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("wb") as file:
            for start in range(0, size, len(block)):
                file.write(block[: size - start])
            os.fsync(file.fileno())
    except OSError as error:
        raise ValueError(f"output folder {str(folder)!r} is full: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            place.unlink()


def read_raw(path: Path) -> torch.Tensor:
    """Return the raw frames that `rescued` wrote, uint8 [T, H, W, 3]; ValueError for another file."""
    try:
        frames = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path}: cannot be read as raw frames: {error}") from error
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise ValueError(f"{path}: must contain uint8 [T, H, W, 3], not {frames.dtype} {list(frames.shape)}")
    return torch.from_numpy(np.array(frames))
