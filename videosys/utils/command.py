"""Shared by all commands: the argument parser and the exit status."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from videosys.utils.interrupts import INTERRUPTED, noticed_interrupt
from videosys.utils.streams import steady_streams

USAGE_ERROR = 2  # exit status
ERROR_FILE = "TORCHELASTIC_ERROR_FILE"  # torchrun's variable: the file whose content it prints at exit
PATIENCE = 30.0  # seconds to wait for torchrun to stop this process after the first one failed
RESUMABLE = "interrupted: run the same command again to continue"


class CommandParser(argparse.ArgumentParser):
    """An `argparse.ArgumentParser` that reports a wrong argument in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        sys.exit(told(f"{message}; see --help"))


def path_argument(text: str) -> Path:
    """The path of a command line argument with ~ expanded: shells leave it in `--out=~/x`."""
    from videosys.utils.reading import expanded  # imports NumPy, which --help does not need

    try:
        return expanded(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def run_command(
    parser: argparse.ArgumentParser,
    run: Callable[[argparse.Namespace], int],
    argv: Sequence[str] | None = None,
    interrupted: str = "",
    mistakes: tuple[type[Exception], ...] = (ValueError,),
) -> int:
    """The exit status of `run` on the parsed arguments; those of the program by default.

    Options may be placed between positional arguments. interrupted, mistakes: as in `exit_status`.
    """
    return exit_status(lambda: run(parser.parse_intermixed_args(argv)), interrupted, mistakes)


def exit_status(
    run: Callable[[], int], interrupted: str, mistakes: tuple[type[Exception], ...] = (ValueError,)
) -> int:
    """The exit status of `run`; 2 after one line for a user error, 130 after Ctrl-C.

    interrupted: the text printed after Ctrl-C, such as what is complete; "" for nothing. mistakes: classes
    of user errors. An error while printing does not end the run: see `Steady`.
    """
    with steady_streams(), noticed_interrupt() as interrupt:
        try:
            return run()
        except KeyboardInterrupt:
            pass
        except Exception as error:
            if not interrupt.is_set() and not isinstance(error, mistakes):
                raise
            if not interrupt.is_set():
                return told(str(error))
        if interrupted:
            print(interrupted, file=sys.stderr)
        return INTERRUPTED


def told(mistake: str) -> int:
    """Print one line about a user error and return its exit status.

    Under torchrun, all processes find the same error. The first one passes it to torchrun, which prints it at
    exit. The others wait to be stopped, and print it only if they are not.
    """
    line = " ".join(["error:", *mistake.split()])
    if os.environ.get("RANK", "0") != "0" and ERROR_FILE in os.environ:
        time.sleep(PATIENCE)
    if not told_torchrun(line):
        print(line, file=sys.stderr)
    return USAGE_ERROR


def told_torchrun(line: str) -> bool:
    """Whether torchrun started this process and will print the line."""
    path = os.environ.get(ERROR_FILE)
    if not path:
        return False
    details = {"py_callstack": line, "timestamp": str(int(time.time()))}
    try:
        Path(path).write_text(json.dumps({"message": {"message": line, "extraInfo": details}}), "utf-8")
    except OSError:
        return False
    return True
