"""The examples with pipelines of diffusers, each on a tiny random model."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from videosys import read_video

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "diffusers"


@pytest.fixture(name="read")
def reader(monkeypatch):
    """Returns (main, example) of a script."""

    def read(name: str):
        script = runpy.run_path(str(FOLDER / f"{name}.py"), run_name=name)
        return script["script"].__globals__["main"], script["EXAMPLE"]

    monkeypatch.syspath_prepend(str(FOLDER))
    return read


@pytest.mark.parametrize("name", ["hunyuan_video", "ltx", "cogvideox"])
def test_calibrates_and_generates(name, tmp_path, capsys, read):
    main, example = read(name)
    options = ["--tiny", "--output", str(tmp_path)]
    assert main(example, options) == 0
    report, latents = capsys.readouterr().out.splitlines()
    assert report.startswith("computed 5 of 10 calls of the model, cache ")
    assert latents.startswith("latents [1, ")
    assert main(example, [*options, "--calibration", str(tmp_path / f"{name}.json"), "--steps", "7"]) == 2
    assert "was made with num_inference_steps 10, this run has 7" in capsys.readouterr().err


@pytest.mark.slow
def test_the_trained_wan_is_calibrated_and_makes_a_video(tmp_path, capsys, read):
    main, example = read("wan")
    assert main(example, ["--tiny", "--output", str(tmp_path), "--steps", "6"]) == 0
    report, path = capsys.readouterr().out.splitlines()
    assert report.startswith("computed 6 of 12 calls of the model, ")
    assert path == str(tmp_path / "wan.mp4")
    assert read_video(path)[0].shape == (33, 64, 64, 3)


def test_answers_a_mistake_in_one_line(capsys, read):
    main, example = read("ltx")
    with pytest.raises(SystemExit, match="2"):
        main(example, ["--speedup", "x"])
    assert capsys.readouterr().err == "error: argument --speedup: invalid float value: 'x'; see --help\n"
