"""Long lists of videos: made once each, also after an interruption, with the bytes of a run without one."""

from __future__ import annotations

import json

import pytest

from tests.tiny_checkpoint import places
from videosys import UnsavedVideo, VideoSysEngine
from videosys.engine.failure import RankError
from videosys.serve import render

SMALL = ["num_frames=17", "height=32", "width=48", "num_inference_steps=2", "seed=4", "device=cpu"]
PROMPTS = ["a red circle", "a cross", "a green ring"]


@pytest.fixture
def arguments(checkpoint, tmp_path):
    """A function of the folder's name that gives a command."""
    (tmp_path / "prompts.txt").write_text("\n".join(["", *PROMPTS, PROMPTS[0]]))
    (tmp_path / "config.yaml").write_text("num_frames: 17\n")

    def command(name, *more):
        parts = [f"{key}={value}" for key, value in places(checkpoint).items()]
        files = ["--config", str(tmp_path / "config.yaml"), "--prompts", str(tmp_path / "prompts.txt")]
        return [*files, "--model", "opensora", "--out", str(tmp_path / name), *parts, *SMALL, *more]

    return command


def videos(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.mp4")}


def test_every_video_is_made_and_listed(arguments, tmp_path, capsys):
    assert render.main(arguments("a", "num_videos_per_prompt=2")) == 0
    manifest = json.loads((tmp_path / "a" / "manifest.json").read_text())
    rows = [(row["prompt"], row["seed"]) for row in manifest["videos"]]
    assert rows == [(prompt, seed) for seed in (4, 5) for prompt in PROMPTS]
    assert {row["file"] for row in manifest["videos"]} == {*videos(tmp_path / "a")}
    assert manifest["missing"] == 0
    assert capsys.readouterr().out.count("computed 2 of 2 steps") == 6


class Stop(Exception):
    """Ends a run in the middle."""


def test_a_run_goes_on_where_it_was_ended(arguments, tmp_path, monkeypatch):
    keep, kept = render.Render._keep, []

    def ended(self, item, output):
        if len(kept) == 1:
            raise Stop
        kept.append(item.prompt)
        keep(self, item, output)

    with monkeypatch.context() as patch:
        patch.setattr(render.Render, "_keep", ended)
        with pytest.raises(Stop):
            render.main(arguments("b"))
    assert not (tmp_path / "b" / "manifest.json").exists()
    first = tmp_path / "b" / json.loads(json.dumps([path.name for path in (tmp_path / "b").glob("*.mp4")]))[0]
    before = first.stat().st_mtime_ns
    stray = tmp_path / "b" / "a-cross.partial"
    stray.write_bytes(b"half a video")
    assert render.main(arguments("b")) == 0
    assert first.stat().st_mtime_ns == before
    assert render.main(arguments("whole")) == 0
    assert videos(tmp_path / "b") == videos(tmp_path / "whole")
    assert len(videos(tmp_path / "whole")) == 3


def test_a_video_without_its_json_file_is_made_again(arguments, tmp_path):
    assert render.main(arguments("c")) == 0
    expected = videos(tmp_path / "c")
    victim = next((tmp_path / "c").glob("*.mp4"))
    victim.write_bytes(b"half")
    victim.with_name(f"{victim.name}.json").unlink()
    assert render.main(arguments("c")) == 0
    assert videos(tmp_path / "c") == expected


def failing(times, prompt):
    """A `stream` whose process ends at a prompt, so many times."""
    stream, left = VideoSysEngine.stream, [times]

    def outputs(self, prompts, **request):
        for output in stream(self, prompts, **request):
            if output.prompts == [prompt] and left[0]:
                left[0] -= 1
                raise RankError("rank 1 of 2: the process was ended by SIGKILL\nmore")
            yield output

    return outputs


@pytest.mark.parametrize(("times", "status", "missing"), [(2, 0, 0), (99, 1, 1)])
def test_a_process_that_ends_costs_its_video_only(arguments, tmp_path, monkeypatch, times, status, missing):
    monkeypatch.setattr(VideoSysEngine, "stream", failing(times, "a cross"))
    assert render.main(arguments("d")) == status
    manifest = json.loads((tmp_path / "d" / "manifest.json").read_text())
    assert (manifest["missing"], len(manifest["videos"])) == (missing, 3 - missing)


@pytest.mark.parametrize("place", ["elsewhere", "nowhere", "without its JSON file"])
def test_a_full_folder_ends_the_run_and_what_remains_is_said(arguments, tmp_path, monkeypatch, capsys, place):
    def save(video, path, **_):
        if place == "nowhere":
            raise UnsavedVideo("the video is only in memory")
        return path if "JSON" in place else tmp_path / "rescued.mp4"

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(render, "save_video", save)
    monkeypatch.setattr(render, "write_sidecar", full)
    assert render.main(arguments("full", "num_inference_steps=1", "--quiet")) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.endswith("; 2 prompts remain, starting with 'a cross'\n")


def test_a_folder_of_other_settings_is_refused(arguments, tmp_path, capsys):
    assert render.main(arguments("e", "num_inference_steps=1")) == 0
    assert render.main(arguments("e")) == 2
    assert "were made with another config; choose another --out" in capsys.readouterr().err
    (tmp_path / "e" / "settings.json").write_text("{")
    assert render.main(arguments("e")) == 2
    assert "settings.json: cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["batch_size=2"], "batch_size is 2; it must be 1"),
        (["num_frames=5"], "num_frames is 5"),
        (["sed=1"], "unknown key"),
    ],
)
def test_mistakes_are_one_error_before_anything_is_loaded(arguments, tmp_path, capsys, change, message):
    assert render.main(arguments("f", *change)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "f").exists()


def test_a_list_without_prompts_is_refused(arguments, tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("\n \n")
    assert render.main(arguments("g")) == 2
    assert "has no prompts" in capsys.readouterr().err


def test_two_runs_do_not_share_a_folder(arguments, tmp_path, capsys):
    with render.own(tmp_path / "h", "--out"):
        assert render.main(arguments("h")) == 2
    assert "in use by another process" in capsys.readouterr().err
