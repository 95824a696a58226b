"""Serves an OpenAI-compatible HTTP API for videos: `videosys serve --config FILE`.

Jobs are stored in a database (by default SQLite next to the videos, see --database) and survive the end of
the server and its workers. By default it listens only on this computer (see --host). API keys are
read from --keys FILE (one per line) or VIDEOSYS_API_KEYS (comma-separated); without keys, all who reach
the service can use it. docs/serving.md has the routes.
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


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until interrupted; 2 where the arguments are wrong."""
    return run_command(parser(), run, argv)


def parser() -> argparse.ArgumentParser:
    arguments = CommandParser(prog="videosys serve", description=__doc__)
    add = arguments.add_argument
    add("--config", required=True, help="YAML or Python file, as for the samples")
    add("--model", help="the model, if the config does not determine it")
    add("--host", default="127.0.0.1", help="address to listen on")
    add("--port", type=int, default=PORT, help="0 chooses a free port and prints it")
    add(
        "--data",
        type=path_argument,
        default=Path("outputs/serve"),
        help="folder of videos and database",
    )
    add("--database", help="URL of SQLAlchemy, such as postgresql+psycopg://user@host/name")
    add("--workers", type=int, help="worker processes of this computer (1)")
    add_executor_options(arguments)
    add("--min-replicas", type=int, help="on Ray: replicas that always run (1)")
    add("--max-replicas", type=int, help="on Ray: replicas while many videos wait (as --min-replicas)")
    add("--open", action="store_true", help="open the web page in a browser")
    add("--keys", type=path_argument, help="file of API keys, one per line")
    for name, text in LIMITS.items():
        add(f"--max-{name.replace('_', '-')}", type=int, dest=f"max_{name}", help=text)
    add("overrides", nargs="*", metavar="KEY=VALUE", help="changes of the config")
    return arguments


LIMITS = {
    "queue": "maximum queued videos (100)",
    "prompt": "maximum characters of a prompt (2000)",
    "pixels": "maximum pixels of a frame (1920 x 1088)",
    "frames": "maximum frames of a video (1000)",
    "steps": "maximum sampler steps (200)",
    "per_minute": "maximum videos per key and minute (60)",
    "body": "maximum bytes of a request (1 MiB)",
}


def run(args: argparse.Namespace) -> int:
    """Serves. ValueError for wrong arguments, and where the extra is not installed."""
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
    from videosys.serve.settings import Limits

    given = {name: getattr(args, f"max_{name}") for name in LIMITS}
    return Limits(**{name: value for name, value in given.items() if value is not None})


if __name__ == "__main__":
    sys.exit(main())
