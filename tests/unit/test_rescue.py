"""A finished video survives every failure while it is written, and the place is said in one line."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from videosys import UnsavedVideo, check_room, read_video, save_video
from videosys.utils import video as module

FRAMES = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch) -> Path:
    """The folder for temporary files, on another file system than the videos in these tests."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def broken(error: Exception, times: int = 99):
    """A writer of frames that fails so often."""
    left = [error] * times

    def write(frames, path, **options):
        if left:
            raise left.pop()
        path.write_bytes(b"video")
        return path

    return write


ERRORS = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EDQUOT, "Disk quota exceeded"),
    OSError(errno.EROFS, "Read-only file system"),
    OSError(errno.ENAMETOOLONG, "File name too long"),
    PermissionError(errno.EACCES, "Permission denied"),
    FileNotFoundError(errno.ENOENT, "No such file or directory"),
    BrokenPipeError(errno.EPIPE, "Broken pipe"),
    RuntimeError("No ffmpeg exe could be found.\nInstall ffmpeg on your system"),
    RuntimeError("FFMPEG call failed with 228"),
    ValueError("Pillow: image has wrong mode"),
    KeyError("PNG"),
    SyntaxError("broken PNG file"),
]


@pytest.mark.parametrize("kind", [".mp4", ".gif", ".png", ""])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: str(error)[:30])
def test_whatever_fails_the_frames_are_kept(tmp_path, monkeypatch, caplog, error, kind):
    monkeypatch.setattr(module, "_WRITERS", {**module._WRITERS, kind: broken(error)})
    frames = FRAMES[:1]
    path = save_video(frames, tmp_path / f"out/a{kind}", fps=8)
    assert torch.equal(read_video(path)[0], torch.from_numpy(frames))
    (record,) = caplog.records
    assert str(path) in record.getMessage()
    assert "\n" not in record.getMessage()


def test_another_folder_comes_before_raw_frames(tmp_path, monkeypatch, temporary):
    monkeypatch.setattr(module, "_WRITERS", {".mp4": broken(ERRORS[0], times=1)})
    path = save_video(FRAMES, tmp_path / "out" / "a.mp4", fps=8)
    assert (path.parent.parent, path.suffix, path.read_bytes()) == (temporary, ".mp4", b"video")


def test_a_full_temporary_folder_leaves_the_output_folder(tmp_path, monkeypatch, temporary):
    monkeypatch.setattr(module, "_WRITERS", {".mp4": broken(RuntimeError("no ffmpeg"))})
    monkeypatch.setattr("tempfile.mkdtemp", lambda **_: 1 / 0)
    path = save_video(FRAMES, tmp_path / "out" / "a.mp4", fps=8)
    assert path == tmp_path / "out" / "a.mp4.npy"
    assert torch.equal(read_video(path)[0], torch.from_numpy(FRAMES))


def test_where_nothing_can_be_written_the_caller_still_has_the_frames(tmp_path, monkeypatch, temporary):
    monkeypatch.setattr(module, "_WRITERS", {".mp4": broken(ERRORS[0])})
    monkeypatch.setattr("numpy.save", lambda *_, **__: 1 / 0)
    with pytest.raises(UnsavedVideo, match=r"No space left on device.*only in memory"):
        save_video(FRAMES, tmp_path / "out" / "a.mp4", fps=8)
    assert list(temporary.iterdir()) == []
    assert list((tmp_path / "out").iterdir()) == []


def test_without_ffmpeg_the_frames_are_raw(tmp_path, monkeypatch):
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "absent"))
    path = save_video(FRAMES, tmp_path / "a.mp4", fps=8)
    assert torch.equal(read_video(path)[0], torch.from_numpy(FRAMES))


def test_a_program_in_place_of_ffmpeg_that_fails_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("imageio_ffmpeg._io.get_ffmpeg_exe", lambda: "/bin/false")
    path = save_video(FRAMES, tmp_path / "a.mp4", fps=8)
    assert torch.equal(read_video(path)[0], torch.from_numpy(FRAMES))


LIMITED = """
import resource, sys, tempfile
import numpy as np
from videosys import save_video
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
tempfile.tempdir = sys.argv[3]
frames = np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), np.uint8)
try:
    print(save_video(frames, sys.argv[1], fps=8, lossless=True))
except OSError as error:
    print(type(error).__name__, frames.shape)
"""


def test_a_limit_on_the_size_of_files(tmp_path, temporary):
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "out/a.mp4"), "100000", str(temporary)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.stdout.splitlines()[-1] == "UnsavedVideo (40, 64, 64, 3)"
    assert list((tmp_path / "out").iterdir()) == list(temporary.iterdir()) == []
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 100_000


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(folder)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"no small file system can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.skipif(shutil.which("mount") is None, reason="needs mount")
@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "frames"])
def test_a_disk_that_is_full(small_disk, temporary, name):
    frames = np.random.default_rng(0).integers(0, 256, (60, 64, 64, 3), np.uint8)
    path = save_video(frames, small_disk / name, fps=8, lossless=not name.endswith(".gif"))
    assert path.is_relative_to(temporary)
    assert read_video(path)[0].shape[1:] == frames.shape[1:]
    assert list(small_disk.iterdir()) == []
    with pytest.raises(ValueError, match="is full: No space left on device"):
        check_room(small_disk, frames.nbytes)
    check_room(small_disk, 1000)
    assert list(small_disk.iterdir()) == []


@pytest.mark.parametrize("fps", [1e-5, 0, -1, 1e9, float("nan"), float("inf"), "8", None, True])
def test_rates_that_no_file_holds_are_refused_first(tmp_path, fps):
    with pytest.raises(ValueError, match="fps must be a number"):
        save_video(FRAMES, tmp_path / "a.mp4", fps=fps)
    assert not (tmp_path / "a.mp4").exists()


@pytest.mark.parametrize("kind", [".mp4", ".gif"])
@pytest.mark.parametrize("fps", [module.SLOWEST, module.FASTEST])
def test_the_limits_of_the_rate_can_be_written(tmp_path, fps, kind, caplog):
    assert save_video(FRAMES, tmp_path / f"a{kind}", fps=fps) == tmp_path / f"a{kind}"
    assert caplog.text == ""


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"junk"])
def test_raw_frames_that_are_damaged(tmp_path, content):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.npy: cannot be read as raw frames"):
        read_video(tmp_path / "a.npy")
    np.save(tmp_path / "b.npy", np.zeros((2, 2)))
    with pytest.raises(ValueError, match="must contain uint8"):
        read_video(tmp_path / "b.npy")


def test_the_folder_removed_meanwhile_is_made_again(tmp_path):
    folder = tmp_path / "out"
    module.check_writable(folder / "a.mp4")
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(folder)
    assert save_video(FRAMES, folder / "a.mp4", fps=8) == folder / "a.mp4"
