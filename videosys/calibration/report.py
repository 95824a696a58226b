"""A comparison in words: one table, and whether the schedules keep what is claimed of them."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from videosys.cache import CacheConfig, RunSpec
from videosys.calibration.measure import FULL, Measured, margin, summary
from videosys.calibration.tables import markdown, with_margin

MANY = "many"  # the name of the run with several times more steps
TEACACHE = "TeaCache, hold"
HOLDS = {TEACACHE: "rescaled", "TeaCache naive, hold": "naive"}  # the published rule in both variants
CALIBRATED = "calibrated"
PAB = "PAB"


@dataclass(frozen=True)
class Entry:
    """What a policy gave on each held-out prompt. budget: computed steps meant, None for what has no choice.

    work: operations, as a share of the full run's. policy: None for what is no policy of a cache.
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
    """All entries of a model. full: its full runs. chosen, found: as in `Contest`."""

    scope: RunSpec
    entries: tuple[Entry, ...]
    full: Entry
    chosen: dict[int, str] = field(default_factory=dict)
    found: dict[int, dict[str, Any]] = field(default_factory=dict)

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


def gains(made: Comparison) -> list[Gain]:
    """The calibrated policy against TeaCache that holds, with the same prompts."""
    result = []
    for budget in made.budgets:
        rival = max((made.entry(name, budget) for name in HOLDS), key=lambda one: one.psnr())
        pairs = zip(made.entry(CALIBRATED, budget).rows, rival.rows)
        differences = [ours.psnr[FULL] - theirs.psnr[FULL] for ours, theirs in pairs]
        result.append(Gain(budget, statistics.fmean(differences), margin(differences), HOLDS[rival.name]))
    return result


def work_at(made: Comparison, psnr: float) -> float | None:
    """The share of the work with which the calibrated policies reach a PSNR, between budgets by a line.

    None where none does; the work of the smallest budget where that one does already.
    """
    points = sorted((made.entry(CALIBRATED, budget).work, budget) for budget in made.budgets)
    works = [work for work, _ in points]
    quality = [made.entry(CALIBRATED, budget).psnr() for _, budget in points]
    if psnr > max(quality):
        return None
    rising = np.maximum.accumulate(quality)
    return float(np.interp(psnr, rising, works))


def comparison_text(made: Comparison) -> str:
    """The comparison in Markdown."""
    scope, full = made.scope, made.full
    rows = [_row(one, made) for one in (*made.entries, full)]
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
            markdown(
                ("policy", "computed", "work", "speed-up", "PSNR", "SSIM", "PSNR, many steps", "SSIM, many"),
                rows,
            ),
            "",
            *verdicts(made),
            "",
            "What was tried on the prompts of the search: dB of the final latents against the full runs.",
            "",
            tried(made, "scores"),
            "",
            "PSNR of the frames, for the three nearest of these and for the rules that keep to the budget. "
            "The highest of each column is the calibrated policy.",
            "",
            tried(made, "quality"),
            "",
        )
    )


def _row(one: Entry, made: Comparison) -> tuple[str, ...]:
    result = summary(one.rows)
    cells = [with_margin(result.psnr[name], result.psnr_margin[name]) for name in (FULL, MANY)]
    if one is made.full:
        cells[0] = "-"
    name = one.name
    if one.name == CALIBRATED and one.budget is not None:
        name = f"**{CALIBRATED}** ({made.chosen[one.budget]})"
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


def tried(made: Comparison, kind: str) -> str:
    """A table of what was found on the prompts of the search: `scores` or `quality`."""
    columns = {budget: found[kind] for budget, found in sorted(made.found.items())}
    names = list(dict.fromkeys(name for column in columns.values() for name in column))
    rows = [
        (name, *(f"{column[name]:.1f}" if name in column else "-" for column in columns.values()))
        for name in names
    ]
    return markdown(("policy", *(f"{budget} computed" for budget in columns)), rows)


def verdicts(made: Comparison) -> Iterator[str]:
    """What the table says about the calibrated policies, one line each."""
    for gain in gains(made):
        difference = with_margin(gain.mean, gain.margin)
        yield f"- {gain.budget} computed steps: {difference} dB above TeaCache that holds ({gain.rival})"
    for one in made.entries:
        if one.name.startswith(PAB):
            yield f"- {one.name}: {one.psnr():.1f} dB with {one.work:.3f} of the work; {_against(one, made)}"


def _against(one: Entry, made: Comparison) -> str:
    work = work_at(made, one.psnr())
    if work is None:
        return "no calibrated policy measured here reaches that"
    return f"the calibrated policies reach that with {work:.3f}, {one.work / work:.2f} times less"


def curves(made: Comparison, names: Sequence[str]) -> dict[str, list[tuple[float, float]]]:
    """Time of the loop as a share of the full run's, and PSNR, of some policies, by name, for a plot.

    Each speed-up is taken beside full runs, so shares compare where seconds of different hours do not.
    """
    chosen: dict[str, list[tuple[float, float]]] = {}
    for one in made.entries:
        if one.name in names or one.name.startswith(PAB):
            name = PAB if one.name.startswith(PAB) else one.name
            chosen.setdefault(name, []).append((1 / summary(one.rows).loop_speedup, one.psnr()))
    return chosen
