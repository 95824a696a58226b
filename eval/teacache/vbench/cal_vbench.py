"""Compute VBench's quality, semantic and total score from the results in a folder:

python vbench/cal_vbench.py --score_dir FOLDER
"""

from __future__ import annotations

from videosys import leave_at_interrupt

if __name__ == "__main__":
    leave_at_interrupt()

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import scores
from toolbox import command, write_json

from videosys import CommandParser


def main(argv: Sequence[str] | None = None) -> int:
    return command(run, parser(), argv)


def parser() -> argparse.ArgumentParser:
    made = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--score_dir", "--score-dir", type=Path, required=True)
    made.add_argument("--partial", action="store_true", help="use the available dimensions")
    made.add_argument("--output", type=Path, help="a JSON file; default: SCORE_DIR/scores.json")
    return made


def run(arguments: argparse.Namespace) -> int:
    raw = scores.read_scores(arguments.score_dir)
    missing = scores.missing(raw)
    if missing and not arguments.partial:
        raise ValueError(
            f"{arguments.score_dir}: results are missing for {', '.join(missing)}; incomplete scores cannot "
            "be compared with others; use --partial to compute them anyway"
        )
    made = scores.totals(raw)
    for name, value in made["scaled"].items():
        print(f"{name:24} {raw[name]:8.4f} {value:8.2f} %")
    for name in ("quality", "semantic", "total"):
        value = made[name]
        print(f"{name:24} {'':8} {'-' if value is None else format(value, '8.2f') + ' %'}")
    if missing:
        print(f"incomplete, without {', '.join(missing)}: do not compare with complete scores")
    output = arguments.output or arguments.score_dir / "scores.json"
    write_json(output, made)
    print(output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
