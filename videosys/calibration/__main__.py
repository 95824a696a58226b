"""Calibrates caches: `python -m videosys.calibration --config FILE --prompts FILE --out FILE.json`.

Runs the full model on a few prompts and fits TeaCache's polynomial. From the recorded runs it selects the
best schedules, solvers and grids for several numbers of evaluations, and measures them on held-out prompts.
With --search, it then improves schedules with real runs. Prints a table and writes FILE.json (the input of
`cache.calibration`), FILE.md and, if matplotlib is installed, two PNG plots. After an interruption, the same
command resumes from the intermediate results in FILE.work.
"""

from __future__ import annotations

from videosys.utils.interrupts import leave_at_interrupt

if __name__ == "__main__":
    leave_at_interrupt()

import argparse
import sys
from collections.abc import Sequence
from functools import partial

from videosys.calibration.budgets import FEW_SHARES, SHARES, budgets, listed, numbers, split
from videosys.calibration.calibrate import calibrate
from videosys.calibration.output import announce_missing_plots, check_place, check_search, write_report
from videosys.calibration.study import Study
from videosys.models import FAMILIES, load_family_config
from videosys.utils.command import RESUMABLE, CommandParser, path_argument, run_command
from videosys.utils.logging import configure_logging

MOST_PROMPTS = 10
ENOUGH = 4  # calibration prompts


def main(argv: Sequence[str] | None = None) -> int:
    """Calibrate. Exit status: 2 for wrong arguments, 130 after an interruption."""
    return run_command(parser(), run, argv, RESUMABLE)


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    arguments = CommandParser(prog="python -m videosys.calibration", description=__doc__)
    add = arguments.add_argument
    add("--config", type=path_argument, required=True, help="YAML or Python file, as for the samples")
    add(
        "--prompts",
        type=path_argument,
        required=True,
        help=f"prompts as lines, JSON or CSV; {MOST_PROMPTS} are enough",
    )
    add("--out", type=path_argument, required=True, help="JSON file to write")
    add("--model", choices=list(FAMILIES), help="the model, if the config does not determine it")
    text = "numbers of model evaluations to calibrate for; default: five, or eight with a search"
    add("--budgets", type=numbers, metavar="K,K,...", help=text)
    add(
        "--search",
        type=float,
        default=0.0,
        help="maximum number of full runs that the search may use per budget; default: no search",
    )
    add(
        "--held-out",
        type=int,
        help="number of prompts to hold out, from the end of the list; default: a third",
    )
    add("--quiet", action="store_true", help="no progress bars")
    add("overrides", nargs="*", metavar="KEY=VALUE", help="config overrides")
    return arguments


def run(args: argparse.Namespace) -> int:
    """Run the calibration, write the report and print it. ValueError for wrong arguments."""
    configure_logging(quiet=args.quiet)
    if args.out.suffix != ".json":
        raise ValueError(f"--out is {str(args.out)!r}; it must end in .json")
    check_place(args.out)
    check_search(args.search)
    announce_missing_plots()
    config = load_family_config(args.config, args.model, args.overrides)
    learnt, held_out = split(listed(args.prompts), args.held_out)
    check = partial(budgets, args.budgets, shares=SHARES if args.search else FEW_SHARES)
    folder = args.out.with_suffix(".work")
    study = Study(config, learnt[:ENOUGH], held_out, folder, quiet=args.quiet, check=check)
    print(write_report(calibrate(study, check(study.num_steps), args.search), args.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
