"""Videos with transparency show the background, and never the colours below what is transparent."""

from __future__ import annotations

import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from videosys.utils import ffmpeg
from videosys.utils.clips import open_clip
from videosys.utils.video import read_video

SIZE = (32, 64)
HIDDEN, SHOWN = (255, 0, 255, 0), (0, 0, 255, 255)  # the left and the right half
RGB_PNG = ("png", "-pix_fmt", "rgb24")
CASES = {
    "png.mov": ("png", "-pix_fmt", "rgba"),
    "png16.mov": ("png", "-pix_fmt", "rgba64be"),
    "grey.mkv": ("png", "-pix_fmt", "ya8"),
    "qtrle.mov": ("qtrle", "-pix_fmt", "argb"),
    "prores.mov": ("prores_ks", "-profile:v", "4444", "-pix_fmt", "yuva444p10le"),
    "vp8.webm": ("libvpx", "-pix_fmt", "yuva420p", "-auto-alt-ref", "0", "-b:v", "1M"),
    "vp9.webm": ("libvpx-vp9", "-pix_fmt", "yuva420p", "-lossless", "1"),
    "vp9.mkv": ("libvpx-vp9", "-pix_fmt", "yuva420p", "-lossless", "1"),
    "hevc.mov": ("libx265", "-pix_fmt", "yuva420p", "-x265-params", "log-level=none"),
    "bgra.mkv": ("ffv1", "-pix_fmt", "bgra"),
    "gbrap.mkv": ("ffv1", "-pix_fmt", "gbrap10le"),
    "utvideo.avi": ("utvideo", "-pix_fmt", "gbrap"),
    "raw.nut": ("rawvideo", "-pix_fmt", "rgba"),
}


def film(path: Path, codec: tuple[str, ...], frames: np.ndarray, *extra: str) -> Path:
    """Write frames uint8 [T, H, W, 4] with a codec of ffmpeg."""
    source = ("-f", "rawvideo", "-pix_fmt", "rgba", "-s", f"{SIZE[1]}x{SIZE[0]}", "-r", "8", "-i", "-")
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *source, "-c:v", *codec, *extra, path]
    subprocess.run(command, check=True, input=frames.tobytes())
    return path


def halves(left: tuple[int, ...] = HIDDEN) -> np.ndarray:
    frames = np.empty((3, *SIZE, 4), np.uint8)
    frames[:, :, :32], frames[:, :, 32:] = left, SHOWN
    return frames


@pytest.mark.parametrize("name", CASES)
def test_what_is_transparent_shows_the_background(tmp_path, caplog, name):
    path = film(tmp_path / name, CASES[name], halves())
    frames, fps = read_video(path, "lime")
    assert (frames.shape, fps) == ((3, *SIZE, 3), 8)
    error = (frames[:, :, :30].int() - frames.new_tensor([0, 255, 0]).int()).abs().max()
    assert error <= 2
    assert frames[:, :, 34:, 1].max() < 60  # blue, or its grey
    assert caplog.text.count("has transparent parts, which show lime") == 1


def test_hevc_without_a_layer_of_opacity_has_none(tmp_path):
    codec = ("libx265", "-pix_fmt", "yuv420p", "-x265-params", "log-level=none")
    assert ffmpeg.read_stamps(film(tmp_path / "a.mp4", codec, halves())).alpha is None


@pytest.mark.parametrize("codec", [CASES["png.mov"], CASES["bgra.mkv"], CASES["gbrap.mkv"], RGB_PNG])
def test_opaque_frames_keep_their_bits(tmp_path, caplog, codec):
    frames = np.random.default_rng(0).integers(0, 256, (3, *SIZE, 4)).astype(np.uint8)
    frames[..., 3] = 255
    path = film(tmp_path / "a.mkv", codec, frames)
    np.testing.assert_array_equal(read_video(path)[0].numpy(), frames[..., :3])
    assert caplog.text == ""


def test_what_is_half_transparent_is_mixed(tmp_path):
    path = film(tmp_path / "a.mov", CASES["png.mov"], halves((255, 0, 0, 51)))
    assert read_video(path, "blue")[0][0, 0, 0].tolist() == [51, 0, 204]


@pytest.mark.parametrize("name", ["png.mov", "vp9.webm"])
def test_some_frames_of_a_transparent_video(tmp_path, name):
    frames = halves()
    frames[2, :, :32] = SHOWN
    clip = open_clip(film(tmp_path / name, CASES[name], frames), "white")
    assert [int(frame[0, 0, 0]) > 200 for frame in clip.frames(1)] == [True, False]


@pytest.mark.parametrize(
    ("name", "codec", "extra"),
    [
        ("a.webm", ("libvpx-vp9", "-pix_fmt", "yuv420p"), ("-metadata:s:v", "alpha_mode=1")),
        ("a.mkv", RGB_PNG, ("-metadata", "title=a, rgba, b", "-metadata", "alpha_mode=1")),
    ],
)
def test_a_file_that_only_claims_transparency_is_read(tmp_path, caplog, name, codec, extra):
    path = film(tmp_path / name, codec, halves(), *extra)
    assert read_video(path)[0].shape == (3, *SIZE, 3)
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("said", "alpha"),
    [
        ("Video: h264 (High) (avc1 / 0x31637661), yuv420p(tv, bt709), 2x2, 8 fps", None),
        ("Video: png, pal8(pc), 2x2, 8 fps", ""),
        ("Video: vp9 (Profile 0), yuv420p(tv), 2x2, 8 fps Metadata: ALPHA_MODE : 1", "libvpx-vp9"),
        ("Video: vp8, yuv420p(tv), 2x2, 8 fps Metadata: alpha_mode : 1", "libvpx"),
        ("Video: vp9, yuv420p(tv), 2x2, 8 fps Metadata: alpha_mode : 0", None),
        ("Video: png, rgba(pc), 2x2, 90k fps (attached pic) Stream #0:1: Video: h264, yuv420p, 8 fps", None),
        ("Video: h264, yuv420p, 8 fps Stream mapping: Stream #0:0: Video: png, rgba, 8 fps", None),
    ],
)
def test_transparency_is_what_ffmpeg_says_of_the_first_video(said, alpha):
    text = f"Input #0, matroska Stream #0:0: {said} Stream mapping: Stream #0:0 -> #0:0"
    assert ffmpeg._alpha(Path("unread"), text) == alpha
    assert ffmpeg._rate(text) == 8
