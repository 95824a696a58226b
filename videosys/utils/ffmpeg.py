"""Frames of video files and their timestamps, read by ffmpeg, which may open only the file itself."""

from __future__ import annotations

import contextlib
import re
import subprocess
import tempfile
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import IO

import imageio_ffmpeg
import numpy as np

from videosys.utils.images import Say

MOST_FRAMES = 200_000  # of a file: more than two hours at 25 frames per second
MOST_PIXELS = 1 << 26  # of a frame: 8192 x 8192
PRECISION = 0.0011  # seconds: some formats count milliseconds
# Self-contained formats: no playlists of other files, no devices, no subtitles.
CONTAINERS = (
    "mov,mp4,matroska,webm,avi,mpeg,mpegts,mpegvideo,flv,ogg,asf,mxf,nut,ivf,yuv4mpegpipe,h264,hevc,dv"
)
DECODERS = (
    "h264,hevc,vvc,libdav1d,libaom-av1,av1,vp8,vp9,libvpx,libvpx-vp9,mpeg1video,mpeg2video,mpeg4,h263,h263p,"
    "flv,msmpeg4v1,msmpeg4v2,msmpeg4,wmv1,wmv2,wmv3,vc1,theora,mjpeg,ljpeg,png,rawvideo,wrapped_avframe,ffv1,"
    "huffyuv,ffvhuff,utvideo,magicyuv,prores,dnxhd,cfhd,dvvideo,qtrle,svq1,svq3,cinepak"
)
ALLOWED = (
    *("-protocol_whitelist", "file,pipe", "-format_whitelist", CONTAINERS),
    *("-codec_whitelist", DECODERS, "-max_pixels", str(MOST_PIXELS)),
)

_COPY = ("-c", "copy")
_DECODE = ("-enc_time_base", "demux", "-c:v", "wrapped_avframe")
_PACKET = re.compile(rb"^0, *-?\d+, *(-?\d+), *(\d+), *\d+, 0x\w+(?:, F=0x([0-9A-F]+))?", re.MULTILINE)
_NO_STAMP = -(1 << 63)
_DISCARDED = 4  # the flag of a packet that an edit list leaves out
_SHOWN = 200  # maximum characters of ffmpeg's messages
_SQUARE = r"scale=trunc(iw*max(1\,sar)+0.5):trunc(ih*max(1\,1/sar)+0.5)"  # no side becomes smaller
_LEAST_STRETCH = 0.01  # less counts as square: it is the error of rounding a width to a whole number
_CHANGED_SIZE = re.compile(r"filter context - (w: \d+ h: \d+) .*?incoming frame - (w: \d+ h: \d+) ")
# VP8 and VP9 store transparency as a second video, which ffmpeg's native decoders ignore.
_ALPHA_DECODERS = (("vp8", "libvpx"), ("vp9", "libvpx-vp9"))
_ALPHA_FORMATS = re.compile(r", (?:yuva|rgba|argb|bgra|abgr|gbrap|ya\d|yaf|ayuv|vuya|uyva|pal8)\w*[(,]")


class NoVideoError(ValueError):
    """A file of an unknown video format."""


@dataclass(frozen=True)
class Stamps:
    """The times of the frames of a file in display order, in seconds from the first one.

    seconds: end of the last frame. rate: frames per second from the file, or 0. size: (height,
    width) as displayed, before rotation. alpha: the decoder for frames with transparency, "" for the default
    one; None without transparency. is_square: whether the pixels are square.
    """

    times: tuple[float, ...]
    seconds: float
    rate: float
    size: tuple[int, int]
    alpha: str | None = None
    is_square: bool = True

    @property
    def fps(self) -> float:
        """Frames per second to two decimals: the file's rate if its frames match it, else the mean."""
        mean = len(self.times) / self.seconds if self.seconds else self.rate
        keeps_rate = self.is_even and abs(self.rate - mean) <= 0.02 * mean
        return round(self.rate if keeps_rate else mean, 2)

    @property
    def is_even(self) -> bool:
        """Whether the frames are equally spaced, within the precision of their timestamps."""
        if not self.times:
            return False
        even = np.linspace(0, self.times[-1], len(self.times))
        return bool(np.abs(even - self.times).max() <= PRECISION)

    @property
    def order(self) -> list[int]:
        """The number of the frame to show at each of `len(times)` equally spaced times.

        This is frame i at time i if it is at most half an interval away, else the frame nearest in time.
        """
        count, times = len(self.times), np.asarray(self.times)
        own, distance = np.arange(count), self.seconds / count
        after = np.searchsorted(times, own * distance).clip(1, max(count - 1, 1))
        is_before = own * distance - times[after - 1] <= times[np.minimum(after, count - 1)] - own * distance
        stays = self.is_even | (np.abs(times - own * distance) <= distance / 2)
        return np.where(stays, own, after - is_before).tolist()


def read_stamps(path: Path) -> Stamps:
    """Return the times of the frames of a video file. ValueError if it is not a video, or too large."""
    stamps = _stamps(path, _COPY)
    # In some formats, packets lack timestamps or contain several frames. Decoding is slower but exact.
    return stamps if stamps.is_even else _stamps(path, _DECODE)


def count_frames(path: Path) -> int:
    """Return the number of frames of a video file, 0 if it is not one."""
    try:
        return len(read_stamps(path).times)
    except ValueError:
        return 0


def read_frames(
    path: Path,
    start: int = 0,
    count: int | None = None,
    alpha: str | None = None,
    is_square: bool = True,
    say: Say = lambda words: None,
) -> Generator[np.ndarray]:
    """Yield `count` frames uint8 [H, W, 3] from number `start`, rotated by the metadata, one at a time.

    alpha, is_square: from the file's `Stamps`. With `alpha`, frames are [H, W, 4], opacity last; non-square
    pixels are scaled. If the file ends early, fewer frames are yielded. `say` is called with a line about
    each error that ffmpeg conceals and each change of size. ValueError if no frame can be read.
    """
    chosen = [rf"select=gte(n\,{start})"] * bool(start) + [_SQUARE] * (not is_square)
    filters = ("-vf", ",".join(chosen)) if chosen else ()
    most = () if count is None else ("-frames:v", str(count))
    pixels = ("ppm", "-pix_fmt", "rgb24") if alpha is None else ("pam", "-pix_fmt", "rgba")
    picture = ("-c:v", *pixels, "-f", "image2pipe", "-")
    with _running(path, (*filters, *most, *picture), "level+warning", alpha) as (output, messages):
        number = 0
        while (frame := _next_picture(output)) is not None:
            yield frame
            number += 1
        said = _said(messages)
    if not number:
        raise ValueError(f"holds no frames that can be read: {_reason(said)}")
    _tell(said, say)


def _tell(said: str, say: Say) -> None:
    """Report warnings of ffmpeg that affect pixels."""
    errors = re.findall(r"\[(?:error|fatal)\] (.*?)(?= \[\w+\] |$)", said)
    of_input = [error for error in errors if "to muxer" not in error]  # stamps that are equal, for one
    if of_input:
        say(f"is damaged, and some of its frames may be missing or wrong: {of_input[0][:_SHOWN]}")
    if any(old != new for old, new in _CHANGED_SIZE.findall(said)):
        say("changes its frame size: all frames are scaled to the size of the first one")


@contextlib.contextmanager
def _running(
    path: Path, output: Sequence[str], level: str, decoder: str | None = None
) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """Start ffmpeg on a file; yield (its output, its messages), and end it."""
    # An absolute path cannot be read as an option or a network address.
    chosen = ("-c:V", decoder) if decoder else ()
    # A filter that is recreated when the size changes would count frames from 0 again.
    options = ("-nostdin", "-hide_banner", "-nostats", "-v", level, *chosen, "-reinit_filter", "0", *ALLOWED)
    command = [
        _program(),
        *options,
        "-i",
        f"file:{path.resolve()}",
        "-map",
        "0:V:0",
        "-fps_mode",
        "passthrough",
        *output,
    ]
    with tempfile.TemporaryFile() as messages:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=messages, bufsize=1 << 16
        )
        assert process.stdout is not None
        try:
            yield process.stdout, messages
        finally:
            process.stdout.close()
            process.kill()
            process.wait()


def _program() -> str:
    try:
        return imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise ValueError(f"cannot be read without ffmpeg: {error}") from error


def _stamps(path: Path, codec: Sequence[str]) -> Stamps:
    """Return the timestamps of packets or frames.

    Without timestamps in the file, packets give no times, and frames equally spaced ones.
    """
    output = ("-frames:v", str(MOST_FRAMES + 1), *codec, "-f", "framecrc", "-")
    with _running(path, output, "info") as (content, messages):
        lines = content.read()
        said = _said(messages)
    head = re.search(
        rb"#tb 0: (\d+)/(\d+)\n(?:#.*\n)*?#dimensions 0: (\d+)x(\d+)\n(?:#sar 0: (\d+)/(\d+))?", lines
    )
    if head is None:
        raise NoVideoError(_reason(said))
    numerator, denominator, width, height, wide, high = (int(group or 0) for group in head.groups())
    is_square = not (wide and high) or abs(wide / high - 1) <= _LEAST_STRETCH
    if not is_square:
        width, height = int(width * max(1, wide / high) + 0.5), int(height * max(1, high / wide) + 0.5)
    if width * height > MOST_PIXELS:
        raise ValueError(f"has frames of {width} x {height} pixels; the limit is {MOST_PIXELS} pixels")
    packets = [
        (int(pts), int(length), int(flags or b"1", 16)) for pts, length, flags in _PACKET.findall(lines)
    ]
    shown = sorted((pts, length) for pts, length, flags in packets if not flags & _DISCARDED)
    _check_count(len(shown), said)
    rate, tick = _rate(said), numerator / denominator
    if shown[0][0] == _NO_STAMP:
        times = [] if codec is _COPY else [number / (rate or 25) for number in range(len(shown))]
    else:
        times = [(pts - shown[0][0]) * tick for pts, _ in shown]
    rest = shown[-1][1] * tick or median([after - before for before, after in pairwise(times)] or [0])
    seconds = times[-1] + rest if times else 0.0
    return Stamps(tuple(times), seconds, rate, (height, width), _alpha(path, said), is_square)


def _check_count(count: int, said: str) -> None:
    if not count:
        raise ValueError(f"has no frames: {_reason(said)}")
    if count > MOST_FRAMES:
        raise ValueError(f"has more than {MOST_FRAMES} frames")


def _rate(said: str) -> float:
    """Return the frames per second of the first video stream according to ffmpeg, or 0."""
    found = re.search(r" ([\d.]+)(k?) fps", _stream(said))
    return float(found[1]) * (1000 if found[2] else 1) if found else 0.0


def _alpha(path: Path, said: str) -> str | None:
    """Return the decoder for transparent frames of the first video stream, as `Stamps.alpha`."""
    stream, _, notes = _stream(said).partition("Metadata:")
    if _ALPHA_FORMATS.search(stream):
        return ""
    if "Video: hevc" in stream:  # stores it in a layer that is only visible when a frame is decoded
        with _running(path, ("-frames:v", "1", *_DECODE, "-f", "null", "-"), "info") as (content, messages):
            content.read()
            output = _said(messages).partition("Stream mapping:")[2]
        return "" if _ALPHA_FORMATS.search(output) else None
    if not re.search(r"\balpha_mode *: *1\b", notes, re.IGNORECASE):
        return None
    return next((decoder for codec, decoder in _ALPHA_DECODERS if f"Video: {codec}" in stream), None)


def _stream(said: str) -> str:
    """Return ffmpeg's line about the first video stream that is not a cover picture, or ""."""
    streams = re.split(r"Stream #0:", said.partition("Stream mapping:")[0])[1:]
    return next((each for each in streams if "Video:" in each and "(attached pic)" not in each), "")


def _next_picture(file: IO[bytes]) -> np.ndarray | None:
    """Return the next PPM or PAM image of a stream, or None at its end or if it is truncated."""
    kind = file.readline(16)
    if kind == b"P6\n":
        width, height = map(int, file.readline(32).split())
        file.readline(16)
        depth = 3
    elif kind == b"P7\n":
        width, height, depth = (int(file.readline(32).split()[1]) for _ in range(3))
        for _ in range(3):  # the largest value, the tuple type, the end of the header
            file.readline(32)
    else:
        return None
    content = bytearray(file.read(height * width * depth))  # NumPy uses it without a copy, and it is writable
    is_whole = len(content) == height * width * depth
    return np.frombuffer(content, np.uint8).reshape(height, width, depth) if is_whole else None


def _said(messages: IO[bytes]) -> str:
    messages.seek(0)
    text = re.sub(r"\[[^]\n]* @ 0x\w+\] ", "", messages.read(1 << 20).decode("utf-8", "replace"))
    return " ".join(text.split())


def _reason(said: str) -> str:
    """Return ffmpeg's last message about its input."""
    said = re.sub(r"\[(?:warning|error|fatal)\] ", "", said)
    found = re.findall(r"Error opening input: (.*?)(?= Error|$)", said)
    return found[-1] if found else said[-_SHOWN:]
