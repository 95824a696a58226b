"""`python -m videosys.calibration` and its comparison on the bundled checkpoint, from arguments to files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from eval.policies import __main__ as policies
from videosys import OpenSoraConfig, VideoSysEngine, load_config, tiny
from videosys.cache import MagCacheConfig, NoCacheConfig, ScheduleConfig, TeaCacheConfig, read_calibration
from videosys.calibration.__main__ import budgets, main, split
from videosys.calibration.measure import CONVERGED, FULL
from videosys.calibration.trials import LEAST_TRIES

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "examples" / "opensora" / "tiny.yaml"
SMALL = ["num_frames=17", "height=32", "width=32", "num_inference_steps=5", "seed=3"]
PROMPTS = [
    "a large red circle bounces on a white background",
    "a small blue square spins on a grey background",
    "a large green cross moves leftward on a black background",
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a calibration of five steps."""
    folder = tmp_path_factory.mktemp("calibration")
    (folder / "prompts.txt").write_text("\n\n".join(PROMPTS))
    assert main([*arguments(folder), *SMALL]) == 0
    return folder


def arguments(folder, config=CONFIG):
    files = [
        "--config",
        str(config),
        "--prompts",
        str(folder / "prompts.txt"),
        "--out",
        str(folder / "made.json"),
    ]
    return [*files, "--model", "opensora", "--budgets", "2,3", "--search", "3", "--quiet"]


def test_a_calibration_leaves_a_file_a_table_and_plots(made):
    names = {"made.json", "made.md", "made-signals.png", "made-fits.png", "made.work", "prompts.txt"}
    assert {path.name for path in made.iterdir()} == names
    calibration = read_calibration(made / "made.json")
    assert (calibration.scope.model, calibration.scope.num_inference_steps) == ("opensora", 5)
    kinds = {type(row.policy) for row in calibration.settings}
    assert kinds - {MagCacheConfig, NoCacheConfig} == {TeaCacheConfig, ScheduleConfig}
    assert len(calibration.ratios) == 5
    assert calibration.details["held_out_prompts"] == PROMPTS[-1:]
    text = (made / "made.md").read_text()
    assert "| schedule hold | 2.0 of 5 |" in text
    for name in ("made-signals.png", "made-fits.png"):
        assert Image.open(made / name).size[0] > 500


def test_the_file_serves_a_goal(made):
    goal = ["cache.name=best", "cache.min_psnr=1", f"cache.calibration={made / 'made.json'}"]
    config = load_config(OpenSoraConfig, CONFIG, ["cache=none", *SMALL, *goal])
    with VideoSysEngine(config, quiet=True) as engine:
        output = engine.generate(PROMPTS[0])
    assert sum(step.computed for step in output.steps) in (2, 3)
    other = load_config(OpenSoraConfig, CONFIG, ["cache=none", *SMALL, *goal, "num_inference_steps=6"])
    with (
        VideoSysEngine(other, quiet=True) as engine,
        pytest.raises(ValueError, match="num_inference_steps 5"),
    ):
        engine.generate(PROMPTS[0])


def test_four_runs_are_enough_for_plans(made, tmp_path, capsys):
    """Nothing is searched, and without held-out prompts plans are tried on a calibration prompt."""
    files = [
        "--config",
        str(CONFIG),
        "--prompts",
        str(made / "prompts.txt"),
        "--out",
        str(tmp_path / "c.json"),
    ]
    assert main([*files, "--held-out", "0", "--budgets", "3", "--quiet", *SMALL]) == 0
    assert "the PSNR is from a trial on a calibration prompt" in capsys.readouterr().out
    settings = read_calibration(tmp_path / "c.json").settings
    assert {row.computed for row in settings} == {3}
    assert {row.speedup for row in settings} == {1.67}
    # So short a run may be far from the published one: a PSNR below 0 dB is a figure too.
    assert all(row.ssim is None and row.psnr is not None and row.psnr_converged for row in settings)
    trials = [line for line in (tmp_path / "c.work" / "journal.jsonl").open() if "frames of 1" in line]
    assert len(trials) == len({json.loads(line)[0] for line in trials}) >= 2 * LEAST_TRIES
    measured = [json.loads(line)[1] for line in trials]
    assert {(round(row.psnr, 6), round(row.psnr_converged, 6)) for row in settings} <= {
        (round(figures[FULL], 6), round(figures[CONVERGED], 6)) for figures in measured
    }
    solvers = {row.config["scheduler"]["name"] for row in settings if row.config}
    assert solvers <= {"published", "euler", "dpm_solver", "unipc"}
    goal = ["cache.name=best", "cache.evaluations=3", "cache.reference=converged"]
    config = load_config(
        OpenSoraConfig, CONFIG, ["cache=none", *SMALL, *goal, f"cache.calibration={tmp_path / 'c.json'}"]
    )
    with VideoSysEngine(config, quiet=True) as engine:
        output = engine.generate(PROMPTS[0])
    assert sum(step.computed for step in output.steps) == 3


def test_another_config_does_not_take_the_results(made, capsys):
    assert main([*arguments(made), *SMALL, "guidance_scale=3"]) == 2
    assert "another run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--out", "made.txt"], "must end in .json"),
        (["--out", "prompts.txt/made.json"], "'prompts.txt/made.json', but "),
        (["--out", "folder.json"], "'folder.json', which is a folder"),
        (["--search", "nan"], "--search is nan; it must be 0 or more, and finite"),
        (["--search", "inf"], "--search is inf"),
        (["--search", "-5"], "--search is -5"),
        (["--budgets", "5"], "must be 2 to 4, of 5 steps"),
        (["--budgets", "1,3"], "must be 2 to 4, of 5 steps"),
        (["--held-out", "3"], "at least one must be"),
        (["--prompts", "nowhere.txt"], "nowhere.txt: cannot be read"),
        (["--config", "nowhere.yaml"], "no such config file"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, monkeypatch, changes, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    (tmp_path / "folder.json").mkdir()
    assert main([*arguments(tmp_path), *changes, *SMALL]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"prompts.txt", "folder.json"}


def test_budgets_are_spread_over_the_steps():
    assert budgets(None, 30) == [6, 8, 10, 12, 15, 18, 20, 24]
    assert budgets([9, 3, 3], 30) == [3, 9]
    assert budgets(None, 6) == [2, 3, 4, 5]
    assert budgets(None, 4) == [2, 3]


def test_a_third_is_held_out():
    assert split(["a", "b"], None) == (["a"], ["b"])
    assert split(list("abcdefghij"), None) == (list("abcdefg"), list("hij"))
    assert split(list("abc"), 2) == (["a"], ["b", "c"])


@pytest.mark.slow
def test_a_quick_comparison_says_it_all(tmp_path, capsys, monkeypatch):
    def small(model, **changes):
        return tiny.config(model, **changes, num_frames=17, height=32, width=32)

    monkeypatch.setattr(policies, "tiny", type("Tiny", (), {"config": staticmethod(small)}))
    arguments = ["--model", "tiny/opensora", "--out", str(tmp_path), "--quick", "--quiet"]
    assert policies.main(arguments) == 0
    text = capsys.readouterr().out
    assert (tmp_path / "comparison.md").read_text() == text.rstrip("\n") + "\n"
    assert "| 2 | published |" in text
    assert "| 3 | converged |" in text
    assert "Videos that show all of the prompt:" in text
    entries = json.loads((tmp_path / "comparison.json").read_text())["entries"]
    groups = {"fewer steps", "solver", "TeaCache", "other cache", "schedule", "plan", "full run"}
    assert {one["group"] for one in entries} == groups
    assert {"pab_slow", "SeaCache", "SenCache", "all steps"} <= {one["name"] for one in entries}
    assert Image.open(tmp_path / "quality.png").size[0] > 500
    (tmp_path / "quality.png").unlink()
    monkeypatch.setattr(policies, "read_settings", lambda args: policies.QUICK)
    monkeypatch.setattr(policies, "resolve", lambda source: tmp_path / "weights")
    (tmp_path / "weights").mkdir()
    assert policies.main([*arguments[:-2], "--bundle", "--quiet"]) == 0  # from what it kept
    assert capsys.readouterr().out == text
    settings = read_calibration(tmp_path / "weights" / "calibration.json").settings
    assert {type(row.policy) for row in settings} >= {TeaCacheConfig, ScheduleConfig}
    assert any(row.config for row in settings)


def test_long_generations_are_judged_on_fewer_prompts(tmp_path):
    def held_out(model, *more):
        args = policies.parser().parse_args(["--model", model, "--out", str(tmp_path), *more])
        return policies.read_settings(args).held_out

    assert [held_out(name) for name in tiny.bundled()] == [32, 32, 16, 16]
    assert held_out("tiny/latte") == 32  # as it was spelt before
    assert held_out("open_sora_plan_v110", "--held-out", "20") == 20


def test_a_comparison_refuses_what_it_does_not_know(tmp_path, capsys):
    for name in ("opensorra", "tiny/opensorra"):
        assert policies.main(["--model", name, "--out", str(tmp_path)]) == 2
        assert "unknown tiny checkpoint 'opensorra' (did you mean 'opensora'?)" in capsys.readouterr().err
    assert policies.main(["--model", "opensora", "--held-out", "0", "--out", str(tmp_path)]) == 2
    assert "--held-out is 0" in capsys.readouterr().err
    for search in ("nan", "-5", "inf"):
        assert policies.main(["--model", "opensora", "--search", search, "--out", str(tmp_path)]) == 2
        assert f"--search is {search}; it must be 0 or more" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert policies.main(["--model", "opensora", "--out", str(tmp_path / "file")]) == 2
    assert "which is a file" in capsys.readouterr().err
    assert policies.main(["--model", "opensora", "--out", str(tmp_path / "file" / "more")]) == 2
    assert "is not a folder" in capsys.readouterr().err
    quick = ["--model", "opensora", "--quick", "--bundle", "--out", str(tmp_path)]
    assert policies.main(quick) == 2
    assert "--bundle cannot be combined" in capsys.readouterr().err
