"""Frames and rates of videos, animations and folders, and how much of them is read."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image

from videosys.models.opensora.references import load_reference, open_reference
from videosys.utils import animation, clips, ffmpeg
from videosys.utils.animation import comment, gif_durations, timeline
from videosys.utils.clips import is_frame_folder, open_clip
from videosys.utils.video import read_video, save_video

SIZE = (16, 32)


def counted(count: int) -> torch.Tensor:
    """Frames of one grey each, which tells their number."""
    return (
        (torch.arange(count, dtype=torch.uint8) * 8)[:, None, None, None].expand(count, *SIZE, 3).contiguous()
    )


def numbers(frames: torch.Tensor) -> list[int]:
    return (frames.float().mean(dim=(1, 2, 3)) / 8).round().int().tolist()


def run(*options: object) -> None:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *map(str, options)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def video(
    path: Path, stamps: list[int], *, per_second: int = 1000, before: tuple = (), after: tuple = ()
) -> Path:
    """A video whose frame number k is shown at stamps[k] / per_second."""
    plain = save_video(counted(len(stamps)), path.with_name("plain.mp4"), fps=10, lossless=True)
    times = "+".join(f"eq(N,{number})*{stamp}" for number, stamp in enumerate(stamps))
    codec = () if "-c:v" in after else ("-c:v", "libx264rgb", "-crf", 0)
    filters = f"settb=1/{per_second},setpts='{times}'"
    options = (*codec, "-enc_time_base", "demux", "-fps_mode", "passthrough", *after)
    run(*before, "-i", plain, "-vf", filters, *options, path)
    return path


DROPPED = [number * 100 for number in range(20) if number % 4 != 3]
JITTERED = [number * 133 + (number * 37 % 41) - 20 * (number > 0) for number in range(15)]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
@pytest.mark.parametrize("stamps", [DROPPED, JITTERED], ids=["dropped", "jittered"])
@pytest.mark.parametrize("start", [0, 700])
def test_a_variable_rate_keeps_its_frames_and_seconds(tmp_path, suffix, stamps, start):
    path = video(tmp_path / f"a{suffix}", [start + stamp for stamp in stamps])
    frames, fps = read_video(path)
    assert numbers(frames) == list(range(15))
    assert len(frames) / fps == pytest.approx(2.0, abs=0.11)


@pytest.mark.parametrize(
    "codec", [("-c:v", "libx264", "-bf", 3), ("-c:v", "libvpx", "-b:v", "1M"), ("-c:v", "mpeg4", "-bf", 2)]
)
@pytest.mark.parametrize("stamps", [DROPPED, [number * 125 for number in range(12)]], ids=["dropped", "even"])
def test_frames_that_are_stored_in_another_order(tmp_path, codec, stamps):
    path = video(tmp_path / "a.mkv", stamps, after=(*codec, "-g", 99, "-pix_fmt", "yuv420p"))
    frames, fps = read_video(path)
    assert numbers(frames) == list(range(len(stamps)))
    assert fps == pytest.approx(8.0 if len(stamps) == 12 else 7.5, abs=0.5)


def test_a_long_pause_is_kept_in_time(tmp_path, caplog):
    path = video(tmp_path / "a.mkv", [0, 2000, 2100, 2200, 2300, 2400, 2500, 2600, 2700, 2800])
    frames, fps = read_video(path)
    assert fps == pytest.approx(10 / 2.9, abs=0.05)
    assert numbers(frames)[:4] == [0, 0, 0, 0]
    assert numbers(frames)[-1] == 7  # at 2.6 s
    assert "has a variable frame rate" in caplog.text
    clip = open_clip(path)
    for start, stop in ((0, 3), (2, 7), (6, 10)):
        part = torch.from_numpy(np.stack(list(clip.frames(start, stop))))
        assert torch.equal(part, frames[start:stop])


@pytest.mark.parametrize(
    ("fps", "read"), [(24000 / 1001, 23.98), (7, 7.0), (29.97, 29.97), (1, 1.0), (60, 60.0)]
)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_an_even_rate_is_the_files(tmp_path, suffix, fps, read):
    save_video(counted(9), tmp_path / "plain.mp4", fps=fps, lossless=True)
    run("-i", tmp_path / "plain.mp4", "-c", "copy", tmp_path / f"a{suffix}")
    frames, found = read_video(tmp_path / f"a{suffix}")
    assert (numbers(frames), found) == (list(range(9)), read)


def test_an_edit_list_leaves_frames_out(tmp_path, caplog):
    plain = save_video(counted(20), tmp_path / "plain.mp4", fps=10, lossless=True)
    run("-ss", 0.5, "-i", plain, "-c", "copy", tmp_path / "a.mp4")
    frames, fps = read_video(tmp_path / "a.mp4")
    assert numbers(frames) == list(range(5, 20))
    assert fps == pytest.approx(10, abs=0.1)
    reference = open_reference(tmp_path / "a.mp4")
    assert reference.num_frames == 15
    assert torch.equal(reference.load(*SIZE, 13, 15), load_reference(frames[13:], *SIZE))
    assert "damaged" not in caplog.text


def test_a_rotated_video_stands_upright_and_sound_is_no_frame(tmp_path):
    plain = save_video(counted(5), tmp_path / "plain.mp4", fps=10)
    run(
        "-i",
        plain,
        "-f",
        "lavfi",
        "-i",
        "sine=duration=1",
        "-c:v",
        "copy",
        "-c:a",
        "aac",
        tmp_path / "sound.mp4",
    )
    run("-display_rotation", 90, "-i", tmp_path / "sound.mp4", "-c", "copy", tmp_path / "a.mp4")
    assert read_video(tmp_path / "sound.mp4")[0].shape == (5, *SIZE, 3)
    assert read_video(tmp_path / "a.mp4")[0].shape == (5, *SIZE[::-1], 3)


@pytest.mark.parametrize("fps", [12, 8, 24, 7.5, 30])
@pytest.mark.parametrize(
    "still", [range(17), range(3, 9), (), (16,), range(0, 17, 2)], ids=["all", "some", "none", "last", "odd"]
)
def test_equal_frames_of_a_gif_are_kept(tmp_path, fps, still):
    video = counted(17)
    for number in still:
        video[number] = video[max(number - 1, 0)]
    frames, found = read_video(save_video(video, tmp_path / "a.gif", fps=fps))
    assert (numbers(frames), found) == (numbers(video), fps)


def gif(path: Path, durations: list[int], **options: object) -> Path:
    first, *others = [Image.fromarray(frame.numpy()) for frame in counted(len(durations))]
    first.save(path, save_all=True, append_images=others, duration=durations, **options)
    return path


@pytest.mark.parametrize(
    ("durations", "expected", "fps"),
    [
        ([80, 90, 80, 170, 80], [0, 1, 2, 3, 3, 4], 12.0),
        ([100, 300, 100], [0, 1, 1, 1, 2], 10.0),
        ([40, 40, 40], [0, 1, 2], 25.0),
        ([30, 40, 30, 70], [0, 1, 2, 3, 3], 29.41),
        ([1000], [0], 1.0),
        ([100, 250], [0, 0, 1, 1, 1, 1, 1], 20.0),
    ],
)
def test_gifs_of_others_repeat_frames_by_their_durations(tmp_path, durations, expected, fps):
    frames, found = read_video(gif(tmp_path / "a.gif", durations))
    assert (numbers(frames), found) == (expected, fps)


@pytest.mark.parametrize(
    "note", ["videosys: 999999999 frames at 12 per second", "videosys: 3 frames at 1/0 per second", "x"]
)
def test_a_comment_that_durations_deny_changes_nothing(tmp_path, note):
    frames, fps = read_video(gif(tmp_path / "a.gif", [100, 300, 100], comment=note))
    assert (len(frames), fps) == (5, 10.0)


def test_the_comment_of_a_gif_is_read_back():
    assert timeline([1420], comment(17, 12))[1] == 12.0
    assert timeline([1420], comment(17, 12))[0] == [0] * 17
    assert timeline([], "")[0] == []
    assert timeline([0, 0, 0]) == ([0, 1, 2], 0.0)
    assert timeline([100, 0, 100]) == ([0, 1, 2], 10.0)


def test_durations_of_a_gif_are_those_that_pillow_reads(tmp_path):
    path = gif(tmp_path / "a.gif", [10, 250, 80, 1000, 330])
    assert gif_durations(path.read_bytes()) == [10, 250, 80, 1000, 330]
    content = path.read_bytes()
    for end in range(0, len(content), 7):
        assert gif_durations(content[:end]) == [10, 250, 80, 1000, 330][: len(gif_durations(content[:end]))]


@pytest.mark.parametrize("name", ["a.png", "a.webp"])
def test_other_animations_are_videos_too(tmp_path, name):
    path = gif(tmp_path / name, [100, 300, 100], **({"lossless": True} if name == "a.webp" else {}))
    frames, fps = read_video(path)
    assert (numbers(frames), fps) == ([0, 1, 1, 1, 2], 10.0)
    assert load_reference(path, *SIZE).shape == (3, 5, *SIZE)


def test_the_pages_of_a_tiff_are_no_video(tmp_path, caplog):
    first, *others = [Image.fromarray(frame.numpy()) for frame in counted(3)]
    first.save(tmp_path / "a.tiff", save_all=True, append_images=others)
    assert load_reference(tmp_path / "a.tiff", *SIZE).shape == (3, 1, *SIZE)
    assert "has 3 images; the first is used" in caplog.text


def test_a_folder_of_frames_in_the_order_of_their_numbers(tmp_path):
    save_video(counted(12), tmp_path / "a", fps=8)
    for number in range(12):  # names without zeros, as other programs write
        (tmp_path / "a" / f"frame_{number:05}.png").rename(tmp_path / "a" / f"frame_{number}.png")
    assert read_video(tmp_path / "a")[1] == 0.0
    (tmp_path / "a.json").write_text(json.dumps({"config": {"fps": 8.5}}))
    frames, fps = read_video(tmp_path / "a")
    assert (numbers(frames), fps) == (list(range(12)), 8.5)
    assert open_reference(tmp_path / "a").load(*SIZE, 0, 3).shape[1] == 3
    assert is_frame_folder(tmp_path / "a")
    assert not is_frame_folder(tmp_path)


@pytest.mark.parametrize(
    "content", ["", "[]", '{"config": 3}', '{"config": {"fps": "x"}}', '{"config": {"fps": -1}}', "[" * 9999]
)
def test_a_folder_beside_another_json_file_has_no_rate(tmp_path, content):
    save_video(counted(2), tmp_path / "a", fps=8)
    (tmp_path / "a.json").write_text(content)
    assert read_video(tmp_path / "a")[1] == 0.0


def test_folders_that_are_no_video(tmp_path):
    folder = tmp_path / "a"
    save_video(counted(5), folder, fps=8)
    (folder / "frame_00002.png").unlink()
    with pytest.raises(ValueError, match="a: has frame 1 and frame 3, but none in between"):
        read_video(folder)
    Image.new("RGB", (8, 8)).save(folder / "frame_00002.png")
    with pytest.raises(ValueError, match="a: has frames of several sizes"):
        read_video(folder)
    Image.new("RGB", SIZE[::-1]).save(folder / "frame_00002.png")
    Image.new("RGB", SIZE[::-1]).save(folder / "frame_3.png")
    with pytest.raises(ValueError, match="a: has frame 3 twice"):
        read_video(folder)


def watched(monkeypatch) -> list[int]:
    """The bytes of each frame that ffmpeg sends."""
    sent: list[int] = []
    original = ffmpeg._next_picture

    def watch(file):
        frame = original(file)
        sent.extend([] if frame is None else [frame.nbytes])
        return frame

    monkeypatch.setattr(ffmpeg, "_next_picture", watch)
    return sent


@pytest.mark.parametrize(("start", "stop", "count"), [(0, 1, 1), (0, 3, 3), (20, 24, 4), (23, None, 1)])
def test_only_the_frames_that_are_needed_are_read(tmp_path, monkeypatch, start, stop, count):
    path = save_video(counted(24), tmp_path / "a.mp4", fps=8, lossless=True)
    sent = watched(monkeypatch)
    loaded = open_reference(path).load(8, 8, start, stop)
    assert len(sent) == count
    expected = list(range(24))[start:stop]
    assert ((loaded.mean(dim=(0, 2, 3)) + 1) * 127.5 / 8).round().int().tolist() == expected


def test_a_file_without_a_frame_that_can_be_read_in_time_is_named(tmp_path):
    path = save_video(counted(9), tmp_path / "a.mkv.mp4", fps=8, lossless=True)
    clip = open_clip(path)
    (tmp_path / "a.mkv.mp4").write_bytes(
        save_video(counted(4), tmp_path / "b.mp4", fps=8, lossless=True).read_bytes()
    )
    with pytest.raises(ValueError, match=r"a\.mkv\.mp4: is damaged: frame 4 of 9"):
        list(clip.frames(0, 9))
    assert len(list(clip.frames())) == 4  # with a warning


@pytest.mark.parametrize(
    ("name", "limit", "value", "message"),
    [
        ("a.mp4", (ffmpeg, "MOST_PIXELS"), 99, "has frames of 32 x 16 pixels; the limit is 99 pixels"),
        ("a.mp4", (ffmpeg, "MOST_FRAMES"), 5, "has more than 5 frames"),
        ("a.gif", (animation, "MOST_DECODED"), 999, "needs 9 frames of 32 x 16 pixels"),
        ("a.gif", (animation, "MOST_BYTES"), 1 << 7, "is larger than"),
    ],
)
def test_limits(tmp_path, monkeypatch, name, limit, value, message):
    path = save_video(counted(9), tmp_path / name, fps=8)
    monkeypatch.setattr(*limit, value)
    with pytest.raises(ValueError, match=rf"{name}: .*{message}") as caught:
        read_video(path)
    assert str(caught.value).count(name) == 1


def test_a_whole_video_has_a_limit_in_bytes(tmp_path, monkeypatch):
    path = save_video(counted(9), tmp_path / "a.mp4", fps=8)
    monkeypatch.setattr("videosys.utils.video.MOST_BYTES", 1000)
    with pytest.raises(ValueError, match=r"a\.mp4: has 0 MiB of frames"):
        read_video(path)
    assert open_reference(path).load(8, 8, 0, 1).shape == (3, 1, 8, 8)
    assert clips.MOST_BYTES == 4 << 30


@pytest.mark.filterwarnings("ignore:Invalid APNG")
@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp"])
def test_a_damaged_animation_is_one_error_or_some_frames(tmp_path, name):
    path = gif(tmp_path / name, [100, 300, 100])
    content = path.read_bytes()
    random = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(content)
        for place in random.integers(10, len(content), 3):
            damaged[place] = random.integers(256)
        path.write_bytes(damaged)
        try:
            assert read_video(path)[0].shape[-1] == 3
        except ValueError as error:
            assert str(error).startswith(f"{path}: ")  # noqa: PT017
            assert "\n" not in str(error)  # noqa: PT017


@pytest.mark.parametrize(("height", "width"), [(1, 100_000), (100_000, 1), (3, 60_000)])
def test_shapes_that_would_grow_huge_are_refused_before_they_are_decoded(
    tmp_path, monkeypatch, height, width
):
    Image.new("L", (width, height)).save(tmp_path / "a.png")
    monkeypatch.setattr("videosys.utils.clips.pixels", None)
    with pytest.raises(
        ValueError, match=r"reference .*a\.png.* must be enlarged to \d+ x \d+ to cover 480 x 854"
    ):
        load_reference(tmp_path / "a.png", 480, 854)


def test_a_panorama_is_no_extreme_shape(tmp_path):
    Image.new("L", (800, 100)).save(tmp_path / "a.png")
    assert load_reference(tmp_path / "a.png", 240, 135).shape == (3, 1, 240, 135)


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n",
        "ffconcat version 1.0\nfile plain.mp4\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\n",
        "<?xml version='1.0'?><MPD><Period/></MPD>",
        "1\n00:00:00,000 --> 00:00:01,000\nhello\n",
        "WEBVTT\n\n00:00.000 --> 00:01.000\nhello\n",
        "testsrc=duration=1",
    ],
    ids=["hls", "concat", "sdp", "dash", "srt", "vtt", "lavfi"],
)
@pytest.mark.parametrize("name", ["a.mp4", "a.m3u8", "a.gif"])
def test_a_file_leads_to_no_other(tmp_path, text, name):
    save_video(counted(2), tmp_path / "plain.mp4", fps=8)
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=f"{name}: cannot be read as a video"):
        read_video(tmp_path / name)
