"""Serves an OpenAI-compatible HTTP API for videos: `videosys serve --config FILE`.

Jobs are stored in a database (by default SQLite next to the videos, see --database) and survive a restart of
the server and its workers. By default the service listens only on this computer (see --host). API keys are
read from --keys FILE (one per line) or VIDEOSYS_API_KEYS (comma-separated). Without keys, everyone who can
reach the service can use it. The routes are documented in docs/serving.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from videosys.serve.options import add_executor_options, check_executor_options
from videosys.utils.command import CommandParser, path_argument, run_command
from videosys.utils.installed import missing
from videosys.utils.logging import configure_logging

if TYPE_CHECKING:
    from videosys.serve.settings import Limits

PORT = 8000


def main(argv: Sequence[str] | None = None, command: str = "serve") -> int:
    """Serve until interrupted. Exit status 2 for wrong arguments. command: the name that --help shows."""
    return run_command(parser(command), run, argv)


def parser(command: str) -> argparse.ArgumentParser:
    arguments = CommandParser(prog=f"videosys {command}", description=__doc__)
    add = arguments.add_argument
    add("--config", required=True, help="YAML or Python file, as for the samples")
    add("--model", help="the model, if the config does not determine it")
    add("--host", default="127.0.0.1", help="address to listen on")
    add("--port", type=int, default=PORT, help="0 chooses a free port and prints it")
    add(
        "--data",
        type=path_argument,
        default=Path("outputs/serve"),
        help="folder for the videos and the database",
    )
    add("--database", help="SQLAlchemy URL, such as postgresql+psycopg://user@host/name")
    add("--workers", type=int, help="number of worker processes on this computer (1)")
    add_executor_options(arguments)
    add("--min-replicas", type=int, help="on Ray: minimum number of replicas (1)")
    add(
        "--max-replicas",
        type=int,
        help="on Ray: maximum number of replicas, used for a long queue (as --min-replicas)",
    )
    add("--open", action="store_true", help="open the web page in a browser")
    add("--keys", type=path_argument, help="file with API keys, one per line")
    for name, text in LIMITS.items():
        add(f"--max-{name.replace('_', '-')}", type=int, dest=f"max_{name}", help=text)
    add("overrides", nargs="*", metavar="KEY=VALUE", help="config overrides")
    return arguments


LIMITS = {
    "queue": "maximum number of queued videos (100)",
    "prompt": "maximum length of a prompt in characters (2000)",
    "pixels": "maximum number of pixels per frame (1920 x 1088)",
    "frames": "maximum number of frames per video (1000)",
    "steps": "maximum number of sampler steps (200)",
    "per_minute": "maximum number of videos per key and minute (60)",
    "body": "maximum size of a request in bytes (1 MiB)",
}


def run(args: argparse.Namespace) -> int:
    """Serve. ValueError for wrong arguments, or if the extra is not installed."""
    configure_logging()
    try:
        from videosys.serve.server import Options, serve
    except ImportError as error:
        if error.name is None or error.name.startswith("videosys"):
            raise
        raise missing("the service", "serve", error) from error
    from videosys.serve.settings import Source

    source = Source(args.config, args.model, tuple(args.overrides))
    check_executor_options(args, ray=("min_replicas", "max_replicas"), local=("workers",))
    least = 1 if args.min_replicas is None else args.min_replicas
    options = Options(
        args.host,
        args.port,
        args.data,
        args.database,
        1 if args.workers is None else args.workers,
        args.keys,
        args.open,
        args.executor,
        args.address,
        (least, least if args.max_replicas is None else args.max_replicas),
    )
    return serve(source, options, limits_of(args))


def limits_of(args: argparse.Namespace) -> Limits:
    """The limits of the options. ValueError for one below 1."""
    from videosys.serve.settings import Limits

    given = {name: getattr(args, f"max_{name}") for name in LIMITS}
    for name, value in given.items():
        if value is not None and value < 1:
            raise ValueError(f"--max-{name.replace('_', '-')} is {value}; it must be 1 or more")
    return Limits(**{name: value for name, value in given.items() if value is not None})


if __name__ == "__main__":
    sys.exit(main())
