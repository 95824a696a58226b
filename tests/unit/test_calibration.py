"""A whole calibration of a model whose polynomial and best schedules are known."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

import videosys.calibration.study as studies
from tests.synthetic import SyntheticConfig, SyntheticPipeline, opened
from videosys.cache import Hold, Linear, NoCacheConfig, RunSpec, TeaCacheConfig, read_calibration
from videosys.calibration import output
from videosys.calibration.calibrate import all_fits, calibrate, finite, select_fit
from videosys.calibration.measure import CONVERGED, margin, student, summary
from videosys.calibration.study import Study
from videosys.calibration.tables import report_text
from videosys.calibration.thresholds import (
    SLACK,
    TRIES,
    computed_steps,
    magcache_for,
    nearest_threshold,
    threshold_for,
)

PROMPTS = ["one", "three", "four 4", "seventh"]
TRUE = (30.0, -2.0, 0.5, 0.03)  # change of the output by change of the signal
STAIRCASE = [5, 5, 2, 2, 2, 9, 9, 1, 1, 1]
LINE = [1.0, 3.0, 5.0, 7.0, 9.0, 11.0, 13.0, 15.0, 17.0, 19.0]


def related(steps=10, seed=0):
    """(residuals, signals): the output's change is the polynomial of the signal's."""
    changes = np.random.default_rng(seed).uniform(0.01, 0.2, steps - 1)
    signals = np.cumprod([1.0, *(1 + changes)])
    residuals = np.cumprod([1.0, *(1 + np.polyval(TRUE, changes))])
    return residuals.tolist(), signals.tolist()


@pytest.fixture
def study(tmp_path, monkeypatch):
    def made(residuals, signals=None, prompts=PROMPTS, folder="work", search_size=4, **changes):
        pipeline = SyntheticPipeline(residuals, signals)
        monkeypatch.setattr(studies, "open_pipeline", opened(pipeline))
        config = SyntheticConfig(**changes)
        return Study(config, prompts[:-1], prompts[-1:], tmp_path / folder, search_size, quiet=True)

    return made


@pytest.mark.parametrize("has_matplotlib", [True, False])
def test_without_matplotlib_a_report_has_no_plots(study, has_matplotlib, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(output, "has_matplotlib", lambda: has_matplotlib)
    residuals, signals = related()
    output.announce_missing_plots()
    text = output.write_report(calibrate(study(residuals, signals), [5], 3), tmp_path / "report" / "x.json")
    plots = {"x-signals.png", "x-fits.png"} if has_matplotlib else set()
    assert {path.name for path in (tmp_path / "report").iterdir()} == {"x.json", "x.md"} | plots
    assert (tmp_path / "report" / "x.md").read_text() == text
    assert ("no plots: plots need matplotlib" in caplog.text) != has_matplotlib


def test_the_traces_know_what_reuse_gives(study):
    residuals, signals = related()
    (trace, *_) = study(residuals, signals).traces
    output = [abs(b - a) / a for a, b in pairwise(residuals)]
    assert trace.distances["output"] == pytest.approx(output, rel=1e-5)
    assert trace.distances["residual"] == pytest.approx(output, rel=1e-5)
    assert trace.ratios == pytest.approx([b / a for a, b in pairwise(residuals)], rel=1e-4)
    change = [abs(b - a) / a for a, b in pairwise(signals)]
    assert trace.distances["modulated_input"] == pytest.approx(change, rel=1e-4)
    assert len(trace.distances["noisy_input"]) == 9
    own = trace.reused[7, 0]
    assert trace.reused[7, 3].numpy() == pytest.approx((own * residuals[4] / residuals[7]).numpy(), rel=1e-4)
    assert trace.reused[2, 3].isnan().all()


def test_the_true_polynomial_is_found_and_chosen(study):
    fits = all_fits(study(*related(30), num_inference_steps=30).traces)
    found = next(item for item in fits if (item.signal, item.degree) == ("modulated_input", 3))
    assert found.coefficients == pytest.approx(TRUE, rel=2e-2)
    assert found.r2_held_out == pytest.approx(1, abs=1e-4)
    chosen = select_fit(fits)
    assert chosen.degree >= 3
    assert chosen.signal == "modulated_input"


def test_sensitivity_is_the_samplers_step(study):
    made = study(related()[0])
    segments = made.segments
    assert segments.times == pytest.approx([1 - i / 10 for i in range(10)])
    steps = [made.journal.result(f"sensitivity {step}", lambda: None) for step in (1, 5, 9)]
    assert steps == pytest.approx([0.1] * 3, rel=1e-2)  # one tenth of the time, and nothing reacts to it


def test_the_best_schedule_of_a_staircase_is_found(study):
    found = study(STAIRCASE).search(5, most_runs=50)
    assert found["hold"].schedule.computed == (0, 2, 5, 7, 9)
    assert found["hold"].score > 100


def test_the_best_schedule_of_a_line_is_found(study):
    made = study(LINE)
    found = made.search(3, most_runs=50)
    assert found["linear"].schedule.computed == (0, 1, 9)
    assert found["linear"].schedule.policy(made.times).forecast == Linear()
    assert found["linear"].score > 100 > found["hold"].score


def test_two_steps_of_thirty_are_a_budget(study):
    report = calibrate(study(*related(30), num_inference_steps=30), [2, 3], 3)
    schedules = [row for row in report.rows if row.name == "schedule hold"]
    assert [row.result.computed for row in schedules] == [2, 3]
    assert schedules[0].policy.computed == (0, 29)


def test_the_search_keeps_to_its_bound(study):
    rng = np.random.default_rng(1)
    made = study(rng.standard_normal(10).cumsum().tolist())
    made.segments  # noqa: B018 (its runs are not the search's)
    before = made.pipeline.model.computed
    made.search(4, most_runs=12)
    assert made.pipeline.model.computed - before <= 12 * 10


def test_the_descent_is_no_worse_than_the_programme(study):
    rng = np.random.default_rng(2)
    made = study(rng.standard_normal(10).cumsum().tolist())
    for kind, found in made.search(5, most_runs=60).items():
        assert found.score >= made.score(made.cheapest([5], kind)[5].policy(made.times))


def test_an_interrupted_calibration_goes_on(study, tmp_path):
    residuals, signals = related()
    whole = study(residuals, signals, folder="whole")
    expected = calibrate(whole, [4, 6], 20).calibration().to_json()
    needed = whole.pipeline.model.computed
    broken = study(residuals, signals, folder="broken")
    broken.pipeline.model.dies_at = needed // 2
    with pytest.raises(KeyboardInterrupt):
        calibrate(broken, [4, 6], 20)
    (tmp_path / "broken" / "journal.jsonl").open("a").write('["score, cut')  # killed while writing
    again = study(residuals, signals, folder="broken")
    result = calibrate(again, [4, 6], 20).calibration().to_json()
    assert again.pipeline.model.computed < 0.75 * needed
    assert without_times(result) == without_times(expected)


def without_times(content):
    details = {**content["details"], "measured_speedup": []}
    settings = [{**row, "speedup": 0} for row in content["settings"]]
    return {**content, "settings": settings, "details": details}


def test_results_of_another_run_are_not_taken(study):
    study(STAIRCASE).search(5, most_runs=1)
    with pytest.raises(ValueError, match="another run"):
        study(STAIRCASE, prompts=["else", *PROMPTS[1:]])
    with pytest.raises(ValueError, match="another run"):
        study(STAIRCASE, guidance_scale=2.0)
    with pytest.raises(ValueError, match="another run"):
        study(STAIRCASE, search_size=1)


def test_results_against_another_converged_run_are_not_taken(study):
    steps = {"num_inference_steps": 120}
    for _ in range(2):
        study(STAIRCASE).bench({CONVERGED: steps})
    study(STAIRCASE).bench()
    with pytest.raises(
        ValueError, match=r"another run .its converged run has another sampler than num_inf.* 400"
    ):
        study(STAIRCASE).bench({CONVERGED: {"num_inference_steps": 400}})


def test_a_folder_that_cannot_be_made_is_refused(study, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="work cannot be created"):
        study(STAIRCASE, folder="file/work")


def test_the_file_is_read_back(study, tmp_path):
    report = calibrate(study(*related()), [4, 6], 10)
    path = tmp_path / "made.json"
    path.write_text(json.dumps(report.calibration().to_json(), allow_nan=False))
    made = read_calibration(path)
    assert made.scope == RunSpec("synthetic", "rflow", 10, 10, (2, 16, 16), 1.0, "0" * 16)
    assert made.coefficients == report.best_fit.coefficients
    residuals, _ = related()
    assert made.ratios == pytest.approx([1.0, *(b / a for a, b in pairwise(residuals))], rel=1e-4)
    names = {type(row.policy).__name__ for row in made.settings}
    assert names == {"TeaCacheConfig", "ScheduleConfig", "MagCacheConfig"}
    assert made.details["held_out_prompts"] == PROMPTS[-1:]
    with pytest.raises(ValueError, match="num_inference_steps"):
        made.scope.check(replace(made.scope, num_inference_steps=20), path)


def test_settings_are_what_the_policies_give(study):
    report = calibrate(study(STAIRCASE), [5], 10)
    row = next(row for row in report.rows if row.name == "schedule hold")
    assert row.policy.computed == (0, 2, 5, 7, 9)
    assert row.policy.forecast == Hold()
    assert row.result.computed == 5
    assert row.result.psnr["full"] > 60
    text = report_text(report)
    assert "| schedule hold | 5.0 of 10 |" in text
    assert "| schedule hold | 5 | 0 2 5 7 9 |" in text
    assert "| teacache, threshold " in text
    assert "modulated input" in text
    assert "| residual | 1.000 | 1.000 |" in text


def test_thresholds_simulate_the_cache(study):
    made = study(*related(12, seed=4), num_inference_steps=12)
    changes = [item.distances["modulated_input"] for item in made.traces]
    for budget in (3, 6, 9):
        threshold = threshold_for(budget, changes, TRUE, 11)
        expected = computed_steps(changes[0], TRUE, threshold, 11)
        assert 3 <= len(expected) <= budget
        policy = TeaCacheConfig(threshold=threshold, coefficients=TRUE)
        clips, _ = made.searched[0]
        assert [step.step for step in clips.run(policy).steps if step.computed] == expected


@pytest.mark.parametrize("budget", [3, 5, 8])
def test_magcache_keeps_to_a_budget(budget):
    ratios = (1.0, 0.3, 0.8, 0.95, 1.0, 1.0, 0.99, 0.9, 0.8, 0.5)
    made = magcache_for(budget, ratios)
    computed = made.computed_steps(10)
    assert {0, 9} <= computed
    assert budget - 1 <= len(computed) <= budget
    stricter = replace(made, threshold=made.threshold * 0.9)
    assert len(stricter.computed_steps(10)) > budget or len(computed) == budget


@pytest.mark.parametrize(("budget", "share", "first"), [(15, 0.2, 4), (6, 0.1, 2), (3, 0.05, 1)])
def test_magcache_computes_its_first_steps(budget, share, first):
    """A fifth of them as published, no more than a third of the budget: even where nothing changes."""
    made = magcache_for(budget, (1.0,) * 20)
    assert made.retention == share
    assert set(range(first)) <= made.computed_steps(20)


def test_magcache_has_no_setting_below_its_first_and_last_step():
    assert magcache_for(1, (1.0,) * 10) is None


def test_a_threshold_is_as_low_as_the_budget_allows():
    changes = [[0.1] * 9]
    threshold = threshold_for(4, changes, (1.0, 0.0), 9)
    assert len(computed_steps(changes[0], (1.0, 0.0), threshold, 9)) == 4
    assert len(computed_steps(changes[0], (1.0, 0.0), threshold * 0.95, 9)) > 4


def searched(counts, budget, start):
    """(the threshold taken, all that were tried); counts: computed steps by threshold."""
    seen = []

    def computed(threshold):
        seen.append(threshold)
        return counts(threshold)

    return nearest_threshold(budget, start, computed), seen


@pytest.mark.parametrize("start", [0.03, 0.1, 0.4, 3.0])
@pytest.mark.parametrize("budget", [5, 9, 15, 20])
def test_a_threshold_is_found_from_both_sides(start, budget):
    found, seen = searched(lambda threshold: 2 + 28 / (1 + 5 * threshold), budget, start)
    assert abs(2 + 28 / (1 + 5 * found) - budget) <= SLACK
    assert found == seen[-1]
    assert len(seen) <= TRIES


def test_a_threshold_that_computes_too_little_is_lowered():
    found, seen = searched(lambda threshold: 14.2 if threshold > 0.09 else 15.1, 15, 0.1)
    assert found == seen[-1] < 0.09


def test_the_nearest_of_what_was_tried_is_taken_where_nothing_is_near():
    found, seen = searched(lambda threshold: 17.0 if threshold < 0.25 else 14.0, 15, 0.1)
    assert (len(seen), len(set(seen))) == (TRIES, TRIES)
    assert found in seen
    assert found >= 0.25
    assert max(value for value in seen if value < 0.25) > 0.2
    found, _ = searched(lambda threshold: 15.5 if threshold < 0.25 else 14.0, 15, 0.1)
    assert found < 0.25


def test_what_was_tried_last_need_not_be_the_nearest():
    counts = iter([20.0, 16.0, 11.0, 16.4, 10.5, 11.5, 17.0, 9.0])
    found, seen = searched(lambda threshold: next(counts), 15, 0.1)
    assert found == seen[1]


def test_a_full_run_measures_as_equal(study):
    bench = study(STAIRCASE).bench()
    rows = bench.measure("full", NoCacheConfig())
    made = summary(rows)
    assert (made.psnr["full"], made.ssim["full"], made.computed) == (100, pytest.approx(1), 10)
    assert rows[0].full_seconds is not None
    twice = summary([replace(rows[0], seconds=1.0, full_seconds=3.0, decode_seconds=1.0)])
    assert (twice.loop_speedup, twice.speedup) == (3, 2)


def test_margins_are_those_of_the_t_distribution():
    assert margin([1.0, 3.0]) == pytest.approx(12.706, rel=1e-3)
    assert student(20) == pytest.approx(2.086, abs=2e-3)
    assert student(31) == pytest.approx(2.0395, abs=1e-3)
    assert margin([1.0]) == float("inf")


def test_numbers_that_json_lacks_become_none():
    assert finite({"a": [float("nan"), 1.0, ("x", float("inf"))]}) == {"a": [None, 1.0, ["x", None]]}
