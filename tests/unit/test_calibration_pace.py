"""What a setting is said to gain in speed: a line through all that was timed, not the luck of one run."""

from __future__ import annotations

import pytest

from videosys.cache import MagCacheConfig, Scope, TeaCacheConfig
from videosys.calibration.calibrate import Report, Row, distinct
from videosys.calibration.measure import Measured, pace, summary
from videosys.calibration.tables import policies_table

STEPS = 20
FULL_SECONDS, DECODE_SECONDS = 10.0, 2.0


def results(computed, psnr=30.0, slower=1.0):
    """A policy that computes so many of 20 steps of 0.5 s, and skips the others in 0.05 s each."""
    seconds = slower * (0.5 * computed + 0.05 * (STEPS - computed))
    row = Measured(computed, seconds, FULL_SECONDS, DECODE_SECONDS, {"full": psnr}, {"full": 0.9})
    return summary([row])


def row(threshold, computed, kind=TeaCacheConfig, **measured):
    policy = TeaCacheConfig(threshold) if kind is TeaCacheConfig else MagCacheConfig(threshold=threshold)
    return Row("a", computed, policy, results(computed, **measured))


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


class Study:
    """As much of a study as a report's file asks for."""

    learnt = held_out = ()
    config = type("Config", (), {"seed": 0})
    scope = Scope("m", "rflow", STEPS, STEPS, (2, 16, 16), 1.0, "0" * 16)
    ratios, num_steps = (1.0,) * STEPS, STEPS


def test_what_computes_the_same_is_said_to_be_as_fast():
    rows = (
        row(0.1, 10, slower=1.2, psnr=33.0),
        row(0.2, 10, psnr=31.0),
        row(0.3, 5),
    )
    report = Report(Study(), (), None, rows)
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
    report = Report(Study(), (), None, (same, other, *kept[1:]))
    made = report.calibration()
    assert len(made.settings) == len(made.details["psnr_margin"]) == 4
    assert len(made.details["measured_speedup"]) == 4
