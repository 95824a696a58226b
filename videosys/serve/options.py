"""The options of all commands that may run on a cluster."""

from __future__ import annotations

import argparse

EXECUTORS = ("local", "ray")


def add_executor_options(arguments: argparse.ArgumentParser) -> None:
    """Adds --executor and --address to a command."""
    arguments.add_argument(
        "--executor", choices=EXECUTORS, default="local", help="who makes the videos: docs/cluster.md"
    )
    arguments.add_argument(
        "--address", help="of the Ray cluster, such as auto; without it one is started on this computer"
    )


def check_executor_options(args: argparse.Namespace, *more: str) -> None:
    """ValueError for an option of Ray where --executor is not ray. more: further such options."""
    for name in ("address", *more):
        value = getattr(args, name)
        if value is not None and args.executor != "ray":
            raise ValueError(f"--{name.replace('_', '-')} {value} needs --executor ray")
