"""What a comparison says, by figures that are written down here."""

from __future__ import annotations

import pytest

from eval.policies.report import (
    CACHE,
    PLAN,
    SOLVER,
    STEPS,
    TEACACHE,
    Comparison,
    Entry,
    comparison_text,
    curves,
    difference,
    long_rows,
)
from videosys.cache import NoCacheConfig, RunSpec
from videosys.calibration.calibrate import finite
from videosys.calibration.measure import CONVERGED, FULL, Measured, margin

SCOPE = RunSpec("m", "rflow", 30, 30, (2, 16, 16), 1.0, "0" * 16)


def entry(group, name, budget, quality, near=20.0, computed=None, right=1.0):
    """Of two prompts; near: against the converged run, where the second prompt is 2 dB better."""
    rows = [
        Measured(
            computed or budget, 5.0, 10.0, 1.0, {FULL: psnr, CONVERGED: near + 2 * i}, {}, {"all": right}
        )
        for i, psnr in enumerate(quality)
    ]
    return Entry(group, name, budget, rows, NoCacheConfig())


def made():
    full = entry("full run", "all steps", None, [100.0, 100.0], near=30.0, computed=30, right=0.5)
    return Comparison(
        SCOPE,
        (
            entry(STEPS, "steps", 10, [20.0, 22.0]),
            entry(SOLVER, "a solver", 10, [30.0, 30.0], near=33.0),
            entry(TEACACHE, "one", 10, [30.0, 36.0]),
            entry(TEACACHE, "other", 10, [31.0, 33.0]),
            entry(CACHE, "computes too much", 10, [90.0, 90.0], computed=12),
            entry(CACHE, "a cache", 10, [25.0, 25.0]),
            entry(PLAN, f"{FULL}: schedule", 10, [40.0, 44.0]),
            entry(PLAN, f"{CONVERGED}: a solver", 10, [30.0, 30.0], near=35.0),
            entry(CACHE, "PAB", None, [20.0, 20.0], computed=30),
        ),
        full,
    )


def test_the_best_of_a_group_keeps_to_the_budget():
    comparison = made()
    assert comparison.best(10, TEACACHE, FULL).name == "one"
    assert comparison.best(10, CACHE, FULL).name == "a cache"
    assert comparison.best(10, PLAN, CONVERGED).name == "converged: a solver"
    assert comparison.best(11, PLAN, FULL) is None


@pytest.mark.parametrize(
    ("budget", "computed", "kept"), [(10, 10.5, True), (10, 11, False), (160, 164, True)]
)
def test_an_online_policy_may_exceed_the_budget_by_little(budget, computed, kept):
    one = entry(TEACACHE, "one", budget, [30.0], computed=computed)
    assert (Comparison(SCOPE, (one,), one).best(budget, TEACACHE, FULL) is one) == kept


def test_a_difference_is_of_the_same_prompts():
    comparison = made()
    plan, rival = (comparison.best(10, group, FULL) for group in (PLAN, TEACACHE))
    assert difference(plan, rival, FULL) == (9.0, pytest.approx(margin([10.0, 8.0])))


def test_the_table_has_both_references():
    text = comparison_text(made())
    assert "2 held-out prompts" in text
    assert "The published full run is 31.0 ± 12.7 dB from the converged run." in text
    rivals = "21.0 | 30.0 | 33.0 | 25.0"
    figures = "**42.0 ± 25.4** | schedule | 9.0 ± 12.7 | 9.0 ± 12.7"
    assert f"| 10 | published | {rivals} | {figures} |" in text
    rivals = "21.0 | 34.0 | 21.0 | 21.0"
    figures = "**36.0 ± 12.7** | a solver | 15.0 ± 0.0 | 2.0 ± 0.0"
    assert f"| 10 | converged | {rivals} | {figures} |" in text
    assert "full runs 50%" in text
    assert "10 evaluations 100% (converged)" in text


def test_curves_and_long_rows_have_every_entrant():
    comparison = made()
    assert curves(comparison)["plan, published"] == [(10.0, 42.0)]
    assert curves(comparison)["solver, converged"] == [(10.0, 34.0)]
    rows = finite(long_rows(comparison))
    assert len(rows) == len(comparison.entries) + 1
    assert rows[0]["psnr"] == {FULL: 21.0, CONVERGED: 21.0}
    assert rows[0]["rows"][1]["psnr"] == {FULL: 22.0, CONVERGED: 22.0}
