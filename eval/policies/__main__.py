"""Compares caches at equal work: `python -m eval.policies --model opensora --out FOLDER`.

Polynomial, thresholds and schedules are learnt from some prompts and measured on others: fewer steps,
interval, PAB, TeaCache, MagCache, and schedules by dynamic programming and by search. Prints a Markdown
table, and writes it with a plot, all figures and the calibration to the folder. Started again after an
interruption it continues, also with more held-out prompts.
"""

from __future__ import annotations

from videosys import leave_at_interrupt

if __name__ == "__main__":
    leave_at_interrupt()

import argparse
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from eval.policies.contest import Contest
from eval.policies.report import CALIBRATED, MANY, TEACACHE, Comparison, Entry, comparison_text, curves
from eval.policies.work import Work
from eval.training.captions import caption
from eval.training.scored import scored, training_spec
from videosys import (
    CommandParser,
    NoCacheConfig,
    check_matplotlib,
    configure_logging,
    replacing,
    resolve,
    run_command,
    tiny,
)
from videosys.calibration import (
    CalibrationReport,
    Study,
    check_place,
    check_search,
    finite,
    line_axes,
    save_figure,
    write_report,
)

PREFIX = "tiny/"  # of names until now, still taken
CALIBRATION = "calibration.json"
SHARES = (1 / 5, 1 / 3, 1 / 2, 2 / 3)  # computed, of all steps
MANY_TIMES = 4  # as many steps has the run that stands for the exact one
MOST_STEPS = 1000
LONG, FEWER_HELD_OUT = 100, 12  # steps of a generation, from which fewer prompts have to do
SHOWN = ("fewer steps", "fewer steps, cosine", "interval, hold", TEACACHE, "schedule, hold", CALIBRATED)


@dataclass(frozen=True)
class ComparisonSettings:
    """The size of a comparison.

    search: full runs of one prompt for each budget, shared by the search_size prompts of the search.
    """

    learnt: int = 8
    held_out: int = 32
    search: float = 200.0
    search_size: int = 6
    steps: int | None = None


QUICK = ComparisonSettings(learnt=2, held_out=1, search=4.0, search_size=1, steps=5)


def main(argv: Sequence[str] | None = None) -> int:
    """Compare; 2 where the arguments are wrong, 130 after an interruption."""
    return run_command(parser(), run, argv, "interrupted: run the same command again to continue")


def run(args: argparse.Namespace) -> int:
    """Compares, and writes and prints the report. ValueError for wrong arguments."""
    configure_logging(quiet=args.quiet)
    settings = read_settings(args)
    study = open_study(args.model, settings, args.out, args.quiet)
    comparison, report = compare(study, settings.search)
    text = comparison_text(comparison)
    write(comparison, text, args.out)
    write_report(report, args.out / CALIBRATION)
    if args.bundle:
        bundle(args.out / CALIBRATION, resolve(study.config.transformer))
    print(text)
    return 0


def parser() -> argparse.ArgumentParser:
    arguments = CommandParser(prog="python -m eval.policies", description=__doc__)
    arguments.add_argument("--model", required=True, help="a bundled checkpoint, such as opensora")
    arguments.add_argument("--out", type=Path, required=True, help="folder to write to")
    arguments.add_argument("--held-out", type=int, help="held-out prompts; default: 32, or 12 from 100 steps")
    arguments.add_argument("--search", type=float, help="maximum full runs of the search per budget (200)")
    arguments.add_argument(
        "--bundle", action="store_true", help="save the calibration next to the model's weights"
    )
    arguments.add_argument("--quick", action="store_true", help="few steps and prompts, as a smoke test")
    arguments.add_argument("--quiet", action="store_true", help="no progress bars")
    return arguments


def read_settings(args: argparse.Namespace) -> ComparisonSettings:
    """The settings of the arguments. ValueError for bad ones, and where matplotlib is not installed."""
    check_matplotlib()
    if args.quick and args.bundle:
        raise ValueError("--bundle cannot be combined with --quick, whose settings are not useful")
    is_long = checkpoint(args.model).steps >= LONG
    default = ComparisonSettings(held_out=FEWER_HELD_OUT if is_long else ComparisonSettings.held_out)
    settings = QUICK if args.quick else default
    most = len(scored())
    if args.held_out is not None and not 1 <= args.held_out <= most:
        raise ValueError(f"--held-out is {args.held_out}; it must be 1 to {most}")
    if args.search is not None:
        check_search(args.search)
    check_place(args.out, is_folder=True)
    return replace(
        settings, held_out=args.held_out or settings.held_out, search=args.search or settings.search
    )


def checkpoint(model: str, **changes: Any) -> Any:
    """The config of a bundled checkpoint. ValueError for a name that is not bundled."""
    return tiny.config(model.removeprefix(PREFIX), **changes)


def open_study(model: str, settings: ComparisonSettings, folder: Path, quiet: bool) -> Study:
    """The study of a bundled checkpoint, which learns from captions as in training."""
    changes = {} if settings.steps is None else {"num_inference_steps": settings.steps}
    config = checkpoint(model, batch_size=settings.search_size, **changes)
    rng = np.random.default_rng(0)
    learnt = [caption(training_spec(rng), rng) for _ in range(settings.learnt)]
    held_out = [text for text, _ in scored()[: settings.held_out]]
    return Study(config, learnt, held_out, folder / "work", settings.search_size, quiet)


def compare(study: Study, most_runs: float) -> tuple[Comparison, CalibrationReport]:
    """The comparison at all budgets, and what a calibration would have reported."""
    steps = study.num_steps
    budgets = sorted({max(round(share * steps), 2) for share in SHARES})
    many = min(MANY_TIMES * study.config.steps, MOST_STEPS)
    bench = study.bench({MANY: {"num_inference_steps": many}}, shared=1)
    contest = Contest(study, bench, Work(bench.clips[0], steps, study.journal), most_runs)
    for budget in budgets:
        contest.learn(budget)
    entries = [entry for budget in budgets for entry in contest.entries(budget)]
    entries += contest.broadcasts()
    full = Entry("all steps", None, bench.measure("all steps", NoCacheConfig()), 1.0)
    comparison = Comparison(study.scope, tuple(entries), full, contest.selection, contest.searches)
    return comparison, contest.report(entries)


def write(comparison: Comparison, text: str, folder: Path) -> None:
    """The table, the plot and all figures."""
    plot_quality(curves(comparison, SHOWN), folder / "quality.png")
    content = json.dumps(finite(asdict(comparison)), indent=1, allow_nan=False)
    for name, lines in (("comparison.md", text), ("comparison.json", content + "\n")):
        with replacing(folder / name) as temporary:
            temporary.write_text(lines, encoding="utf-8")


def plot_quality(points: Mapping[str, Sequence[tuple[float, float]]], path: Path) -> Path:
    """PSNR against the time of the loop, one curve per kind of policy (the TeaCache paper's figure 1)."""
    axes = line_axes("Quality against time", "time of the loop, share of the full run's", "PSNR in dB")
    for name, pairs in points.items():
        axes.plot(*zip(*sorted(pairs)), marker="o", label=name)
    return save_figure(axes, path)


def bundle(calibration: Path, folder: Path) -> None:
    """Copies a calibration to the folder of a model's weights."""
    with replacing(folder / CALIBRATION) as temporary:
        shutil.copyfile(calibration, temporary)


if __name__ == "__main__":
    sys.exit(main())
