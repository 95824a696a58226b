"""What was made, one JSON line per video, in a form that survives being killed at any moment.

A video is written under a hidden name, its line is appended, and then it gets its own name. So a video
without a line is made anew, a line whose video still has its hidden name is completed, and nothing is made
twice or lost. Every rank appends to a file of its own; readers take them together.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from videosys import parse_json

NAME = "manifest.jsonl"
PATTERN = "manifest*.jsonl"


def rank_name(rank: int, ranks: int) -> str:
    return NAME if ranks == 1 else f"manifest.{rank:04}.jsonl"


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """The records of a folder by file name; a later line replaces an earlier one."""
    paths = sorted(folder.glob(PATTERN))
    return {record["file"]: record for path in paths for record in lines(path) if "file" in record}


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file, one per line; empty if the file does not exist."""
    if not path.is_file():
        return
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        record = _parsed(line)
        if record is not None:
            yield record
        elif line.strip():
            print(f"{path}:{number}: incomplete record of a killed run, ignored", file=sys.stderr)


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        record = parse_json(line.encode())
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def partial(folder: Path, name: str) -> Path:
    """The temporary path of a video until its line is written; its name is always short."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return folder / f".partial-{digest}{Path(name).suffix}"


def complete(folder: Path, rank_file: str, record: Mapping[str, Any]) -> None:
    """Appends the line of a video, on the disk before the video gets its name."""
    append(folder / rank_file, record)
    reveal(folder, record["file"])


def reveal(folder: Path, name: str) -> None:
    """Gives a video its own name, unless another rank that just began has done so."""
    try:
        os.replace(partial(folder, name), folder / name)
    except FileNotFoundError:
        if not (folder / name).exists():
            raise


def append(path: Path, record: Mapping[str, Any]) -> None:
    """Adds one JSON line; one that was cut off before is ended first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        file.seek(0, os.SEEK_END)
        torn = file.tell() and not _ends_line(file)
        line = json.dumps(record, allow_nan=False)  # escaped where not ASCII, so any prompt can be written
        file.write(f"{chr(10) if torn else ''}{line}\n".encode())
        file.flush()
        os.fsync(file.fileno())


def _ends_line(file: Any) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def finished(folder: Path) -> dict[str, dict[str, Any]]:
    """The records whose videos are there, after completing those that were cut off before their renaming."""
    records = read(folder)
    for name in records:
        hidden = partial(folder, name)
        if hidden.is_file() and not (folder / name).exists():
            reveal(folder, name)
    return {name: record for name, record in records.items() if (folder / name).exists()}
