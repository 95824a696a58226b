"""The JSON file beside a video."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from videosys.utils.sidecar import sidecar_path, write_sidecar


@dataclass(frozen=True)
class Step:
    step: int
    distance: float
    computed: bool


def test_what_is_written_reads_back(tmp_path):
    path = write_sidecar(
        tmp_path / "a.mp4",
        prompt='a "red" 猫\n\ud800',
        seed=2**63 - 1,
        config={"cache": {"name": "teacache", "ranges": {3: (1, 2)}}, "output": Path("x")},
        steps=[Step(0, float("nan"), True), Step(1, 0.5, False)],
        size=(64, 64),
    )
    assert path == tmp_path / "a.mp4.json"
    assert json.loads(path.read_text()) == {
        "prompt": 'a "red" 猫\n\ud800',
        "seed": 2**63 - 1,
        "size": [64, 64],
        "config": {"cache": {"name": "teacache", "ranges": {"3": [1, 2]}}, "output": "x"},
        "steps": [
            {"step": 0, "distance": None, "computed": True},
            {"step": 1, "distance": 0.5, "computed": False},
        ],
    }
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4.json"]


def test_every_video_has_a_sidecar_of_its_own():
    names = ["a.mp4", "a.gif", "a", "b/"]
    assert [sidecar_path(name).name for name in names] == ["a.mp4.json", "a.gif.json", "a.json", "b.json"]


def test_an_interrupt_leaves_the_old_file(tmp_path, monkeypatch):
    write_sidecar(tmp_path / "a", prompt="old", seed=1, config={}, steps=[])

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_sidecar(tmp_path / "a", prompt="new", seed=1, config={}, steps=[])
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]
    assert json.loads((tmp_path / "a.json").read_text())["prompt"] == "old"
