"""One reader for video files, images, animations and folders of frames."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from videosys.utils.animation import (
    FRAME_PATTERN,
    animation_frames,
    durations,
    folder_files,
    folder_rate,
    timeline,
)
from videosys.utils.ffmpeg import NoVideoError, read_frames, read_stamps
from videosys.utils.images import (
    BACKGROUND,
    NoImageError,
    Say,
    frame_count,
    lay_on,
    open_image,
    pixels,
    upright_size,
)
from videosys.utils.kinds import file_kind
from videosys.utils.logging import get_logger
from videosys.utils.reading import check_regular, expanded

MOST_BYTES = 4 << 30  # of all frames of a video that is read whole

_LOG = get_logger("clips")
_MOVING = ("GIF", "PNG", "WEBP", "AVIF")


@dataclass(frozen=True)
class Clip:
    """Properties of a clip that are known before its frames are read.

    size: (height, width). fps: frames per second to two decimals, 0 for images and without a rate. order:
    the number of the stored frame for each output frame; output frames have equal durations.
    """

    path: Path
    size: tuple[int, int]
    fps: float
    order: Sequence[int]
    read: Callable[[Sequence[int]], Iterator[np.ndarray]]

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """Yield frames uint8 [H, W, 3] from `start` to before `stop`, with only one in memory at a time.

        A damaged or truncated file is a ValueError that names it.
        """
        wanted = self.order[start:stop]
        count, shape = 0, None
        with _named(self.path):
            for frame in self.read(wanted):
                if shape not in (None, frame.shape):
                    raise ValueError(f"changes its size from {shape} to {frame.shape}")
                yield frame
                count, shape = count + 1, frame.shape
            if count < len(wanted):
                self._end_early(start + count, is_needed=stop is not None or not count)

    def _end_early(self, count: int, is_needed: bool) -> None:
        message = f"is damaged: frame {count} of {len(self.order)} and the following ones cannot be read"
        if is_needed:
            raise ValueError(message)
        _LOG.warning("%s %s", self.path, message)


def open_clip(path: str | Path, background: str = BACKGROUND) -> Clip:
    """Return a video file, image, animation or folder of frames without reading frames.

    Transparent parts show `background`. Anything else is a ValueError that names the file, and so is a file
    above the limits in `videosys.utils`: images, animation and ffmpeg.
    """
    path = expanded(path)
    say = _Once(path)
    with _named(path):
        if path.is_dir():
            return _folder(path, background, say)
        if not path.exists():
            raise ValueError("no such file")
        check_regular(path, path.stat().st_mode)
        try:
            return _image(path, background, say)
        except NoImageError as error:
            with _explained(path, error):
                return _video(path, background, say)


def is_frame_folder(path: str | Path) -> bool:
    """Whether a folder holds the frames of a video, as `save_video` writes them."""
    return any(Path(path).glob(FRAME_PATTERN))


class _Once:
    """Logs each line about a file once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.said: set[str] = set()

    def __call__(self, words: str) -> None:
        if words not in self.said:
            self.said.add(words)
            _LOG.warning("%s %s", self.path, words)


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Add the name of a file to errors."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        kind = NoVideoError if isinstance(error, NoVideoError) else ValueError
        raise kind(f"{path}: {str(error).removeprefix(f'{path}: ')}") from error


@contextlib.contextmanager
def _explained(path: Path, no_image: Exception) -> Iterator[None]:
    """Raise an error that identifies a file that is neither a video nor an image."""
    try:
        yield
    except NoVideoError as error:
        kind = file_kind(path)
        reason = str(error) if "video" in kind or not kind else ""
        content = ", ".join(filter(None, (kind and f"its content is {kind}", reason)))
        raise NoVideoError(f"cannot be read as a video, and {no_image}: {content}") from error


def _folder(path: Path, background: str, say: Say) -> Clip:
    files = folder_files(path)
    sizes = set()
    for file in files:
        with open_image(file) as image:
            sizes.add(upright_size(image))
    if len(sizes) > 1:
        shown = ", ".join(f"{width} x {height}" for height, width in sorted(sizes)[:3])
        raise ValueError(f"has frames of several sizes: {shown}")

    def read(numbers: Sequence[int]) -> Iterator[np.ndarray]:
        for number in numbers:
            with open_image(files[number]) as image:
                yield pixels(image, background, say)

    return Clip(path, sizes.pop(), folder_rate(path), range(len(files)), read)


def _image(path: Path, background: str, say: Say) -> Clip:
    with open_image(path) as image:
        size, count = upright_size(image), frame_count(image)
        if image.format == "GIF" or (count > 1 and image.format in _MOVING):
            is_gif = image.format == "GIF"
            note = image.info.get("comment", b"").decode("ascii", "replace") if is_gif else ""
            order, fps = timeline(durations(image, path), note, 10 if is_gif else 1)
            if not order:
                raise ValueError("holds no frames")
            frames = partial(animation_frames, path, background=background, say=say)
            return Clip(path, size, fps, order, frames)
        if count > 1 and image.format != "MPO":  # a photo with previews
            say(f"has {count} images; the first is used")
    return Clip(path, size, 0.0, (0,), partial(_still, path, background, say))


def _still(path: Path, background: str, say: Say, numbers: Sequence[int]) -> Iterator[np.ndarray]:
    with open_image(path) as image:
        frame = pixels(image, background, say)
    yield from (frame for _ in numbers)


def _video(path: Path, background: str, say: Say) -> Clip:
    stamps = read_stamps(path)
    order = stamps.order
    changed = len(order) - len({*order})
    if changed:
        say(f"has a variable frame rate: {changed} of {len(order)} frames are dropped and {changed} repeated")

    def lay(frame: np.ndarray) -> np.ndarray:
        return np.array(lay_on(Image.fromarray(frame), background, say)) if frame.shape[2] == 4 else frame

    if not stamps.is_square:
        say("has non-square pixels: its frames are scaled to the display aspect ratio")

    def read(start: int, count: int) -> Generator[np.ndarray]:
        return read_frames(path, start, count, stamps.alpha, stamps.is_square, say)

    return Clip(path, stamps.size, stamps.fps, order, partial(_video_frames, read, lay))


def _video_frames(
    read: Callable[[int, int], Generator[np.ndarray]],
    lay: Callable[[np.ndarray], np.ndarray],
    numbers: Sequence[int],
) -> Iterator[np.ndarray]:
    """Yield the frames of these non-decreasing numbers, converted by `lay`."""
    if not numbers:
        return
    times = Counter(numbers)
    with contextlib.closing(read(numbers[0], numbers[-1] - numbers[0] + 1)) as frames:
        for number, frame in enumerate(frames, numbers[0]):
            shown = lay(frame) if times[number] else frame
            yield from (shown for _ in range(times[number]))
