"""Calibrates caches of a pipeline of diffusers:
`python -m videosys.diffusers --pipeline NAME --prompts FILE --out FILE.json [KEY=VALUE ...]`.

KEY=VALUE are arguments of the pipeline's call. Writes what `videosys.diffusers.calibrate` writes, prints the
table, and resumes after an interruption.
"""

from __future__ import annotations

from videosys.utils.interrupts import leave_at_interrupt

if __name__ == "__main__":
    leave_at_interrupt()

import argparse
import sys
from collections.abc import Sequence

from videosys.calibration.budgets import listed, numbers
from videosys.diffusers.calibrate import calibrate
from videosys.diffusers.command import pipeline
from videosys.diffusers.known import KNOWN
from videosys.utils.command import RESUMABLE, CommandParser, path_argument, run_command
from videosys.utils.logging import configure_logging


def main(argv: Sequence[str] | None = None) -> int:
    """Calibrate. Exit status: 2 for wrong arguments, 130 after an interruption."""
    return run_command(parser(), run, argv, RESUMABLE)


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    arguments = CommandParser(prog="python -m videosys.diffusers", description=__doc__)
    add = arguments.add_argument
    text = f"an id, a folder, or one of {', '.join(KNOWN)} (the published weights)"
    add("--pipeline", required=True, metavar="NAME", help=text)
    add("--tiny", action="store_true", help="a tiny model: wan's is trained, the others are random")
    add("--prompts", type=path_argument, required=True, help="prompts as lines, JSON or CSV")
    add("--out", type=path_argument, required=True, help="JSON file to write")
    text = "numbers of computed steps to calibrate for; default: a third, a half and two thirds"
    add("--budgets", type=numbers, metavar="K,K,...", help=text)
    text = "maximum number of full runs for improving a schedule; default: none"
    add("--search", type=float, default=0.0, help=text)
    add("arguments", nargs="*", metavar="KEY=VALUE", help="arguments of the pipeline's call")
    return arguments


def run(args: argparse.Namespace) -> int:
    """Calibrate and print the table. ValueError for wrong arguments."""
    configure_logging(quiet=False)
    prompts = listed(args.prompts)
    pipe, call, prompts_of = pipeline(args.pipeline, args.tiny, args.arguments)
    calibrate(pipe, prompts_of(prompts), out=args.out, budgets=args.budgets, search=args.search, **call)
    print(args.out.with_suffix(".md").read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
