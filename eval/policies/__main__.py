"""Compares caches, solvers and plans at equal work: `python -m eval.policies --model opensora --out FOLDER`.

Thresholds, schedules and plans are calibrated on four prompts and measured on others, against the full run of
the published sampler and against a converged run. The comparison includes fewer steps, other solvers and
grids, caches without and with forecasts, PAB, and the plan chosen from the recorded runs. Prints a short
Markdown table, and writes the table, a plot, all figures (JSON) and a calibration to the folder. After an
interruption, the same command resumes; the number of held-out prompts may be increased.
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
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eval.policies.contest import Contest
from eval.policies.report import Comparison, Entry, comparison_text, curves, long_rows
from eval.training.captions import caption
from eval.training.detect import detect
from eval.training.recipes import RECIPES
from eval.training.score import verdicts
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
    CONVERGED,
    Study,
    Trials,
    calibrate,
    check_place,
    check_search,
    converged,
    finite,
    line_axes,
    save_figure,
    write_report,
)

PREFIX = "tiny/"  # optional prefix of model names, for compatibility
CALIBRATION = "calibration.json"
SHARES = (1 / 5, 1 / 3, 1 / 2, 2 / 3)  # computed share of all evaluations
CONVERGED_STEPS = 400
UNTIMED = 1000  # number of entrants that share one timing of a full run
LONG, FEWER_HELD_OUT = 100, 16  # from this number of steps, use fewer held-out prompts


@dataclass(frozen=True)
class ComparisonSettings:
    """The size of a comparison. search: maximum number of full runs of a search per budget."""

    learnt: int = 4
    held_out: int = 32
    search: float = 0.0
    steps: int | None = None
    converged: int = CONVERGED_STEPS


QUICK = ComparisonSettings(learnt=2, held_out=1, steps=5, converged=12)


def main(argv: Sequence[str] | None = None) -> int:
    """Compare. Exit status: 2 for wrong arguments, 130 after an interruption."""
    return run_command(parser(), run, argv, "interrupted: run the same command again to continue")


def run(args: argparse.Namespace) -> int:
    """Run the comparison, write the report and print it. ValueError for wrong arguments."""
    configure_logging(quiet=args.quiet)
    settings = read_settings(args)
    study = open_study(args.model, settings, args.out, args.quiet)
    comparison = compare(study, settings, RECIPES[args.model.removeprefix(PREFIX)].stride)
    text = comparison_text(comparison)
    write(comparison, text, args.out)
    if args.bundle:
        report = calibrate(study, budgets_of(study), settings.search, exact_of(study, settings))
        write_report(report, args.out / CALIBRATION)
        bundle(args.out / CALIBRATION, resolve(study.config.transformer))
    print(text)
    return 0


def parser() -> argparse.ArgumentParser:
    arguments = CommandParser(prog="python -m eval.policies", description=__doc__)
    arguments.add_argument("--model", required=True, help="a bundled checkpoint, such as opensora")
    arguments.add_argument("--out", type=Path, required=True, help="output folder")
    arguments.add_argument(
        "--held-out", type=int, help="number of held-out prompts; default: 32, or 16 from 100 steps on"
    )
    arguments.add_argument(
        "--search", type=float, help="maximum number of full runs of a search per budget; default: no search"
    )
    arguments.add_argument(
        "--bundle", action="store_true", help="copy the calibration next to the model's weights"
    )
    arguments.add_argument("--quick", action="store_true", help="few steps and prompts, for a quick test")
    arguments.add_argument("--quiet", action="store_true", help="no progress bars")
    return arguments


def read_settings(args: argparse.Namespace) -> ComparisonSettings:
    """The settings of the arguments. ValueError for invalid ones, or if matplotlib is not installed."""
    check_matplotlib()
    if args.quick and args.bundle:
        raise ValueError(
            "--bundle cannot be combined with --quick, because a quick calibration is too inaccurate to keep"
        )
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
    """The study of a bundled checkpoint. Its calibration prompts are like the training captions."""
    changes = {} if settings.steps is None else {"num_inference_steps": settings.steps}
    config = checkpoint(model, **changes)
    rng = np.random.default_rng(0)
    learnt = [caption(training_spec(rng), rng) for _ in range(settings.learnt)]
    held_out = [text for text, _ in scored()[: settings.held_out]]
    return Study(config, learnt, held_out, folder / "work", settings.learnt, quiet)


def budgets_of(study: Study) -> list[int]:
    """The numbers of evaluations that are compared."""
    return sorted({max(round(share * study.num_steps), 2) for share in SHARES})


def compare(study: Study, settings: ComparisonSettings, stride: int) -> Comparison:
    """Compare at all numbers of evaluations. stride: see `shown`."""
    bench = study.bench({CONVERGED: exact_of(study, settings)}, shared=UNTIMED)
    bench.judge = partial(shown, stride=stride)
    # As accurate as the runs of the held-out prompts, or trials do not rank the plans closest to them.
    trials = Trials(study, len(study.learnt), settings.converged)
    contest = Contest(study, settings.search, trials)
    entries = [entry for budget in budgets_of(study) for entry in contest.entries(bench, budget)]
    entries += contest.broadcasts(bench)
    full = Entry("full run", "all steps", None, bench.measure("all steps", NoCacheConfig()))
    return Comparison(study.scope, tuple(entries), full)


def exact_of(study: Study, settings: ComparisonSettings) -> dict[str, Any]:
    """The config overrides of the converged run."""
    return {**converged(study.config), "num_inference_steps": settings.converged}


def shown(prompt: str, frames: torch.Tensor, stride: int) -> dict[str, float]:
    """Score frames [T, H, W, 3] in [0, 1], every `stride`-th one of a clip, against a caption: per attribute,
    1 if the detector confirms it, else 0.
    """
    spec = dict(scored())[prompt]
    right = verdicts(spec, detect((frames * 255).round().to(torch.uint8), stride))
    return {name: float(value) for name, value in right.items()}


def write(comparison: Comparison, text: str, folder: Path) -> None:
    """Write the table, the plot and all figures."""
    plot_quality(curves(comparison), folder / "quality.png")
    content = {"scope": asdict(comparison.scope), "entries": long_rows(comparison)}
    lines = json.dumps(finite(content), allow_nan=False)
    for name, text_of in (("comparison.md", text), ("comparison.json", lines + "\n")):
        with replacing(folder / name) as temporary:
            temporary.write_text(text_of, encoding="utf-8")


def plot_quality(points: Mapping[str, Sequence[tuple[float, float]]], path: Path) -> Path:
    """Plot PSNR against the number of evaluations, with one curve per group and reference."""
    axes = line_axes("Quality against work", "computed evaluations", "PSNR in dB")
    for name, pairs in points.items():
        style = "--" if name.endswith(CONVERGED) else "-"
        axes.plot(*zip(*sorted(pairs)), style, marker="o", label=name)
    return save_figure(axes, path)


def bundle(calibration: Path, folder: Path) -> None:
    """Copy a calibration to the folder of a model's weights."""
    with replacing(folder / CALIBRATION) as temporary:
        shutil.copyfile(calibration, temporary)


if __name__ == "__main__":
    sys.exit(main())
