"""Loads a server with a tiny checkpoint and kills it meanwhile: python -m eval.serving [--videos N]

Many clients on the loopback ask for the smallest videos there are and for their status, while workers and the
server get SIGKILL. Printed: what was lost or made twice, in which order the keys were served, how long status
calls took beside those of the idle server, and how memory has grown. Exit status 1 where a video was lost or
made twice. Needs the extra 'serve'.
"""

from __future__ import annotations

from videosys import leave_at_interrupt

if __name__ == "__main__":
    leave_at_interrupt()

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from eval.serving.load import Load, run, table
from videosys import CommandParser, run_command

HELP = {
    "videos": "that are asked for",
    "clients": "that ask at the same time",
    "keys": "API keys, which the clients share",
    "workers": "of the server",
    "kills": "in all; each fourth is that of the server",
    "pause": "seconds between two status calls of a client",
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = CommandParser(
        prog="python -m eval.serving",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for item in dataclasses.fields(Load):
        default = item.default
        parser.add_argument(f"--{item.name}", type=type(default), default=default, help=HELP[item.name])
    return run_command(parser, measure, argv)


def measure(args: argparse.Namespace) -> int:
    load = Load(**vars(args))
    with tempfile.TemporaryDirectory(prefix="videosys-load-") as folder:
        outcome = run(load, Path(folder))
    print(table(outcome))
    return int(outcome.lost + outcome.twice > 0)


if __name__ == "__main__":
    sys.exit(main())
