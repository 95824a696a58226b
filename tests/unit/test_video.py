"""Videos survive the file: exact size, number, rate and, where promised, every bit."""

from __future__ import annotations

import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image

from videosys.utils import video as module
from videosys.utils.video import check_writable, read_video, save_video


def smooth(num_frames: int = 5, height: int = 48, width: int = 64) -> torch.Tensor:
    """A coloured gradient that moves: compresses well, so that a lossy file is close to it."""
    t, y, x = np.ogrid[0:num_frames, 0:height, 0:width]
    red, green, blue = (x * 3 + t * 5) % 256 * 1.0, y * 4 + 0 * x + 0 * t, 255 - x * 2 - y + 0 * t
    shape = (num_frames, height, width)
    frames = np.stack([np.broadcast_to(item, shape) for item in (red, green, blue)], axis=-1)
    return torch.from_numpy(frames.clip(0, 255).astype(np.uint8))


def noise(num_frames: int = 3, height: int = 16, width: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (num_frames, height, width, 3), dtype=torch.uint8, generator=generator)


def about(path: Path) -> str:
    """What ffmpeg itself says of a file."""
    done = subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(path)], capture_output=True, text=True)
    return done.stderr


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


@pytest.mark.parametrize(("height", "width"), [(48, 64), (50, 70), (854 // 7, 34), (16, 18), (2, 2)])
def test_even_sizes_are_kept_exactly(tmp_path, height, width):
    frames = smooth(5, height, width)
    path = save_video(frames, tmp_path / "a.mp4", fps=12)
    assert path == tmp_path / "a.mp4"
    back, fps = read_video(path)
    assert back.shape == frames.shape
    assert back.dtype == torch.uint8
    assert fps == 12
    assert "yuv420p" in about(path)


@pytest.mark.parametrize(("height", "width"), [(47, 64), (48, 63), (33, 21), (1, 1)])
def test_odd_sizes_are_kept_exactly_with_a_warning(tmp_path, caplog, height, width):
    path = save_video(smooth(3, height, width), tmp_path / "a.mp4", fps=8)
    assert read_video(path)[0].shape == (3, height, width, 3)
    assert "yuv444p" in about(path)
    assert "some players do not support" in caplog.text


def test_colours_come_back(tmp_path):
    frames = smooth()
    back, _ = read_video(save_video(frames, tmp_path / "a.mp4", fps=8, crf=4))
    assert (back.float() - frames.float()).abs().mean() < 3
    assert "bt709" in about(tmp_path / "a.mp4")


def test_crf_is_the_loss(tmp_path):
    frames = smooth(8, 96, 96)
    sizes = [
        save_video(frames, tmp_path / f"{crf}.mp4", fps=8, crf=crf).stat().st_size for crf in (0, 18, 40)
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 3


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 15, 17), (1, 1, 1)])
def test_lossless_is_bit_exact(tmp_path, shape):
    frames = noise(*shape)
    back, _ = read_video(save_video(frames, tmp_path / "a.mp4", fps=8, lossless=True))
    assert torch.equal(back, frames)


@pytest.mark.parametrize(
    ("fps", "shown"), [(24, 24), (12.5, 12.5), (Fraction(24000, 1001), 23.98), (7.125, 7.12)]
)
def test_frame_rates(tmp_path, fps, shown):
    path = save_video(smooth(30), tmp_path / "a.mp4", fps=fps)
    frames, read = read_video(path)
    assert read == pytest.approx(shown, abs=0.011)
    assert len(frames) == 30
    seconds = imageio_ffmpeg.count_frames_and_secs(str(path))[1]
    assert seconds == pytest.approx(30 / fps, abs=0.02)


def test_arrays_and_views_are_taken(tmp_path):
    frames = smooth()
    save_video(frames.numpy(), tmp_path / "array.mp4", fps=8)
    save_video(frames.permute(0, 2, 1, 3).contiguous().permute(0, 2, 1, 3), tmp_path / "view.mp4", fps=8)
    assert (tmp_path / "array.mp4").read_bytes() == (tmp_path / "view.mp4").read_bytes()


def test_gif(tmp_path):
    path = save_video(smooth(7), tmp_path / "a.gif", fps=12)
    with Image.open(path) as image:
        lengths = []
        for number in range(image.n_frames):
            image.seek(number)
            lengths.append(image.info["duration"])
        assert image.size == (64, 48)
        assert image.info["loop"] == 0
    assert sum(lengths) == round(7 / 12 * 100) * 10
    frames, fps = read_video(path)
    assert frames.shape == (7, 48, 64, 3)
    assert fps == pytest.approx(12, abs=0.1)


def test_one_frame_as_png(tmp_path):
    frames = noise(1)
    back, fps = read_video(save_video(frames, tmp_path / "a.png", fps=8))
    assert torch.equal(back, frames)
    assert fps == 0


@pytest.mark.parametrize("name", ["frames", "frames/"])
def test_a_folder_of_frames(tmp_path, name):
    frames = noise(3)
    path = save_video(frames, f"{tmp_path}/{name}", fps=8)
    assert files(path) == ["frame_00000.png", "frame_00001.png", "frame_00002.png"]
    assert torch.equal(read_video(path)[0], frames)
    save_video(frames[:2], path, fps=8)  # no frame of the longer video is left
    assert torch.equal(read_video(path)[0], frames[:2])
    assert files(tmp_path) == ["frame_00000.png", "frame_00001.png", "frames"]


def test_a_folder_with_dots_in_its_name(tmp_path):
    assert save_video(noise(1), f"{tmp_path}/v1.2/", fps=8).is_dir()


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("long")
    with pytest.raises(ValueError, match="contain only frames"):
        save_video(noise(1), f"{tmp_path}/", fps=8)
    assert files(tmp_path) == ["thesis.txt"]


def test_parents_are_made(tmp_path):
    assert save_video(noise(1), tmp_path / "a" / "b" / "c.png", fps=8).exists()


def test_overwrite_is_a_choice(tmp_path):
    path = save_video(noise(1), tmp_path / "a.png", fps=8)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="already exists"):
        save_video(noise(1) // 2, path, fps=8, overwrite=False)
    assert path.read_bytes() == before
    save_video(noise(1) // 2, path, fps=8)
    assert path.read_bytes() != before


@pytest.mark.parametrize(
    ("video", "message"),
    [
        (noise().float(), r"must be uint8 \[T, H, W, 3\], got torch.float32"),
        (noise().numpy() / 255, "got float64"),
        (noise()[0], r"\[16, 16, 3\]"),
        (noise()[..., :2], r"\[3, 16, 16, 2\]"),
        (noise()[:0], "must have frames and pixels"),
        (noise()[:, :0], "must have frames and pixels"),
        ([1, 2], "must be a tensor or an array, got list"),
    ],
)
def test_wrong_videos_are_refused_before_anything_is_written(tmp_path, video, message):
    with pytest.raises(ValueError, match=message):
        save_video(video, tmp_path / "deep" / "a.mp4", fps=8)
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("a.avi", {}, "must end in .mp4, .gif or .png"),
        ("a.mp4.txt", {}, "must end in"),
        (".mp4", {}, "has no file name"),
        ("a.png", {}, "can have one frame, not 3"),
        ("a.gif", {"lossless": True}, "cannot be lossless"),
        ("a.mp4", {"fps": 0}, "fps must be a number above 0, got 0"),
        ("a.mp4", {"fps": -1}, "fps must be"),
        ("a.mp4", {"fps": float("nan")}, "fps must be"),
        ("a.mp4", {"fps": "8"}, "fps must be"),
        ("a.mp4", {"crf": 52}, "crf must be a whole number from 0 to 51, got 52"),
        ("a.mp4", {"crf": 1.5}, "crf must be"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(tmp_path, name, options, message):
    with pytest.raises(ValueError, match=message):
        save_video(noise(), tmp_path / name, **{"fps": 8, **options})
    assert files(tmp_path) == []


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a.png", "a"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupt_leaves_no_half_file(tmp_path, monkeypatch, name, error):
    def interrupt(*arguments):
        raise error

    monkeypatch.setattr("os.replace", interrupt)
    with pytest.raises(error):
        save_video(noise(1), tmp_path / name, fps=8)
    assert files(tmp_path) == []


def test_an_interrupt_between_frames_leaves_the_old_file(tmp_path, monkeypatch):
    path = save_video(noise(), tmp_path / "a.mp4", fps=8)
    before = path.read_bytes()
    real = imageio_ffmpeg.write_frames

    def interrupted(*arguments, **options):
        writer = real(*arguments, **options)
        yield writer.send(None)
        try:
            writer.send((yield))
            raise KeyboardInterrupt
        finally:
            writer.close()

    monkeypatch.setattr("imageio_ffmpeg.write_frames", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_video(noise(), path, fps=8)
    assert path.read_bytes() == before
    assert files(tmp_path) == ["a.mp4"]


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a.png", "frames"])
def test_a_finished_video_is_never_lost(tmp_path, monkeypatch, caplog, name):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where the folder should be")
    frames = noise(1)
    path = save_video(frames, blocked / name, fps=8, lossless=not name.endswith("gif"))
    assert path.parent.parent == tmp_path
    assert str(path) in caplog.text
    assert "cannot be written" in caplog.text
    back = read_video(path)[0]
    assert back.shape == frames.shape
    assert name == "a.gif" or torch.equal(back, frames)


def test_a_file_that_came_out_short_is_noticed(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    counts = iter([2, 3])
    monkeypatch.setattr("videosys.utils.video.count_frames", lambda path: next(counts))
    path = save_video(noise(3), tmp_path / "a.mp4", fps=8)
    assert "2 of 3 frames were written" in caplog.text
    assert path.parent.parent == tmp_path
    assert not (tmp_path / "a.mp4").exists()


def test_where_nothing_can_be_written_the_first_error_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save_video(noise(), tmp_path / "a.mp4", fps=8)
    assert files(tmp_path) == []


def test_check_writable_passes_and_leaves_nothing_but_the_folder(tmp_path):
    check_writable(tmp_path / "new" / "a.mp4", (51, 480, 848))
    check_writable(f"{tmp_path}/frames/", (51, 480, 848))
    assert files(tmp_path) == ["new"]


def test_check_writable_refuses_what_cannot_work(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    (tmp_path / "a.mp4").touch()
    (tmp_path / "b.mp4").mkdir()
    for name, options, message in [
        ("file/a.mp4", {}, "cannot be written"),
        ("a.avi", {}, "must end in"),
        ("a.png", {}, "can have one frame, not 9"),
        ("a.mp4", {"overwrite": False}, "already exists"),
        ("b.mp4", {}, "is a folder"),
        ("x" * 300 + ".mp4", {}, "longer than 255 bytes"),
    ]:
        with pytest.raises(ValueError, match=message):
            check_writable(tmp_path / name, (9, 16, 16), **options)
    usage = module.shutil.disk_usage(tmp_path)._replace(free=1 << 20)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    check_writable(tmp_path / "small.mp4", (4, 16, 16))
    with pytest.raises(ValueError, match="has 1 MiB free; 98 MiB may be needed"):
        check_writable(tmp_path / "large.mp4", (150, 480, 480), lossless=True)


@pytest.mark.parametrize("name", ["absent.mp4", "empty.mp4", "text.mp4", "text.png", "text.gif", "hollow"])
def test_what_is_no_video_is_one_error(tmp_path, name):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "text.gif").write_text("no image")
    (tmp_path / "hollow").mkdir()
    with pytest.raises(ValueError, match=name):
        read_video(tmp_path / name)


def test_check_writable_counts_all_videos(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=5 << 20)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: usage)
    shape = (8, 512, 512)  # 1.5 MiB as estimated
    check_writable(tmp_path / "a.mp4", shape, count=3)
    with pytest.raises(ValueError, match="has 5 MiB free; 6 MiB may be needed"):
        check_writable(tmp_path / "a.mp4", shape, count=4)


@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile inner.mp4\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\ninner.mp4\n#EXT-X-ENDLIST\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n",
    ],
)
@pytest.mark.parametrize("name", ["list.mp4", "list.m3u8"])
def test_a_playlist_leads_to_no_other_file(tmp_path, text, name):
    save_video(np.zeros((3, 16, 16, 3), np.uint8), tmp_path / "inner.mp4", fps=8)
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=f"{name}: cannot be read as a video"):
        read_video(tmp_path / name)
