"""Videos whose pixels are not square, whose size changes, and that are damaged: what is shown, and said."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.unit.test_clips import SIZE, counted, numbers, run
from videosys.utils import ffmpeg
from videosys.utils.clips import open_clip
from videosys.utils.video import read_video, save_video


@pytest.mark.parametrize(
    ("aspect", "name", "turn", "size"),
    [
        ("2/1", "a.mp4", 0, (16, 64)),
        ("1/2", "a.avi", 0, (32, 32)),
        ("16/15", "a.mkv", 0, (16, 34)),
        ("2/1", "a.mp4", 90, (64, 16)),
        ("1280/1281", "a.mp4", 0, (16, 32)),  # what is left of rounding a width
    ],
)
def test_pixels_that_are_not_square_are_stretched_to_the_shape_that_is_shown(
    tmp_path, caplog, aspect, name, turn, size
):
    plain = save_video(counted(5), tmp_path / "plain.mp4", fps=10, lossless=True)
    codec = ("-c:v", "mpeg4") if name == "a.avi" else ("-c:v", "libx264", "-pix_fmt", "yuv420p")
    run("-i", plain, "-vf", f"setsar={aspect}", *codec, tmp_path / f"wide{name}")
    run("-display_rotation", turn, "-i", tmp_path / f"wide{name}", "-c", "copy", tmp_path / name)
    clip = open_clip(tmp_path / name)
    frames = torch.from_numpy(np.stack(list(clip.frames(1, 4))))
    assert (frames.shape[1:3], numbers(frames)) == (size, [1, 2, 3])
    assert sorted(clip.size) == sorted(size)
    assert ("has non-square pixels" in caplog.text) == (aspect != "1280/1281")


def test_a_stretched_frame_has_the_same_limit(tmp_path, monkeypatch):
    plain = save_video(counted(2), tmp_path / "plain.mp4", fps=10)
    run("-i", plain, "-vf", "setsar=4/1", "-c:v", "libx264", tmp_path / "a.mp4")
    monkeypatch.setattr(ffmpeg, "MOST_PIXELS", 16 * 32 * 3)
    with pytest.raises(ValueError, match="has frames of 128 x 16 pixels"):
        read_video(tmp_path / "a.mp4")


@pytest.mark.parametrize("start", [0, 3, 7])
@pytest.mark.parametrize(("suffix", "codec"), [(".h264", "libx264"), (".hevc", "libx265")])
def test_a_size_that_changes_within_a_video_is_said_and_no_frame_is_miscounted(
    tmp_path, caplog, suffix, codec, start
):
    plain = save_video(counted(10), tmp_path / "plain.mp4", fps=10, lossless=True)
    for number, scale in enumerate(("32:16", "64:48")):
        first = 5 * number
        chosen = f"trim=start_frame={first}:end_frame={first + 5},setpts=PTS-STARTPTS,scale={scale}"
        run("-i", plain, "-vf", chosen, "-c:v", codec, "-pix_fmt", "yuv420p", tmp_path / f"{number}{suffix}")
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"".join((tmp_path / f"{number}{suffix}").read_bytes() for number in (0, 1)))
    frames = torch.from_numpy(np.stack(list(open_clip(path).frames(start, 10))))
    assert (frames.shape[1:3], numbers(frames)) == (SIZE, list(range(start, 10)))
    assert "changes its frame size" in caplog.text


@pytest.mark.parametrize("name", ["cut.mkv", "cut.mp4", "cut.webm", "hit.mp4"])
def test_a_video_that_is_read_in_spite_of_damage_says_so(tmp_path, caplog, name):
    """ffmpeg shows what it can: fewer frames, or such as it makes up."""
    noise = torch.randint(0, 255, (12, 64, 64, 3), dtype=torch.uint8, generator=torch.manual_seed(0))
    plain = save_video(noise, tmp_path / "plain.mp4", fps=10, crf=30)
    codec = ("libvpx", "-b:v", "1M") if name == "cut.webm" else ("copy", "-movflags", "faststart")
    run("-i", plain, "-c:v", *codec, tmp_path / name)
    content = bytearray((tmp_path / name).read_bytes())
    middle = len(content) * 2 // 3
    if name.startswith("cut"):
        del content[middle:]
    else:
        content[middle : middle + 4000] = b"\xff" * 4000
    read_video(tmp_path / name)
    assert caplog.text == ""
    (tmp_path / name).write_bytes(content)
    read_video(tmp_path / name)
    assert f"{name} is damaged, and some of its frames may be missing or wrong" in caplog.text
