"""The report of a comparison as Markdown, and the gains of the calibrated policies that it states."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from videosys import CacheConfig
from videosys.calibration import FULL, Measured, RunSpec, margin, markdown_table, summary, with_margin

MANY = "many"  # the name of the run with several times more steps
TEACACHE = "TeaCache, hold"
HOLDS = {TEACACHE: "rescaled", "TeaCache naive, hold": "naive"}  # the published rule in both variants
CALIBRATED = "calibrated"
PAB = "PAB"


@dataclass(frozen=True)
class Entry:
    """What a policy gave on each held-out prompt. budget: computed steps meant, None for what has no choice.

    work: operations, as a share of the full run's. policy: None if there is no cache policy.
    """

    name: str
    budget: int | None
    rows: list[Measured]
    work: float
    policy: CacheConfig | None = None

    def psnr(self, reference: str = FULL) -> float:
        return statistics.fmean(row.psnr[reference] for row in self.rows)


@dataclass(frozen=True)
class Comparison:
    """All entries of a model. full: its full runs. selection, searches: as in `Contest`."""

    scope: RunSpec
    entries: tuple[Entry, ...]
    full: Entry
    selection: dict[int, str] = field(default_factory=dict)
    searches: dict[int, dict[str, Any]] = field(default_factory=dict)

    def entry(self, name: str, budget: int) -> Entry:
        return next(one for one in self.entries if (one.name, one.budget) == (name, budget))

    @property
    def budgets(self) -> list[int]:
        return sorted({one.budget for one in self.entries if one.budget is not None})


@dataclass(frozen=True)
class Gain:
    """What the calibrated policy has above TeaCache at a budget, in dB: mean over prompts, and margin.

    rival: the variant of TeaCache, which is the better one there.
    """

    budget: int
    mean: float
    margin: float
    rival: str


def gains(comparison: Comparison) -> list[Gain]:
    """The calibrated policy against TeaCache that holds, with the same prompts."""
    rows = []
    for budget in comparison.budgets:
        rival = max((comparison.entry(name, budget) for name in HOLDS), key=lambda one: one.psnr())
        pairs = zip(comparison.entry(CALIBRATED, budget).rows, rival.rows)
        differences = [ours.psnr[FULL] - theirs.psnr[FULL] for ours, theirs in pairs]
        rows.append(Gain(budget, statistics.fmean(differences), margin(differences), HOLDS[rival.name]))
    return rows


def work_at(comparison: Comparison, psnr: float) -> float | None:
    """The share of the work with which the calibrated policies reach a PSNR, between budgets by a line.

    None where none does; the work of the smallest budget where that one does already.
    """
    points = sorted((comparison.entry(CALIBRATED, budget).work, budget) for budget in comparison.budgets)
    works = [work for work, _ in points]
    quality = [comparison.entry(CALIBRATED, budget).psnr() for _, budget in points]
    if psnr > max(quality):
        return None
    rising = np.maximum.accumulate(quality)
    return float(np.interp(psnr, rising, works))


def comparison_text(comparison: Comparison) -> str:
    """The comparison in Markdown."""
    scope, full = comparison.scope, comparison.full
    rows = [_row(one, comparison) for one in (*comparison.entries, full)]
    count = len(full.rows)
    return "\n".join(
        (
            f"# {scope.model}: {scope.evaluations} evaluations of {scope.scheduler}",
            "",
            f"{count} held-out prompts.",
            "",
            "PSNR (dB) with its 95 % confidence interval, and SSIM, against the full run and against a run "
            "of four times more steps; work in operations of the loop, speed-up of the loop as measured.",
            "",
            markdown_table(
                ("policy", "computed", "work", "speed-up", "PSNR", "SSIM", "PSNR, many steps", "SSIM, many"),
                rows,
            ),
            "",
            *verdicts(comparison),
            "",
            "Results on the prompts of the search: dB of the final latents against the full runs.",
            "",
            candidates_table(comparison, "scores"),
            "",
            "PSNR of the frames, for the three nearest of these and for the rules that keep to the budget. "
            "The highest of each column is the calibrated policy.",
            "",
            candidates_table(comparison, "quality"),
            "",
        )
    )


def _row(one: Entry, comparison: Comparison) -> tuple[str, ...]:
    result = summary(one.rows)
    cells = [with_margin(result.psnr[name], result.psnr_margin[name]) for name in (FULL, MANY)]
    if one is comparison.full:
        cells[0] = "-"
    name = one.name
    if one.name == CALIBRATED and one.budget is not None:
        name = f"**{CALIBRATED}** ({comparison.selection[one.budget]})"
    return (
        name,
        f"{result.computed:.1f}",
        f"{one.work:.3f}",
        f"{result.loop_speedup:.2f}",
        cells[0],
        f"{result.ssim[FULL]:.4f}",
        cells[1],
        f"{result.ssim[MANY]:.4f}",
    )


def candidates_table(comparison: Comparison, kind: str) -> str:
    """The table of `scores` or `quality` of the candidates on the prompts of the search."""
    columns = {budget: record[kind] for budget, record in sorted(comparison.searches.items())}
    names = list(dict.fromkeys(name for column in columns.values() for name in column))
    rows = [
        (name, *(f"{column[name]:.1f}" if name in column else "-" for column in columns.values()))
        for name in names
    ]
    return markdown_table(("policy", *(f"{budget} computed" for budget in columns)), rows)


def verdicts(comparison: Comparison) -> Iterator[str]:
    """Lines on the calibrated policies: their gain over TeaCache, and their work for the quality of PAB."""
    for gain in gains(comparison):
        difference = with_margin(gain.mean, gain.margin)
        yield f"- {gain.budget} computed steps: {difference} dB above TeaCache that holds ({gain.rival})"
    for one in comparison.entries:
        if one.name.startswith(PAB):
            figures = f"{one.psnr():.1f} dB with {one.work:.3f} of the work"
            yield f"- {one.name}: {figures}; {_against(one, comparison)}"


def _against(one: Entry, comparison: Comparison) -> str:
    work = work_at(comparison, one.psnr())
    if work is None:
        return "no calibrated policy reaches this"
    return f"the calibrated policies reach this with {work:.3f}, {one.work / work:.2f} times less"


def curves(comparison: Comparison, names: Sequence[str]) -> dict[str, list[tuple[float, float]]]:
    """Time of the loop as a share of the full run's, and PSNR, of some policies, by name, for a plot.

    Each speed-up is taken beside full runs, so shares compare where seconds of different hours do not.
    """
    points: dict[str, list[tuple[float, float]]] = {}
    for one in comparison.entries:
        if one.name in names or one.name.startswith(PAB):
            name = PAB if one.name.startswith(PAB) else one.name
            points.setdefault(name, []).append((1 / summary(one.rows).loop_speedup, one.psnr()))
    return points
