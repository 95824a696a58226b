"""The examples with pipelines of diffusers, each on a tiny model."""

from __future__ import annotations

import runpy
from functools import partial
from pathlib import Path

import pytest

from videosys import read_video
from videosys.diffusers import KNOWN

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "diffusers"


@pytest.fixture(name="read")
def reader(monkeypatch):
    """Returns the function that a script runs, for other arguments."""

    def read(name: str):
        script = runpy.run_path(str(FOLDER / f"{name}.py"), run_name=name)
        return partial(script["script"].__globals__["main"], name)

    monkeypatch.syspath_prepend(str(FOLDER))
    return read


def test_each_known_pipeline_has_an_example(read, monkeypatch):
    for name in KNOWN:
        monkeypatch.setattr("sys.argv", [name, "--tiny", "--speedup", "x"])
        with pytest.raises(SystemExit, match="2"):
            runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    assert sorted({path.stem for path in FOLDER.glob("*.py")} - {"shared"}) == sorted(KNOWN)


@pytest.mark.parametrize("name", ["hunyuan_video", "ltx", "cogvideox"])
def test_calibrates_and_generates(name, tmp_path, capsys, read):
    main = read(name)
    options = ["--tiny", "--output", str(tmp_path)]
    assert main(options) == 0
    report, latents = capsys.readouterr().out.splitlines()
    assert report.startswith("computed 5 of 10 calls of the model, cache ")
    assert latents.startswith("latents [1, ")
    assert main([*options, "--calibration", str(tmp_path / f"{name}.json"), "--steps", "7"]) == 2
    assert "was made with num_inference_steps 10, this run has 7" in capsys.readouterr().err


def test_creates_a_calibration_that_does_not_exist(tmp_path, capsys, read):
    path, main = tmp_path / "own" / "cal.json", read("ltx")
    options = ["--tiny", "--steps", "6", "--output", str(tmp_path), "--calibration", str(path)]
    assert main(options) == 0
    written = path.read_bytes()
    assert main([*options, "--speedup", "1"]) == 0
    assert path.read_bytes() == written
    assert "computed 6 of 6 calls" in capsys.readouterr().out


@pytest.mark.slow
def test_the_trained_wan_is_calibrated_and_makes_a_video(tmp_path, capsys, read):
    main = read("wan")
    assert main(["--tiny", "--output", str(tmp_path), "--steps", "6"]) == 0
    report, path = capsys.readouterr().out.splitlines()
    assert report.startswith("computed 6 of 12 calls of the model, ")
    assert path == str(tmp_path / "wan.mp4")
    assert read_video(path)[0].shape == (33, 64, 64, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", "0"], "--steps is 0; it must be 1 or more"),
        (["--speedup", "0.5"], "--speedup is 0.5; it must be 1 or more"),
        (["--speedup", "nan"], "--speedup is nan; it must be 1 or more"),
    ],
)
def test_numbers_that_are_too_small_are_refused_before_anything_is_loaded(options, message, capsys, read):
    assert read("ltx")(options) == 2  # the published weights are not there
    assert capsys.readouterr().err == f"error: {message}\n"


def test_answers_a_mistake_in_one_line(capsys, read):
    main = read("ltx")
    with pytest.raises(SystemExit, match="2"):
        main(["--speedup", "x"])
    assert capsys.readouterr().err == "error: argument --speedup: invalid float value: 'x'; see --help\n"
