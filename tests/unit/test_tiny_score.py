"""The score: 1.0 on drawn clips, groups apart, a table and a JSON file."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import pytest
from PIL import Image

from eval.training import score
from eval.training.clips import ClipSpec, render, to_uint8
from eval.training.score import COLUMNS, NEEDED, main, score_videos, table
from eval.training.scored import scored


def drawn(specs, num_frames: int = 34):
    return [to_uint8(render(spec, num_frames)) for spec in specs]


def test_ground_truth_scores_one_in_everything():
    specs = [spec for _, spec in scored()]
    report = score_videos(drawn(specs), specs)
    assert report["seen"] == {"count": 48, **dict.fromkeys(COLUMNS, 1.0)}
    assert report["held_out"] == {"count": 12, **dict.fromkeys(COLUMNS, 1.0)}
    assert len(report["clips"]) == 60


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("background", "black"),
        ("colour", "cyan"),
        ("shape", "cross"),
        ("motion", "upward"),
        ("size", "large"),
    ],
)
def test_one_wrong_attribute_costs_that_column(name, value):
    shown = ClipSpec("square", "red", "white", "small", "still")
    report = score_videos(drawn([shown]), [dataclasses.replace(shown, **{name: value})])
    wrong = {name, "all"} if name in NEEDED else {name}
    assert {column for column in COLUMNS if report["seen"][column] == 0.0} == wrong
    assert report["clips"][0]["detected"] != report["clips"][0]["expected"]


def test_groups_without_clips_have_no_shares():
    spec = ClipSpec("triangle", "red", "white", "small", "still")
    report = score_videos(drawn([spec], 17), [spec])
    assert report["seen"] == {"count": 0}
    assert report["held_out"]["all"] == 1.0
    assert table(report).splitlines()[1].split() == ["seen", "0", *["-"] * len(COLUMNS)]


def test_the_command_scores_latte_at_its_frame_rate(monkeypatch, capsys):
    specs = dict(scored())
    monkeypatch.setattr(score, "tiny_config", lambda model, overrides: SimpleNamespace(fps=8))
    monkeypatch.setattr(
        score,
        "generate",
        lambda config, captions: (to_uint8(render(specs[c], 32)[:, ::2]) for c in captions),
    )
    assert main(["--model", "latte"]) == 0
    shares = [line.split()[2:8] for line in capsys.readouterr().out.splitlines()[1:3]]
    assert shares == [["1.00"] * 6] * 2


def test_a_video_too_few_is_an_error():
    spec = ClipSpec("triangle", "red", "white", "small", "still")
    with pytest.raises(ValueError):
        score_videos([], [spec])


@pytest.fixture
def perfect_model(monkeypatch):
    """Stands in for a checkpoint: draws what the captions say; returns the overrides it was given."""
    specs = dict(scored())
    asked: list[str] = []

    def tiny_config(model, overrides):
        asked.extend(overrides)
        return SimpleNamespace(fps=10)

    monkeypatch.setattr(score, "tiny_config", tiny_config)
    monkeypatch.setattr(score, "generate", lambda config, captions: drawn(specs[c] for c in captions))
    return asked


def test_the_command_prints_a_table_and_writes_json(perfect_model, tmp_path, capsys):
    out, sheet, gif = (tmp_path / name for name in ("score.json", "sheet.png", "clips.gif"))
    options = ["--set", "num_frames=34", "--out", str(out), "--sheet", str(sheet), "--gif", str(gif)]
    assert main(["--limit", "10", *options]) == 0
    assert perfect_model == ["num_frames=34"]
    report = json.loads(out.read_text())
    assert (report["seen"]["count"], report["held_out"]["count"]) == (8, 2)
    assert report["clips"][0]["caption"] == scored()[0][0]
    assert report["clips"][0]["right"]["all"]
    assert capsys.readouterr().out.splitlines()[1].split() == ["seen", "8", *["1.00"] * len(COLUMNS)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clips.gif", "score.json", "sheet.png"]
    with Image.open(gif) as image:
        assert (image.n_frames, image.info["duration"]) == (34, 100)


@pytest.mark.parametrize("argv", [["--limit", "0"], ["--limit", "x"], ["--unknown"]])
def test_wrong_arguments_exit_with_two(argv):
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2


def test_a_wrong_setting_is_one_line_and_exit_code_two(monkeypatch, capsys):
    def refuse(model, overrides):
        raise ValueError("no such model")

    monkeypatch.setattr(score, "tiny_config", refuse)
    assert main(["--model", "none"]) == 2
    assert capsys.readouterr().err == "error: no such model\n"


def test_every_caption_has_a_seed_of_its_own(monkeypatch):
    asked = []

    class Engine:
        def __init__(self, config, quiet):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def generate(self, prompt, seed):
            asked.append((prompt, seed))
            return SimpleNamespace(video=[prompt])

    monkeypatch.setattr(score, "VideoSysEngine", Engine)
    videos = list(score.generate(SimpleNamespace(seed=5), ["one", "two"]))
    assert videos == ["one", "two"]
    assert asked == [("one", 5), ("two", 6)]
