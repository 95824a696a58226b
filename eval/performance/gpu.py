"""Measure the table of docs/performance.md for GPUs. An interrupted run can be resumed:

    python -m eval.performance.gpu [--sizes ...] [--rounds N] [--minutes M] [--output FOLDER]

Each published size is measured in a separate process: an eager and a compiled step against the ideal, a
skipped step, decoding, and peak memory against the estimate. Results are kept in gpu.json and gpu.md in the
output folder and not measured again on the same GPU with the same torch. If a size fails, the others still
run. --tiny uses narrow models and small videos on any device, to test the command.
"""

from __future__ import annotations

from videosys import exit_status, leave_at_interrupt

if __name__ == "__main__":
    leave_at_interrupt()

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from eval.performance import published
from eval.performance.__main__ import machine, shown
from eval.performance.plan import Plan, Row
from eval.performance.sizes import SIZES
from videosys import CommandParser, load_json, replacing

FILE = "gpu.json"
SAME = ("gpu", "torch", "tiny", "rounds", "compiled")  # results are kept if these are equal
FAILED = "failed"
# Columns of the table and their values from a row: milliseconds, percent, GiB.
COLUMNS: Mapping[str, Callable[[Row], float]] = MappingProxyType(
    {
        "eager ms": lambda row: 1e3 * row["eager_s"],
        "compiled ms": lambda row: 1e3 * row["compiled_s"],
        "ideal ms": lambda row: 1e3 * row["ideal_s"],
        "eager / ideal": lambda row: row["eager_over_ideal"],
        "compiled / ideal": lambda row: row["compiled_over_ideal"],
        "reused / eager %": lambda row: 100 * row["reused_share"],
        "reused with graphs %": lambda row: 100 * row["reused_graph_share"],
        "cache's work / eager %": lambda row: 100 * row["overhead_share"],
        "decode s": lambda row: row["decode_s"],
        "step peak / estimate": lambda row: row["step_over_estimate"],
        "decode peak / estimate": lambda row: row["decode_over_estimate"],
    }
)
Measure = Callable[[str, argparse.Namespace, float], Row]


def main(argv: Sequence[str] | None = None, measure: Measure | None = None) -> int:
    """Measure all sizes. measure: called per size with the arguments and the seconds left; default: in a
    separate process.
    """
    parser = CommandParser(
        prog="python -m eval.performance.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [name for name, size in SIZES.items() if size.is_measured]
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=names)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--minutes", type=float, default=9.0, help="minutes after which no new size starts (default: 9)"
    )
    parser.add_argument("--no-compile", action="store_true", help="skip compiled blocks")
    parser.add_argument(
        "--tiny", action="store_true", help="use narrow models and small videos, on any device"
    )
    parser.add_argument("--output", type=Path, default=Path("outputs/bench_gpu"))
    parser.add_argument("--one", choices=list(SIZES), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.rounds < 1:
        parser.error(f"--rounds is {args.rounds}; it must be 1 or more")
    if not (args.tiny or torch.cuda.is_available()):
        parser.error("this needs a CUDA device; --tiny runs without one")
    if args.one:
        print(json.dumps(row_of(args.one, args)))
        return 0
    return run(args, measure or measured_apart)


def run(args: argparse.Namespace, measure: Measure) -> int:
    """Measure the missing sizes and print which remain. Exit status 1 if a size failed."""
    end = time.monotonic() + 60 * args.minutes
    report = begun(args)
    print(", ".join(f"{key} {value}" for key, value in report["machine"].items()), flush=True)
    for name in args.sizes:
        if is_done(report, name):
            print(f"{name}: already measured", flush=True)
            continue
        left = end - time.monotonic()
        if left <= 0:
            break
        report["rows"][name] = measure(name, args, left)
        write(args.output, report)
        print(f"{name}: {told(report['rows'][name])}", flush=True)
    missing = [name for name in args.sizes if not is_done(report, name)]
    if missing:
        print(f"left: {', '.join(missing)}; run the same command again to continue", flush=True)
    print(f"\n{table(report)}")
    return int(any(FAILED in row for row in report["rows"].values()))


def begun(args: argparse.Namespace) -> dict[str, Any]:
    """The report of an earlier run with the same machine and settings, or a new one."""
    here = machine() | {"rounds": args.rounds, "compiled": not args.no_compile, "tiny": args.tiny}
    fresh: dict[str, Any] = {"machine": here, "command": " ".join(sys.argv), "rows": {}}
    path = args.output / FILE
    if not path.is_file():
        return fresh
    found = load_json(path)
    is_same = all(found.get("machine", {}).get(key) == here[key] for key in SAME)
    if not is_same:
        print(f"{path} was measured with another GPU, torch or setting: measuring everything again")
    return found if is_same else fresh


def is_done(report: Mapping[str, Any], name: str) -> bool:
    return FAILED not in report["rows"].get(name, {FAILED: "not yet"})


def measured_apart(name: str, args: argparse.Namespace, seconds: float) -> Row:
    """Measure a size in a separate process, so that a broken CUDA context does not affect other sizes."""
    flags = [flag for flag, is_set in (("--tiny", args.tiny), ("--no-compile", args.no_compile)) if is_set]
    command = [sys.executable, "-m", "eval.performance.gpu", "--one", name, "--rounds", str(args.rounds)]
    try:
        done = subprocess.run([*command, *flags], capture_output=True, text=True, timeout=seconds + 60)
    except subprocess.TimeoutExpired:
        return {FAILED: f"no result within {seconds + 60:.0f} s"}
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return {FAILED: lines[-1][:300]}
    return json.loads(done.stdout.splitlines()[-1])


def row_of(name: str, args: argparse.Namespace) -> Row:
    """Measure a size in this process."""
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    plan = Plan(device, args.rounds, not args.no_compile, floor=False, tiny=args.tiny)
    (row,) = published.needs_of(name, published.size_of(name, plan), plan)
    return row


def told(row: Row) -> str:
    """A row as a line of text."""
    if FAILED in row:
        return f"failed: {row[FAILED]}"
    return ", ".join(f"{column} {cell}" for column, cell in zip(COLUMNS, cells(row)) if cell)


def cells(row: Row) -> Iterator[str]:
    """One cell per column; empty if the row has no value."""
    for make in COLUMNS.values():
        try:
            yield shown(float(make(row)))
        except (KeyError, TypeError, ValueError):  # not measured, or replaced by a word
            yield ""


def table(report: Mapping[str, Any]) -> str:
    """Sizes as a Markdown table, as in docs/performance.md."""
    lines = [["size", *COLUMNS], ["---"] * (1 + len(COLUMNS))]
    lines += [[name, *cells(row)] for name, row in report["rows"].items()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write(folder: Path, report: Mapping[str, Any]) -> None:
    """Write both files, each atomically."""
    head = ", ".join(f"{key} {value}" for key, value in report["machine"].items())
    folder.mkdir(parents=True, exist_ok=True)
    texts = {FILE: json.dumps(report, indent=2) + "\n", "gpu.md": f"{head}\n\n{table(report)}\n"}
    for name, text in texts.items():
        with replacing(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(exit_status(main, "interrupted"))
