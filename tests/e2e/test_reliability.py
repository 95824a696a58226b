"""The sample script on full disks, in folders of any name, and with arguments of any bytes."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from videosys import UnsavedVideo, VideoOutput, read_video

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "opensora" / "sample.py"
TINY = SCRIPT.with_name("tiny.yaml")
SMALL = ["--config", str(TINY), "num_frames=17", "height=32", "width=32", "num_inference_steps=2", "seed=1"]
sample = runpy.run_path(str(SCRIPT), run_name="sample")
main, common = sample["main"], sample["common"]


class Engine:
    """Saves as it is told to, and has made its videos already."""

    config = common.Options()

    def __init__(self, save):
        self.save_video = save


def outputs(*prompts: str):
    video = torch.zeros(2, 8, 8, 3, dtype=torch.uint8)
    return iter([VideoOutput([video], [prompt], [1], [[]]) for prompt in prompts])


def run(tmp_path, save, prompts=("a", "b", "c")):
    options = common.Options(output=str(tmp_path / "out"))
    common.generate(Engine(save), outputs(*prompts), options, list(prompts))


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    monkeypatch.setattr(common, "report", lambda *_: None)
    monkeypatch.setattr(common, "describe", lambda *_: None)


def test_a_list_stops_where_the_disk_is_full_and_says_what_remains(tmp_path, monkeypatch):
    def full(folder, size):
        raise ValueError(f"output folder {folder!r} is full: No space left on device")

    monkeypatch.setattr(common, "check_room", full)
    rescued = tmp_path / "elsewhere" / "video.mp4"
    with pytest.raises(ValueError, match=r"is full: .*; 2 prompts remain, starting with 'b'$"):
        run(tmp_path, lambda video, path, **_: rescued)
    run(tmp_path, lambda video, path, **_: rescued, prompts=("a",))  # nothing is left to make


def test_a_list_goes_on_where_there_is_room_again(tmp_path):
    saved = []
    rescued = tmp_path / "elsewhere" / "video.mp4"
    run(tmp_path, lambda video, path, **_: saved.append(path) or rescued)
    assert len(saved) == 3


def test_a_video_that_can_be_saved_nowhere_is_one_error(tmp_path):
    def fail(video, path, **_):
        raise UnsavedVideo("x cannot be written (full); the video is only in memory")

    with pytest.raises(ValueError, match="only in memory; 2 prompts remain, starting with 'b'"):
        run(tmp_path, fail)


@pytest.mark.slow
def test_names_outside_the_encoding_of_the_output(tmp_path):
    folder = tmp_path / "Vidéos"
    prompts = ["prompt=a large red circle spins", "prompt=a small blue square spins"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *SMALL, *prompts, f"output={folder}"],
        env={**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C.UTF-8"},
        capture_output=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert len(list(folder.glob("*.mp4"))) == len(list(folder.glob("*.json"))) == 2
    assert done.stdout.count(rb"Vid\xe9os") == 2
    assert all(path.name[0] != "." for path in folder.iterdir())


@pytest.mark.parametrize(
    ("setting", "name"),
    [
     ("prompt=\udce9", "prompt"), ("negative_prompt=\udce9", "negative_prompt"), ("seed=\udce9", "seed"),
     ("s\udce9ed=1", "must be key=value"), ("prompts=\udce9", "prompts="),
     ("transformer=\udce9", "checkpoint"),
     ("format=\udce9", "format")],
)  # fmt: skip
def test_bytes_that_are_no_text_are_named(tmp_path, capsys, setting, name):
    # Latte's script: Open-Sora has no negative prompt.
    latte = runpy.run_path(str(SCRIPT.parents[1] / "latte" / "sample.py"), run_name="sample")["main"]
    assert latte([setting, f"output={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert name in error
    assert len(error.splitlines()) == 1


def test_an_error_with_the_last_video_is_told(tmp_path):
    def fail(video, path, **_):
        raise ValueError("fps must be a number above 0")

    with pytest.raises(ValueError, match=r"^fps must be a number above 0$"):
        run(tmp_path, fail, prompts=("a",))


@pytest.mark.slow
def test_a_folder_of_any_bytes_takes_videos(tmp_path):
    folder = os.fsencode(tmp_path) + b"/Vid\xe9os"
    command = [sys.executable, str(SCRIPT), *SMALL, b"output=" + folder]
    done = subprocess.run(command, capture_output=True, timeout=110)
    assert done.returncode == 0, done.stderr.decode()
    (video,) = [name for name in os.listdir(folder) if name.endswith(b".mp4")]
    side = json.loads(Path(os.fsdecode(folder + b"/" + video + b".json")).read_text())
    assert side["seed"] == 1
    assert read_video(os.fsdecode(folder + b"/" + video))[0].shape == (17, 32, 32, 3)
