"""Command-line options of the commands that can run on a cluster."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

EXECUTORS = ("local", "ray")


def add_executor_options(arguments: argparse.ArgumentParser) -> None:
    """Add --executor and --address to a command."""
    arguments.add_argument(
        "--executor",
        choices=EXECUTORS,
        default="local",
        help="where videos are generated: see docs/cluster.md",
    )
    arguments.add_argument(
        "--address", help="address of the Ray cluster, such as auto; by default a local one is started"
    )


def check_executor_options(
    args: argparse.Namespace, ray: Sequence[str] = (), local: Sequence[str] = ()
) -> None:
    """ValueError for an option that the chosen executor does not have. ray, local: further options of
    each.
    """
    for executor, names in (("ray", ("address", *ray)), ("local", local)):
        for name in names:
            value = getattr(args, name)
            if value is not None and args.executor != executor:
                raise ValueError(f"--{name.replace('_', '-')} {value} needs --executor {executor}")
