"""VBench's scores, and the command that runs an installed vbench, here a pretended one."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.evaluation import cal_vbench, run_vbench, scores

# A row as remembered, without a source: a check of the arithmetic and of nothing else. In the order of
# scores.dimensions(), in percent, with quality, semantic and total.
UNSOURCED = (96.75, 97.61, 99.53, 98.5, 42.39, 56.85, 63.34, 82.22, 51.83, 91.2, 90.08, 68.56, 42.44)
UNSOURCED += (23.95, 24.54, 26.85)
UNSOURCED_TOTALS = (81.35, 73.39, 79.76)


def fill(folder: Path, values: dict[str, float]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, value in values.items():
        (folder / f"{name}_eval_results.json").write_text(json.dumps({name: [value, [{"video_path": "a"}]]}))
    return folder


def row() -> dict[str, float]:
    return {name: value / 100 for name, value in zip(scores.dimensions(), UNSOURCED)}


def test_the_arithmetic_gives_the_totals_of_a_remembered_row():
    made = scores.totals(row())
    assert [round(made[name], 2) for name in ("quality", "semantic", "total")] == list(UNSOURCED_TOTALS)


def test_best_and_worst_results_are_100_and_0():
    limits = scores.constants()["normalise_min_max"]
    for place, percent in ((0, 0), (1, 100)):
        made = scores.totals({name.replace(" ", "_"): pair[place] for name, pair in limits.items()})
        assert [made[name] for name in ("quality", "semantic", "total")] == pytest.approx([percent] * 3)


def test_a_mean_weighs_its_dimensions():
    made = scores.totals({"dynamic_degree": 1.0, "aesthetic_quality": 0.0, "imaging_quality": 0.0})
    assert made["quality"] == pytest.approx(100 * 0.5 / 2.5)
    assert made["semantic"] is made["total"] is None
    both = scores.totals({"aesthetic_quality": 0.5, "color": 1.0})
    assert both["total"] == pytest.approx((4 * 50 + 100) / 5)


def test_results_are_rounded_to_four_digits_first():
    assert scores.totals({"color": 0.123449})["scaled"]["color"] == pytest.approx(12.34)


def test_a_result_above_one_by_rounding_is_one(tmp_path):
    assert scores.totals(scores.read_scores(fill(tmp_path, {"color": 1.0000002})))["scaled"]["color"] == 100


def test_the_command_writes_and_prints_the_scores(tmp_path, capsys):
    folder = fill(tmp_path / "scores", row())
    assert cal_vbench.main(["--score_dir", str(folder)]) == 0
    assert json.loads((folder / "scores.json").read_text())["total"] == pytest.approx(79.76, abs=0.005)
    assert "total" in capsys.readouterr().out


def test_an_incomplete_set_is_refused_unless_asked_for(tmp_path, capsys):
    values = row()
    del values["color"], values["scene"]
    folder = fill(tmp_path / "scores", values)
    assert cal_vbench.main(["--score_dir", str(folder)]) == 2
    assert "missing for color, scene; incomplete scores cannot be compared" in capsys.readouterr().err
    assert not (folder / "scores.json").exists()
    assert cal_vbench.main(["--score_dir", str(folder), "--partial"]) == 0
    assert "incomplete, without color, scene" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"colour": 0.5}, "'colour' is not a dimension of VBench; allowed: subject_consistency"),
        ({"color": 50}, "color is 50; it must be a number from 0 to 1"),
        ({"color": 1.001}, "color is 1.001; it must be a number from 0 to 1"),
        ({"color": True}, "color is True"),
        ({"color": float("nan")}, "color is nan"),
        ({"color": None}, "color is None"),
        ({"color": []}, "color is []"),
        ([], "must contain the results of dimensions"),
    ],
)
def test_other_files_are_refused(tmp_path, capsys, content, message):
    (tmp_path / "x_eval_results.json").write_text(json.dumps(content))
    assert cal_vbench.main(["--score_dir", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_that_is_not_there_is_said_to_be_missing(tmp_path, capsys):
    assert cal_vbench.main(["--score_dir", str(tmp_path / "none")]) == 2
    assert "none: no such folder" in capsys.readouterr().err


def test_a_dimension_in_two_files_is_refused(tmp_path, capsys):
    fill(tmp_path, {"color": 0.5})
    (tmp_path / "more_eval_results.json").write_text('{"color": [0.5, []], "scene": [0.1, []]}')
    assert cal_vbench.main(["--score_dir", str(tmp_path)]) == 2
    assert "color is in both" in capsys.readouterr().err


FAKE_VBENCH = """
import json, pathlib
class VBench:
    def __init__(self, device, full_info, output):
        self.output = output
    def evaluate(self, videos_path, name, dimension_list, mode, **options):
        # As the real one: whatever file comes first says how videos end.
        first, *_ = pathlib.Path(videos_path).iterdir()
        suffixes = {path.suffix for path in pathlib.Path(videos_path).iterdir() if path.stat()}
        assert suffixes == {".mp4"}, (first, suffixes)
        log = pathlib.Path(__file__).parent / "calls.txt"
        with log.open("a") as file:
            file.write(f"{name} {mode} {options['imaging_quality_preprocessing_mode']}\\n")
        if name == "color" and (log.parent / "fail").exists():
            raise RuntimeError("no colours today")
        path = pathlib.Path(self.output) / f"{name}_eval_results.json"
        videos = [str(path) for path in sorted(pathlib.Path(videos_path).iterdir())]
        rows = [{"video_path": path, "video_results": 0.5} for path in videos]
        path.write_text(json.dumps({name: [0.5, rows]}))
"""
MODULES = (
    "torchvision",
    "decord",
    "numpy",
    "PIL",
    "tqdm",
    "detectron2",
    "cv2",
    "clip",
    "timm",
    "einops",
    "ftfy",
)
MODULES += ("transformers", "fairscale")
FAKE_TORCH = """
class cuda:
    is_available = staticmethod(lambda: False)
def device(name): return name
"""


@pytest.fixture
def site(tmp_path, monkeypatch) -> Path:
    """A folder of pretended packages that every started interpreter sees."""
    folder = tmp_path / "site"
    for name, code in {"vbench": FAKE_VBENCH, "torch": FAKE_TORCH, **dict.fromkeys(MODULES, "")}.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(code)
    rows = [
        {"prompt_en": "a cup", "dimension": ["color", "scene"]},
        {"prompt_en": "b", "dimension": ["scene"]},
    ]
    (folder / "vbench" / "VBench_full_info.json").write_text(json.dumps(rows))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return folder


@pytest.fixture
def videos(tmp_path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / "manifest.jsonl").touch()  # as experiments/*.py leave it
    for name in [f"{prompt}-{index}.mp4" for prompt in ("a cup", "b") for index in range(5)]:
        (folder / name).touch()
    return folder


def start(videos: Path, *more: str) -> int:
    save = videos.parent / "save"
    return run_vbench.main(["--video_path", str(videos), "--save_path", str(save), "--quiet", *more])


def test_dimensions_are_run_one_by_one_and_only_once(site, videos, tmp_path, capsys):
    (site / "vbench" / "fail").touch()
    assert start(videos, "--dimensions", "color", "scene") == 2
    said = capsys.readouterr()
    log = tmp_path / "save" / "color.log"
    assert re.search(rf"^color: exit status 1, .+ \(all of its output: {log}\)$", said.err, re.MULTILINE)
    assert said.err.endswith("error: vbench failed on color\n")
    assert log.read_text()
    assert "1 of 2 dimensions in" in said.out
    (site / "vbench" / "fail").unlink()
    assert start(videos, "--dimensions", "scene", "color") == 0
    assert start(videos, "--dimensions", "scene", "color") == 0
    calls = (site / "vbench" / "calls.txt").read_text().split("\n")[:-1]
    assert calls == [f"{name} vbench_standard longer" for name in ("color", "scene", "color")]
    assert "2 of 2 dimensions in" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "save").iterdir()) == [
        "color_eval_results.json",
        "scene_eval_results.json",
    ]
    assert scores.read_scores(tmp_path / "save") == {"color": 0.5, "scene": 0.5}


def test_a_damaged_result_is_made_again(site, videos, tmp_path):
    fill(tmp_path / "save", {"scene": 0.1})
    (tmp_path / "save" / "color_eval_results.json").write_text('{"color": [0.')
    assert start(videos, "--dimensions", "scene", "color") == 0
    assert scores.read_scores(tmp_path / "save") == {"color": 0.5, "scene": 0.1}


def test_missing_videos_are_an_error_unless_allowed(site, videos, tmp_path, capsys):
    (videos / "b-3.mp4").unlink()
    assert start(videos, "--dimensions", "color") == 0
    assert start(videos, "--dimensions", "scene") == 2
    assert "1 of 10 videos are missing, such as ['b-3.mp4']; use --partial" in capsys.readouterr().err
    assert start(videos, "--dimensions", "scene", "--partial") == 0
    for path in videos.glob("*.mp4"):
        path.unlink()
    (tmp_path / "save" / "scene_eval_results.json").unlink()
    assert start(videos, "--dimensions", "scene", "--partial") == 2
    assert "contains none of the 10 videos" in capsys.readouterr().err
    assert start(videos, "--dimensions", "temporal_style") == 2
    assert "VBench_full_info.json: contains no prompts for temporal_style" in capsys.readouterr().err


def test_videos_that_came_after_a_result_are_evaluated(site, videos, tmp_path):
    late = videos / "b-3.mp4"
    late.unlink()
    assert start(videos, "--dimensions", "scene", "--partial") == 0
    assert start(videos, "--dimensions", "scene", "--partial") == 0
    late.touch()
    soon = (tmp_path / "save" / "scene_eval_results.json").stat().st_mtime + 5
    os.utime(late, (soon, soon))
    assert start(videos, "--dimensions", "scene") == 0
    assert len((site / "vbench" / "calls.txt").read_text().splitlines()) == 2


def test_results_name_the_videos_where_they_are(site, videos, tmp_path):
    assert start(videos, "--dimensions", "color") == 0
    _, rows = json.loads((tmp_path / "save" / "color_eval_results.json").read_text())["color"]
    assert [row["video_path"] for row in rows] == [str(videos / f"a cup-{index}.mp4") for index in range(5)]


def without(site: Path, *names: str) -> None:
    for name in names:
        shutil.rmtree(site / name)


def test_dimensions_that_lack_packages_are_listed_first_and_the_others_run(site, videos, tmp_path, capsys):
    lists = [{"prompt_en": prompt, "dimension": scores.dimensions()} for prompt in ("a cup", "b")]
    (site / "vbench" / "VBench_full_info.json").write_text(json.dumps(lists))
    without(site, "detectron2", "fairscale")
    assert start(videos) == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("skipped, because ")
    assert "object_class (needs detectron2)" in first
    assert "scene (needs fairscale)" in first
    done = {path.name.removesuffix("_eval_results.json") for path in (tmp_path / "save").iterdir()}
    assert done.isdisjoint({"object_class", "multiple_objects", "color", "spatial_relationship", "scene"})
    assert {"subject_consistency", "temporal_flickering", "human_action"} <= done
    assert last.startswith(f"{len(done)} of 16 dimensions in ")
    assert start(videos) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("0 of them new")
    assert cal_vbench.main(["--score_dir", str(tmp_path / "save"), "--partial"]) == 0


def test_a_dimension_asked_for_must_be_able_to_run(site, videos, capsys):
    without(site, "detectron2", "cv2")
    assert start(videos, "--dimensions", "scene", "color") == 2
    assert "color (needs detectron2, opencv-python); install them there" in capsys.readouterr().err
    assert not (videos.parent / "save").exists()


def test_every_dimension_says_which_packages_it_needs():
    assert set(scores.constants()["modules"]) == {"all", *scores.dimensions()}


def test_what_is_not_installed_is_named(site, videos, capsys):
    without(site, "decord")
    if importlib.util.find_spec("decord") is None:
        assert start(videos, "--dimensions", "scene") == 2
        assert "has vbench but lacks decord, which all dimensions need" in capsys.readouterr().err
    without(site, "vbench")
    assert start(videos, "--dimensions", "scene") == 2
    assert f"{sys.executable} (Python" in (said := capsys.readouterr().err)
    assert "has no vbench; vbench 0.1.5 works with Python 3.10 and 3.11" in said
    assert start(videos, "--vbench-python", "no-such-python") == 2
    assert "--vbench-python no-such-python: cannot run it" in capsys.readouterr().err
