"""The report of a comparison: a short table with the best of each group, and the curves of a plot."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from videosys import CacheConfig
from videosys.calibration import CONVERGED, FULL, Measured, RunSpec, margin, markdown_table, with_margin

STEPS, SOLVER, TEACACHE, CACHE, FORECAST, PLAN = (
    "fewer steps",
    "solver",
    "TeaCache",
    "other cache",
    "schedule",
    "plan",
)
RIVALS = (STEPS, SOLVER, TEACACHE, CACHE)
OVER = 0.5  # evaluations by which an online policy may exceed the budget
OVER_SHARE = 0.025  # the same as a share of the budget; the larger of both is allowed
REFERENCES = {FULL: "published", CONVERGED: "converged"}


@dataclass(frozen=True)
class Entry:
    """An entrant's results per held-out prompt. budget: target number of evaluations, None if it is fixed.

    group: one of the groups above. sampler: overrides of the config's sampler.
    """

    group: str
    name: str
    budget: int | None
    rows: list[Measured]
    policy: CacheConfig | None = None
    sampler: Mapping[str, Any] = field(default_factory=dict)

    def psnr(self, reference: str) -> float:
        return statistics.fmean(row.psnr[reference] for row in self.rows)

    @property
    def computed(self) -> float:
        return statistics.fmean(row.computed for row in self.rows)

    def right(self) -> float | None:
        """The share of prompts whose attributes are all shown; None if they were not scored."""
        shares = [row.scores["all"] for row in self.rows if "all" in row.scores]
        return statistics.fmean(shares) if shares else None


@dataclass(frozen=True)
class Comparison:
    """All entries of a model. full: the entry of its full runs."""

    scope: RunSpec
    entries: tuple[Entry, ...]
    full: Entry

    @property
    def budgets(self) -> list[int]:
        return sorted({one.budget for one in self.entries if one.budget is not None})

    def best(self, budget: int, group: str, reference: str) -> Entry | None:
        """The entry of a group that keeps the budget and is closest to a reference; of plans, the chosen
        one.
        """
        fitting = [one for one in self.entries if (one.group, one.budget) == (group, budget)]
        if group == PLAN:
            fitting = [one for one in fitting if one.name.startswith(f"{reference}: ")]
        fitting = [one for one in fitting if one.computed <= budget + max(OVER, OVER_SHARE * budget)]
        return max(fitting, key=lambda one: one.psnr(reference), default=None)


def difference(ours: Entry, theirs: Entry, reference: str) -> tuple[float, float]:
    """(mean difference in dB over the same prompts, margin); positive if `ours` is closer."""
    pairs = zip(ours.rows, theirs.rows)
    differences = [one.psnr[reference] - other.psnr[reference] for one, other in pairs]
    return statistics.fmean(differences), margin(differences)


def comparison_text(comparison: Comparison) -> str:
    """The comparison in Markdown."""
    scope, count = comparison.scope, len(comparison.full.rows)
    psnr = [row.psnr[CONVERGED] for row in comparison.full.rows]
    lines = (
        f"## {scope.model}: {scope.evaluations} evaluations of {scope.scheduler}",
        f"{count} held-out prompts. PSNR in dB with 95 % confidence intervals. The published full run is "
        f"{with_margin(statistics.fmean(psnr), margin(psnr))} dB from the converged run.",
        short_table(comparison),
        rights(comparison),
    )
    return "\n\n".join(line for line in lines if line) + "\n"


def short_table(comparison: Comparison) -> str:
    """The best entry of each group, per number of evaluations and reference."""
    header = ("evaluations", "near to", *RIVALS, PLAN, "which is", "over TeaCache", "over the best rival")
    rows = [
        row
        for budget in comparison.budgets
        for reference in REFERENCES
        for row in _rows(comparison, budget, reference)
    ]
    return markdown_table(header, rows)


def _rows(comparison: Comparison, budget: int, reference: str) -> Iterator[tuple[str, ...]]:
    found = {group: comparison.best(budget, group, reference) for group in (*RIVALS, PLAN, FORECAST)}
    plan = found[PLAN] or found[FORECAST]
    if plan is None:
        return
    rivals = [one for group in RIVALS if (one := found[group]) is not None]
    best = max(rivals, key=lambda one: one.psnr(reference), default=None)
    cells = ("-" if one is None else f"{one.psnr(reference):.1f}" for one in (found[name] for name in RIVALS))
    psnr = [row.psnr[reference] for row in plan.rows]
    over = (
        "-" if one is None else with_margin(*difference(plan, one, reference))
        for one in (found[TEACACHE], best)
    )
    name = plan.name.removeprefix(f"{reference}: ")
    figures = with_margin(statistics.fmean(psnr), margin(psnr))
    yield (str(budget), REFERENCES[reference], *cells, f"**{figures}**", name, *over)


def rights(comparison: Comparison) -> str:
    """A line on the share of videos that show all of the prompt."""
    full = comparison.full.right()
    if full is None:
        return ""
    parts = [
        f"{budget} evaluations {one.right():.0%} ({REFERENCES[reference]})"
        for budget in comparison.budgets
        for reference in REFERENCES
        if (one := comparison.best(budget, PLAN, reference)) is not None and one.right() is not None
    ]
    plans = ", ".join(parts)
    return f"Videos that show all of the prompt: full runs {full:.0%}; plans: {plans}."


def curves(comparison: Comparison) -> dict[str, list[tuple[float, float]]]:
    """Curves for a plot: (evaluations, PSNR) of the best of each group against both references, by name."""
    points: dict[str, list[tuple[float, float]]] = {}
    places = itertools.product(REFERENCES.items(), (STEPS, SOLVER, TEACACHE, CACHE, PLAN), comparison.budgets)
    for (reference, words), group, budget in places:
        one = comparison.best(budget, group, reference)
        if one is not None and math.isfinite(one.psnr(reference)):
            points.setdefault(f"{group}, {words}", []).append((one.computed, one.psnr(reference)))
    return points


def long_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """All entries as plain values: means, margins and figures per prompt."""
    return [
        {
            "group": one.group,
            "name": one.name,
            "budget": one.budget,
            "computed": one.computed,
            "right": one.right(),
            "psnr": {name: one.psnr(name) for name in REFERENCES},
            "margin": {name: margin([row.psnr[name] for row in one.rows]) for name in REFERENCES},
            "rows": [{"computed": row.computed, "psnr": row.psnr, "scores": row.scores} for row in one.rows],
            "policy": one.policy,
            "sampler": one.sampler,
        }
        for one in (*comparison.entries, comparison.full)
    ]
