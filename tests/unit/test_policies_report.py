"""What a comparison says, by figures that are written down here."""

from __future__ import annotations

import pytest

from eval.policies.report import (
    CALIBRATED,
    FULL,
    MANY,
    TEACACHE,
    Comparison,
    Entry,
    comparison_text,
    curves,
    gains,
    verdicts,
    work_at,
)
from videosys.cache import RunSpec
from videosys.calibration.measure import Measured, margin

SCOPE = RunSpec("m", "rflow", 30, 30, (2, 16, 16), 1.0, "0" * 16)
NAIVE_HOLD = "TeaCache naive, hold"


def measured(psnr, computed=10, seconds=5.0):
    """Against the run with many steps all is 20 dB, and the later prompts are better."""
    return Measured(
        computed, seconds, 10.0, 1.0, {FULL: psnr, MANY: 20.0 + psnr / 100}, {FULL: 0.9, MANY: 0.8}
    )


def entry(name, budget, quality, work=0.3, **more):
    return Entry(name, budget, [measured(value, **more) for value in quality], work)


def comparison(*entries, chosen=None):
    full = entry("all steps", None, [100.0, 100.0], work=1.0, computed=30, seconds=10.0)
    chosen = chosen or {one.budget: "searched, hold" for one in entries if one.budget is not None}
    found = {budget: {"scores": {"searched, hold": 12.3}, "quality": {}} for budget in chosen}
    return Comparison(SCOPE, entries, full, chosen, found)


def made():
    return comparison(
        entry(CALIBRATED, 10, [40.0, 44.0]),
        entry(TEACACHE, 10, [30.0, 36.0]),
        entry(NAIVE_HOLD, 10, [31.0, 33.0]),
        entry(CALIBRATED, 15, [50.0, 54.0], work=0.5),
        entry(TEACACHE, 15, [40.0, 44.0], work=0.5),
        entry(NAIVE_HOLD, 15, [43.0, 48.0], work=0.5),
    )


def test_gains_are_over_the_better_of_both_teacaches():
    first, second = gains(made())
    assert (first.budget, first.mean, first.rival) == (10, 9.0, "rescaled")
    assert first.margin == pytest.approx(margin([10.0, 8.0]))
    assert (second.budget, second.mean, second.rival) == (15, 6.5, "naive")
    assert second.margin == pytest.approx(margin([7.0, 6.0]))
    lines = list(verdicts(made()))
    assert lines[0] == "- 10 computed steps: 9.0 ± 12.7 dB above TeaCache that holds (rescaled)"
    assert lines[1] == "- 15 computed steps: 6.5 ± 6.4 dB above TeaCache that holds (naive)"


def falling():
    """The calibrated policies of three budgets, of which the second is worse than the first."""
    return [
        entry(CALIBRATED, budget, [quality], work=work)
        for budget, quality, work in ((6, 30.0, 0.2), (10, 25.0, 0.3), (15, 50.0, 0.5))
    ]


@pytest.mark.parametrize(
    ("psnr", "work"), [(20.0, 0.2), (29.9, 0.2), (35.0, 0.35), (40.0, 0.4), (50.0, 0.5), (50.1, None)]
)
def test_the_work_for_a_quality_lies_between_budgets(psnr, work):
    assert work_at(comparison(*falling()), psnr) == (work and pytest.approx(work))


def test_broadcasting_is_compared_at_its_quality():
    rows = falling()
    teacaches = [entry(name, one.budget, [20.0]) for one in rows for name in (TEACACHE, NAIVE_HOLD)]
    slow, fast = entry("PAB slow", None, [40.0], work=0.8), entry("PAB fast", None, [60.0], work=0.7)
    *_, first, second = verdicts(comparison(*rows, *teacaches, slow, fast))
    assert first == (
        "- PAB slow: 40.0 dB with 0.800 of the work; "
        "the calibrated policies reach this with 0.400, 2.00 times less"
    )
    assert second == ("- PAB fast: 60.0 dB with 0.700 of the work; no calibrated policy reaches this")


def test_curves_are_time_and_quality_against_the_full_run():
    some = [
        entry(CALIBRATED, 10, [40.0, 44.0]),
        entry(CALIBRATED, 15, [50.0, 54.0], seconds=8.0),
        entry("searched, hold", 10, [1.0, 1.0]),
        entry("PAB slow", None, [20.0, 20.0], seconds=4.0),
        entry("PAB fast", None, [10.0, 10.0], seconds=2.5),
    ]
    assert curves(comparison(*some), (CALIBRATED,)) == {
        CALIBRATED: [(pytest.approx(0.5), 42.0), (pytest.approx(0.8), 52.0)],
        "PAB": [(pytest.approx(0.4), 20.0), (pytest.approx(0.25), 10.0)],
    }


def test_the_table_has_both_references():
    text = comparison_text(made())
    assert "2 held-out prompts" in text
    assert (
        "| **calibrated** (searched, hold) | 10.0 | 0.300 | 2.00 | 42.0 ± 25.4 | 0.9000 | 20.4 ± 0.3 |"
        in text
    )
    assert "| all steps | 30.0 | 1.000 | 1.00 | - | 0.9000 | 21.0 ± 0.0 | 0.8000 |" in text
    assert "| searched, hold | 12.3 | 12.3 |" in text
