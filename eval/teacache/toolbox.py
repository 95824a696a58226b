"""What the evaluation's commands share: errors in one line, files whole or absent."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from videosys import load_config, replacing


def command(
    run: Callable[[argparse.Namespace], int], parser: argparse.ArgumentParser, argv: Sequence[str] | None
) -> int:
    """The exit status: of `run`, or 2 for a mistake of the user's, or 130 after an interrupt."""
    try:
        return run(parser.parse_intermixed_args(argv))
    except (ValueError, OSError) as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; what was written is complete", file=sys.stderr)
        return 130


def config_from(cls: type, settings: Mapping[str, Any], overrides: Sequence[str] = ()) -> Any:
    """The config of plain values, as `config_to_dict` gives them, and of key=value overrides."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(json.dumps(settings), encoding="utf-8")
        try:
            return load_config(cls, path, overrides)
        except ValueError as error:  # the file says nothing to who gave the settings by hand
            raise ValueError(str(error).removeprefix(f"{path}: ")) from error


def write_text(path: Path, text: str) -> None:
    """Writes a file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The content of a JSON file. ValueError where there is none, or it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read as JSON: {error}") from error
