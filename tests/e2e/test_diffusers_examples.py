"""The examples with pipelines of diffusers, each on a tiny random model."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "diffusers"


@pytest.mark.parametrize("name", ["wan", "hunyuan_video", "ltx", "cogvideox"])
def test_calibrates_and_generates(name, tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    script = runpy.run_path(str(FOLDER / f"{name}.py"), run_name=name)
    main, example = script["script"].__globals__["main"], script["EXAMPLE"]
    options = ["--tiny", "--output", str(tmp_path)]
    assert main(example, options) == 0
    report, latents = capsys.readouterr().out.splitlines()
    calls = 20 if name == "wan" else 10
    assert report.startswith(f"computed {calls // 2} of {calls} calls of the model, cache ")
    assert latents.startswith("latents [1, ")
    assert main(example, [*options, "--calibration", str(tmp_path / f"{name}.json"), "--steps", "7"]) == 2
    assert "was made with num_inference_steps 10, this run has 7" in capsys.readouterr().err
