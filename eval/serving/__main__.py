"""Load-test a server with a tiny checkpoint while its processes are killed: python -m eval.serving [--videos
N]

Many clients on the loopback request very small videos and their status, while workers and the server receive
SIGKILL. Prints lost and duplicate videos, the order in which the keys were served, the time of status calls
compared with an idle server, and the growth of memory. Exit status 1 if a video was lost or made twice. Needs
the extra 'serve'.
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
    "videos": "number of requested videos",
    "clients": "number of concurrent clients",
    "keys": "number of API keys, shared by the clients",
    "workers": "number of workers of the server",
    "kills": "total number of kills; every fourth kills the server",
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
