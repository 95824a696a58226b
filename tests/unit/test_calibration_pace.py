"""What a setting is said to gain in speed: a line through all that was timed, not the luck of one run."""

from __future__ import annotations

from dataclasses import replace

import pytest

import videosys.calibration.study as studies
from tests.synthetic import SyntheticConfig, SyntheticPipeline, opened
from videosys.cache import MagCacheConfig, RunSpec, ScheduleConfig, TeaCacheConfig
from videosys.calibration.calibrate import CalibrationReport, PolicyResult, calibrate, disagreements, distinct
from videosys.calibration.cost import CalibrationCost, calibration_cost
from videosys.calibration.measure import Measured, Pace, pace, summary
from videosys.calibration.study import Study
from videosys.calibration.tables import policies_table, predictions_text
from videosys.calibration.thresholds import TRIES

STEPS = 20
FULL_SECONDS, DECODE_SECONDS = 10.0, 2.0


@pytest.fixture
def study(tmp_path, monkeypatch):
    pipeline = SyntheticPipeline([5, 5, 2, 2, 2, 9, 9, 1, 1, 1])
    monkeypatch.setattr(studies, "open_pipeline", opened(pipeline))
    return Study(SyntheticConfig(), ["one", "three"], ["four 4"], tmp_path, quiet=True)


def results(computed, psnr=30.0, slower=1.0):
    """A policy that computes so many of 20 steps of 0.5 s, and skips the others in 0.05 s each."""
    seconds = slower * (0.5 * computed + 0.05 * (STEPS - computed))
    row = Measured(computed, seconds, FULL_SECONDS, DECODE_SECONDS, {"full": psnr}, {"full": 0.9})
    return summary([row])


def row(threshold, computed, kind=TeaCacheConfig, **measured):
    policy = TeaCacheConfig(threshold) if kind is TeaCacheConfig else MagCacheConfig(threshold=threshold)
    return PolicyResult("a", computed, policy, results(computed, **measured))


def test_the_pace_is_that_of_computed_and_skipped_steps():
    made = pace([results(10), results(5)], STEPS)
    assert made.skipped == pytest.approx(0.1)
    assert made.decode == pytest.approx(0.2)
    assert made.speedup(20) == pytest.approx(1)
    assert made.speedup(10) == pytest.approx(12 / 7.5)
    assert results(10).speedup == pytest.approx(12 / 7.5)


def test_one_slow_run_says_little():
    quiet = [results(computed) for computed in (4, 8, 8, 12, 16)]
    disturbed = pace([*quiet, results(8, slower=1.2)], STEPS)
    assert disturbed.speedup(8) == pytest.approx(results(8).speedup, rel=0.05)
    assert results(8, slower=1.2).speedup < 0.9 * results(8).speedup


def test_a_pace_keeps_to_what_can_be():
    assert pace([results(10, slower=0.1)], STEPS).skipped == 0
    assert pace([results(10, slower=9)], STEPS).skipped == 1
    assert pace([results(20)], STEPS).speedup(20) == pytest.approx(1)


class Told:
    """As much of a study as a report's file asks for."""

    learnt = held_out = ()
    config = type("Config", (), {"seed": 0})
    scope = RunSpec("m", "rflow", STEPS, STEPS, (2, 16, 16), 1.0, "0" * 16)
    ratios, sensitivities, num_steps = (1.0,) * STEPS, None, STEPS


def test_what_computes_the_same_is_said_to_be_as_fast():
    rows = (
        row(0.1, 10, slower=1.2, psnr=33.0),
        row(0.2, 10, psnr=31.0),
        row(0.3, 5),
    )
    report = CalibrationReport(Told(), (), None, rows)
    made = report.calibration()
    assert [item.speedup for item in made.settings] == [
        round(report.pace.speedup(computed), 2) for computed in (10, 10, 5)
    ]
    assert made.details["measured_speedup"] == [round(item.result.speedup, 4) for item in rows]
    assert made.details["measured_speedup"][0] < made.details["measured_speedup"][1]
    said = f"{report.pace.speedup(10):.2f}"
    timed = f"{rows[0].result.speedup:.2f}"
    assert f"| a, threshold 0.1 | 10.0 of 20 | {said} | {timed} |" in policies_table(rows, report.pace)


def test_what_does_the_same_is_kept_once():
    same, other = row(0.1, 10), row(0.12, 10, slower=1.1)
    kept = [same, row(0.1, 10, psnr=31.0), row(0.1, 9), row(0.3, 10, kind=MagCacheConfig)]
    assert distinct([same, other, *kept[1:]]) == kept
    report = CalibrationReport(Told(), (), None, (same, other, *kept[1:]))
    made = report.calibration()
    assert len(made.settings) == len(made.details["psnr_margin"]) == 4
    assert len(made.details["measured_speedup"]) == 4


def seconds_of(study, policies, **options):
    """(runs that computed all steps, seconds of the full runs as the policies have them)."""
    made = study.bench(**options)
    made.reference(0, "full")
    before = study.pipeline.model.computed
    rows = [made.measure("a", ScheduleConfig(computed=(0, step, 9)))[0] for step in range(1, policies + 1)]
    others = sum(row.computed for row in rows)
    return (study.pipeline.model.computed - before - others) / 10, [row.full_seconds for row in rows]


def test_one_timing_of_a_full_run_serves_some_policies(study):
    full, seconds = seconds_of(study, 5, shared=2)
    assert full == 3
    assert seconds[0] == seconds[1]
    assert seconds[2] == seconds[3]
    assert len(set(seconds)) == 3


def test_a_comparison_times_it_beside_each_policy(study):
    assert seconds_of(study, 3, shared=1)[0] == 3
    assert study.trial.timed == 0


def test_the_cost_is_no_less_than_what_a_calibration_takes(study, caplog):
    made = calibration_cost(study, [3, 5], 12)
    shares = 0.3 + 0.04 * 0.7 + 0.5 + 0.04 * 0.5
    assert made.learning == pytest.approx(1 + 2 * (1 + 20 * 0.04) + 12 * 1 + 2)
    assert made.search == 24
    assert made.thresholds == pytest.approx(TRIES * 2 * shares)
    assert made.measurement == pytest.approx(1 + 2 + 7 * shares)
    assert made.total == pytest.approx(made.learning + 24 + made.thresholds + made.measurement)
    assert CalibrationCost(1, 1, 0.5, 0.5).duration(1220) == "1 h 01 min"
    assert made.duration(0) == "0 h 01 min"
    with caplog.at_level("INFO"):
        calibrate(study, [3, 5], 12)
    assert study.pipeline.model.computed / 10 <= made.total
    search_record, timed, *_ = [record.getMessage() for record in caplog.records]
    assert search_record == str(made)
    assert search_record.startswith(f"at most {made.total:.0f} full runs: ")
    assert (
        timed == f"a full run takes {study.full_seconds:.3g} s; "
        f"the calibration takes {made.duration(study.full_seconds)} at most"
    )


def test_predictions_are_compared_with_what_was_measured():
    near, far = row(0.1, 10, psnr=33.0), row(0.2, 5, psnr=20.0)
    rows = [
        replace(near, name="near", predicted={"full": 32.0}),
        replace(far, name="far", predicted={"full": 25.5}),
    ]
    text = "\n".join(predictions_text(rows))
    assert (
        "measured minus predicted PSNR is -2.2 dB on average; the mean absolute difference is 3.2 dB" in text
    )
    assert f"| far | {far.budget} | full | 25.5 | 20.0 |" in text
    (line,) = disagreements(rows)
    assert line.startswith(f"far, {far.budget} evaluations: predicted 25.5 dB, measured 20.0 dB")
    assert f"- {line}" in text
    assert predictions_text([row(0.1, 10)]) == []


def test_the_time_of_another_number_of_steps():
    """Half of the steps, then those with as many skipped besides; the autoencoder takes half a loop."""
    times = Pace(20, skipped=0.1, decode=0.5)
    assert times.speedup(10, evaluations=10) == pytest.approx(1.5)
    assert times.speedup(10) == times.speedup(10, evaluations=20) == pytest.approx(1.5 / 1.05)
