"""Estimate the memory and operations of a config without loading weights:

    python -m videosys.estimate --config FILE [--model NAME] [--text-tokens N] [--json]
        [key=value ...]

--model is not needed for a file in a folder named after a model (as in examples/). Shapes come from the
config and from the config.json of local checkpoints; for others the published shapes are used. Nothing is
downloaded.
"""

from __future__ import annotations

from videosys.utils.interrupts import leave_at_interrupt

if __name__ == "__main__":
    leave_at_interrupt()

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import Any

from videosys.estimate import Estimate, estimate
from videosys.estimate.memory import GIB, first_shortage
from videosys.models import FAMILIES, load_family_config
from videosys.utils.command import CommandParser, run_command
from videosys.utils.devices import parse_device, shares_memory

NOTED = 0.1  # share of the peak above which the cache is mentioned
HEAD = ("stage", "weights", "on device", "text K/V", "cache", "activations", "total", "host", "TFLOP")


def table(cost: Estimate) -> str:
    """The stages as text: GiB, and operations of all evaluations."""
    rows: list[tuple[str, ...]] = [HEAD]
    for stage in cost.stages:
        kept = (stage.weights, stage.resident, stage.text, stage.cache)
        sizes = (*kept, stage.activations, stage.total, stage.host)
        rows.append((stage.name, *(f"{size / GIB:.3f}" for size in sizes), f"{stage.flops / 1e12:.3f}"))
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths)) for row in rows]
    host = f", plus {cost.host / GIB:.3f} GiB of host memory" if cost.host else ""
    return "\n".join([*lines, f"peak with offload {cost.offload}: {cost.peak / GIB:.3f} GiB{host}"])


def as_json(cost: Estimate) -> dict[str, Any]:
    """The estimate as plain values in bytes and FLOPs, with totals."""
    derived = [{"activations": stage.activations, "total": stage.total} for stage in cost.stages]
    stages = [dataclasses.asdict(stage) | more for stage, more in zip(cost.stages, derived)]
    sizes = {name: getattr(cost, name) for name in ("peak", "host", "cache", "peak_without_cache")}
    return dataclasses.asdict(cost) | {"stages": stages} | sizes


def main(argv: Sequence[str] | None = None) -> int:
    parser = CommandParser(prog="python -m videosys.estimate", description=__doc__.split("\n")[0])
    parser.add_argument("--config", required=True, metavar="FILE")
    help_text = "the model, if the config does not determine it"
    parser.add_argument("--model", choices=list(FAMILIES), help=help_text)
    parser.add_argument(
        "--text-tokens", type=int, metavar="N", help="tokens per prompt; default: the maximum"
    )
    parser.add_argument("--json", action="store_true", help="print bytes and operations as JSON")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    return run_command(parser, run, argv)


def run(args: argparse.Namespace) -> int:
    """Print the estimate. ValueError for wrong arguments."""
    config = load_family_config(args.config, args.model, args.overrides)
    cost = estimate(config, args.text_tokens)
    if args.json:
        print(json.dumps(as_json(cost), indent=2))
        return 0
    ranks = config.parallel.num_gpus
    print(
        f"{cost.evaluations} evaluations, sizes in GiB, {'one' if ranks == 1 else f'each of {ranks}'} device"
    )
    print(table(cost))
    for part in cost.assumed:
        print(f"not found locally, using the published shape: {part}")
    saved = cost.peak - cost.peak_without_cache
    if saved > NOTED * cost.peak and not shares_memory(parse_device(config.device)):
        print(
            f"the cache uses {cost.cache / GIB:.3f} GiB of the peak on the device; with cache.device=cpu it "
            "is kept in host memory and copied at each use, and the peak is about "
            f"{cost.peak_without_cache / GIB:.3f} GiB"
        )
    warning = first_shortage(config, cost, ranks)
    if warning:
        print(f"warning: {warning}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
