"""Shared by the evaluation's commands: one-line errors and atomic writes."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from videosys import load_json, replacing, run_command

LARGEST = 256 << 20  # maximum bytes of a JSON file: enough for thousands of videos


def command(
    run: Callable[[argparse.Namespace], int], parser: argparse.ArgumentParser, argv: Sequence[str] | None
) -> int:
    """Run a command. Returns the exit status of `run`, 2 for a user error, or 130 after an interrupt."""
    interrupted = "interrupted; all written files are complete"
    return run_command(parser, run, argv, interrupted, (ValueError, OSError))


def write_text(path: Path, text: str) -> None:
    """Write a file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The content of a JSON file. ValueError if it is missing or damaged."""
    return load_json(path, LARGEST)
