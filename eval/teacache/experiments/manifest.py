"""The manifest of generated videos, one JSON line per video. It stays consistent if a process is killed.

A video is written under a hidden name, its line is appended, and then the video is renamed. A video without a
line is generated again; if a line exists but the video still has its hidden name, it is renamed. So no video
is lost or made twice. Each rank appends to a separate file; readers combine the files.
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
    """The records of a folder by file name; later lines replace earlier ones."""
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
            print(f"{path}:{number}: ignoring an incomplete record of a killed run", file=sys.stderr)


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        record = parse_json(line.encode())
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def partial(folder: Path, name: str) -> Path:
    """The temporary path of a video until its line is written. The name is short for any prompt."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return folder / f".partial-{digest}{Path(name).suffix}"


def complete(folder: Path, rank_file: str, record: Mapping[str, Any]) -> None:
    """Append a video's line and flush it to disk, then rename the video."""
    append(folder / rank_file, record)
    reveal(folder, record["file"])


def reveal(folder: Path, name: str) -> None:
    """Rename a video to its final name, unless another rank has just done so."""
    try:
        os.replace(partial(folder, name), folder / name)
    except FileNotFoundError:
        if not (folder / name).exists():
            raise


def append(path: Path, record: Mapping[str, Any]) -> None:
    """Append one JSON line. An incomplete line before it is terminated first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        file.seek(0, os.SEEK_END)
        torn = file.tell() and not _ends_line(file)
        line = json.dumps(
            record, allow_nan=False
        )  # non-ASCII characters are escaped, so any prompt can be written
        file.write(f"{chr(10) if torn else ''}{line}\n".encode())
        file.flush()
        os.fsync(file.fileno())


def _ends_line(file: Any) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def finished(folder: Path) -> dict[str, dict[str, Any]]:
    """The records of finished videos. Videos that were not renamed yet are renamed first."""
    records = read(folder)
    for name in records:
        hidden = partial(folder, name)
        if hidden.is_file() and not (folder / name).exists():
            reveal(folder, name)
    return {name: record for name, record in records.items() if (folder / name).exists()}
