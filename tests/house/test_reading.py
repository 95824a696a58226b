"""Files of users are opened with lists of what may be in them: no program and no other file is reached."""

from __future__ import annotations

import ast

import imageio_ffmpeg
import pytest

from tests.house.source import dotted, named, parsed, python_files
from videosys.utils import ffmpeg, images

IMAGES, VIDEOS, WRITER = "videosys/utils/images.py", "videosys/utils/ffmpeg.py", "videosys/utils/video.py"
# What imageio offers to read takes no such lists, or detects the format by itself.
READERS = (
    "read_frames",
    "count_frames_and_secs",
    "get_ffmpeg_exe",
    "imread",
    "imiter",
    "mimread",
    "get_reader",
)
FOLDERS = ("videosys", "eval", "examples")


def openings(tree: ast.Module, path: str) -> list[str]:
    """Return the calls that open images or videos elsewhere than in the two files that guard them."""
    wrong = []
    for node in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = dotted(node.func)
        if name in ("Image.open", "PIL.Image.open") and "formats" not in [item.arg for item in node.keywords]:
            wrong.append(f"{path}:{node.lineno}: {name} without formats")
        if name in ("Image.open", "PIL.Image.open") and path != IMAGES:
            wrong.append(f"{path}:{node.lineno}: {name} outside {IMAGES}")
        if name.split(".")[0].startswith("imageio") and name.split(".")[-1] in READERS and path != VIDEOS:
            wrong.append(f"{path}:{node.lineno}: {name} outside {VIDEOS}")
        if name in (
            "ImageFile.Parser",
            "torchvision.io.read_video",
            "cv2.VideoCapture",
            "av.open",
            "cv2.imread",
        ):
            wrong.append(f"{path}:{node.lineno}: {name}")
    return wrong


@pytest.mark.parametrize("path", python_files(*FOLDERS), ids=named)
def test_images_and_videos_are_opened_in_one_place(path):
    assert openings(parsed(path), named(path)) == []


def test_every_start_of_ffmpeg_that_reads_is_guarded(monkeypatch, tmp_path):
    imageio_ffmpeg.get_ffmpeg_exe()  # starts the program once, to see that it is there
    commands = []

    def start(command, **options):
        commands.append(command)
        raise OSError("not started")

    monkeypatch.setattr("subprocess.Popen", start)
    for call in (ffmpeg.read_stamps, lambda path: next(ffmpeg.read_frames(path))):
        with pytest.raises(OSError, match="not started"):
            call(tmp_path / "-i http:")
    for command in commands:
        before = command[: command.index("-i")]
        assert [*ffmpeg.ALLOWED] == before[-len(ffmpeg.ALLOWED) :]
        assert command[command.index("-i") + 1] == f"file:{tmp_path / '-i http:'}"
        assert command.count("-i") == 1
    assert len(commands) == 2
    assert parsed_starts() == 1


def parsed_starts() -> int:
    """How many places of the reading file start a program."""
    (path,) = [path for path in python_files("videosys") if named(path) == VIDEOS]
    calls = [dotted(node.func) for node in ast.walk(parsed(path)) if isinstance(node, ast.Call)]
    return sum(name.startswith("subprocess.") for name in calls)


def test_the_lists_name_nothing_that_reaches_further():
    assert not {"EPS", "PDF", "WMF", "FPX", "MIC", "BUFR", "GRIB", "HDF5"} & {*images.FORMATS}
    assert not {"hls", "concat", "dash", "lavfi", "image2", "sdp", "rtsp", "tty", "webm_dash_manifest"} & {
        *ffmpeg.CONTAINERS.split(",")
    }
    assert not {"ansi", "librsvg", "subrip", "ass", "webvtt", "vnull"} & {*ffmpeg.DECODERS.split(",")}
    options = dict(zip(ffmpeg.ALLOWED[::2], ffmpeg.ALLOWED[1::2]))
    assert options["-protocol_whitelist"] == "file,pipe"
    assert {"-format_whitelist", "-codec_whitelist", "-max_pixels"} <= options.keys()


@pytest.mark.parametrize(
    ("path", "source"),
    [
        (IMAGES, "Image.open(path)"),
        ("videosys/utils/video.py", "Image.open(path, formats=FORMATS)"),
        ("eval/x.py", "PIL.Image.open(path, formats=FORMATS)"),
        (WRITER, "imageio_ffmpeg.count_frames_and_secs(path)"),
        ("examples/x.py", "imageio.v3.imread(path)"),
        (VIDEOS, "cv2.VideoCapture(path)"),
    ],
)
def test_other_ways_are_caught(path, source):
    assert len(openings(ast.parse(source), path)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        (IMAGES, "Image.open(path, formats=known)"),
        (VIDEOS, "imageio_ffmpeg.get_ffmpeg_exe()"),
        (WRITER, "imageio_ffmpeg.write_frames(path, size)"),
    ],
)
def test_the_guarded_ways_pass(path, source):
    assert openings(ast.parse(source), path) == []
