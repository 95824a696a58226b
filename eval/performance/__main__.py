"""Measures speed and memory: python -m eval.performance [--cases ...] [--rounds N] [--output FOLDER]

Times are medians over rounds in which the compared callables take turns: CPU seconds with one thread, or
seconds between CUDA events on a GPU. The cases published, kernels and teacache use published sizes (--sizes),
and wan uses those of Wan 2.1; these need a GPU, or --tiny. The report is performance.json and performance.md
in the output folder.
"""

from __future__ import annotations

from videosys import exit_status, leave_at_interrupt

if __name__ == "__main__":
    leave_at_interrupt()

import argparse
import datetime
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from eval.performance import cases, graphs, needs, published, wan
from eval.performance.models import class_of, models
from eval.performance.plan import Plan, Row
from eval.performance.sizes import SIZES
from videosys import CommandParser

Case = Callable[[Plan], Iterator[Row]]

CASES: Mapping[str, Case] = MappingProxyType(
    {
        "steps": cases.steps,
        "caches": cases.caches,
        "real": cases.real,
        "graphs": graphs.graphs,
        "decoding": needs.decoding,
        "memory": needs.memory,
        "scaling": cases.scaling,
        "published": published.published,
        "kernels": published.kernels,
        "teacache": published.teacache,
        "wan": wan.wan,
    }
)


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments(argv)
    torch.set_num_threads(1)
    plan = plan_of(args)
    args.output.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {"machine": machine(), "command": " ".join(sys.argv[1:]), "rounds": args.rounds}
    for name in args.cases:
        report[name] = []
        for row in CASES[name](plan):
            print(line(row), flush=True)
            report[name].append(row)
            write(args.output, report)
    return 0


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse and check the command line."""
    parser = CommandParser(
        prog="python -m eval.performance",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--models", nargs="+", choices=models(), default=models())
    measured = [name for name, size in SIZES.items() if size.is_measured]
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=measured)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-compile", action="store_true", help="skip compiled blocks")
    parser.add_argument(
        "--kernels",
        choices=("auto", "none"),
        default="auto",
        help="none: measure published sizes without this package's kernels",
    )
    parser.add_argument(
        "--tiny", action="store_true", help="use narrow models and small videos, on any device"
    )
    parser.add_argument("--output", type=Path, default=Path("outputs/performance"))
    args = parser.parse_args(argv)
    check(parser, args)
    return args


def plan_of(args: argparse.Namespace) -> Plan:
    """The plan of the arguments for this machine's device."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    models, sizes = tuple(args.models), tuple(args.sizes)
    return Plan(device, args.rounds, not args.no_compile, models, sizes, args.kernels, tiny=args.tiny)


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Exit with an error for a combination of arguments with nothing to measure."""
    if args.rounds < 1:
        parser.error(f"--rounds is {args.rounds}; it must be 1 or more")
    of_sizes = {class_of(SIZES[name].plan) for name in args.sizes}
    if not of_sizes & set(args.models):
        parser.error(f"--sizes need the models {', '.join(sorted(of_sizes))}, but --models excludes them")


def machine() -> dict[str, str]:
    """A description of this machine for the report."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "date": datetime.date.today().isoformat(),
        **processor(),
        "gpu": gpu,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def processor(file: Path = Path("/proc/cpuinfo")) -> dict[str, str]:
    """The processor's name and its bfloat16 instructions."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return {"processor": platform.processor()}
    told = {name.strip(): value.strip() for name, _, value in (text.partition(":") for text in lines)}
    flags = [flag for flag in told.get("flags", "").split() if flag.endswith("_bf16")]
    return {"processor": told.get("model name", "unknown"), "bfloat16": " ".join(flags) or "none"}


def line(row: Row) -> str:
    return "  ".join(f"{name} {shown(value)}" for name, value in row.items())


def shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def table(rows: Sequence[Row]) -> str:
    """Rows as a Markdown table; missing values are empty cells."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names, ["---"] * len(names)]
    lines += [[shown(row.get(name, "")) for name in names] for row in rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def write(folder: Path, report: Mapping[str, Any]) -> None:
    """Write both files, each atomically."""
    parts = [f"## {name}\n\n{table(report[name])}\n" for name in CASES if report.get(name)]
    head = ", ".join(f"{key} {value}" for key, value in report["machine"].items())
    for name, text in (
        ("performance.json", json.dumps(report, indent=2) + "\n"),
        ("performance.md", "\n".join([f"{head}\n", *parts])),
    ):
        temporary = folder / f".{name}"
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, folder / name)


if __name__ == "__main__":
    sys.exit(exit_status(main, "interrupted"))
