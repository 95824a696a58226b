"""Compares caches at equal work: `python -m videosys.calibration.compare --model tiny/opensora --out FOLDER`.

All is learnt from some prompts (polynomial, thresholds, schedules, and which of them to take) and measured on
others: fewer steps, interval, PAB, TeaCache, schedules by dynamic programming, and schedules searched on true
errors. Prints a Markdown table, and writes it with a plot, all figures and the calibration to the folder.
Started again after an interruption it goes on where it stopped, also with more prompts to judge on.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from videosys import tiny
from videosys.cache import NoCacheConfig, calibration_text
from videosys.calibration.calibrate import Report, finite
from videosys.calibration.contest import Contest
from videosys.calibration.output import check_place, check_search, write_report
from videosys.calibration.plot import plot_quality
from videosys.calibration.report import (
    CALIBRATED,
    MANY,
    TEACACHE,
    Comparison,
    Entry,
    comparison_text,
    curves,
)
from videosys.calibration.study import Study
from videosys.calibration.work import Work
from videosys.tiny.captions import caption
from videosys.tiny.scored import scored, training_spec
from videosys.utils.files import write_text
from videosys.utils.hub import resolve
from videosys.utils.logging import configure_logging

PREFIX = "tiny/"
CALIBRATION = "calibration.json"
SHARES = (1 / 5, 1 / 3, 1 / 2, 2 / 3)  # computed, of all steps
MANY_TIMES = 4  # as many steps has the run that stands for the exact one
MOST_STEPS = 1000
SHOWN = ("fewer steps", "fewer steps, cosine", "interval, hold", TEACACHE, "schedule, hold", CALIBRATED)


@dataclass(frozen=True)
class Plan:
    """How much is done. search: full runs for each budget, of which search_size prompts take a share each."""

    learnt: int = 8
    held_out: int = 32
    search: float = 200.0
    search_size: int = 6
    steps: int | None = None


QUICK = Plan(learnt=2, held_out=1, search=4.0, search_size=1, steps=5)


def main(argv: Sequence[str] | None = None) -> int:
    """Compare; 2 where the arguments are wrong, 130 after an interruption."""
    args = parser().parse_args(argv)
    configure_logging(quiet=args.quiet)
    try:
        plan = planned(args)
        made, report = compare(opened(args.model, plan, args.out, args.quiet), plan.search)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from here", file=sys.stderr)
        return 130
    text = comparison_text(made)
    write(made, text, args.out)
    write_report(report, args.out / CALIBRATION)
    if args.bundle:
        place = resolve(report.study.config.transformer) / CALIBRATION
        write_text(place, calibration_text(report.calibration()))
    print(text)
    return 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m videosys.calibration.compare", description=__doc__)
    made.add_argument("--model", required=True, help="a bundled checkpoint, such as tiny/opensora")
    made.add_argument("--out", type=Path, required=True, help="folder to write to")
    made.add_argument("--held-out", type=int, help="prompts to judge on: 32, or 12 for the Plans")
    made.add_argument("--search", type=float, help="full runs the search may take per budget: 200")
    made.add_argument("--bundle", action="store_true", help="put the calibration beside the model's weights")
    made.add_argument("--quick", action="store_true", help="few steps and prompts, to see that it works")
    made.add_argument("--quiet", action="store_true", help="no progress bars")
    return made


def planned(args: argparse.Namespace) -> Plan:
    """The plan of some arguments. ValueError for numbers that mean nothing."""
    if args.quick and args.bundle:
        raise ValueError("--bundle is given, and so is --quick, whose settings are no good; leave one out")
    plan = QUICK if args.quick else Plan(held_out=12 if "plan" in args.model else Plan.held_out)
    most = len(scored())
    if args.held_out is not None and not 1 <= args.held_out <= most:
        raise ValueError(f"--held-out is {args.held_out}; it must be 1 to {most}")
    if args.search is not None:
        check_search(args.search)
    check_place(args.out, is_folder=True)
    return replace(plan, held_out=args.held_out or plan.held_out, search=args.search or plan.search)


def opened(model: str, plan: Plan, folder: Path, quiet: bool) -> Study:
    """The study of a bundled checkpoint, which learns from captions as in training."""
    if not model.startswith(PREFIX):
        raise ValueError(f"--model is {model!r}; it must begin with {PREFIX}")
    changes = {} if plan.steps is None else {"num_inference_steps": plan.steps}
    config = tiny.config(model.removeprefix(PREFIX), batch_size=plan.search_size, **changes)
    rng = np.random.default_rng(0)
    learnt = [caption(training_spec(rng), rng) for _ in range(plan.learnt)]
    held_out = [text for text, _ in scored()[: plan.held_out]]
    return Study(config, learnt, held_out, folder / "work", plan.search_size, quiet)


def compare(study: Study, most_runs: float) -> tuple[Comparison, Report]:
    """The comparison at all budgets, and what a calibration would have reported."""
    steps = study.num_steps
    budgets = sorted({max(round(share * steps), 2) for share in SHARES})
    many = min(MANY_TIMES * study.config.steps, MOST_STEPS)
    bench = study.bench({MANY: {"num_inference_steps": many}}, shared=1)
    contest = Contest(study, bench, Work(bench.clips[0], steps, study.journal), most_runs)
    for budget in budgets:
        contest.learn(budget)
    entries = [one for budget in budgets for one in contest.at(budget)]
    entries += contest.broadcasts()
    full = Entry("all steps", None, bench.measure("all steps", NoCacheConfig()), 1.0)
    made = Comparison(study.scope, tuple(entries), full, contest.chosen, contest.found)
    return made, contest.report(entries)


def write(made: Comparison, text: str, folder: Path) -> None:
    """The table, the plot (the paper's figure 1) and all figures."""
    plot_quality(curves(made, SHOWN), "time of the loop, share of the full run's", folder / "quality.png")
    write_text(folder / "comparison.md", text)
    content = json.dumps(finite(asdict(made)), indent=1, allow_nan=False)
    write_text(folder / "comparison.json", content + "\n")


if __name__ == "__main__":
    sys.exit(main())
