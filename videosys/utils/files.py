"""Atomic writing of files."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from videosys.utils.owners import hidden_path
from videosys.utils.reading import expanded
from videosys.utils.reservations import sweep


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; the file written there replaces `path` at the end.

    It may also be a folder, which replaces a folder. After any error or interrupt, the temporary
    file is removed and `path` is unchanged. Missing folders are created. Files left by killed processes are
    removed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent)
    temporary = hidden_path(path)
    try:
        yield temporary
        if temporary.is_dir() and path.is_dir() and any(path.iterdir()):  # an empty one needs one step
            shutil.rmtree(path)
        os.replace(temporary, path)
    finally:
        remove(temporary)


def remove(path: Path) -> None:
    """Remove a file or folder, if it exists."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def anchored(source: str) -> str:
    """The absolute path of an existing file or folder, valid if the working directory changes later; other
    text unchanged.
    """
    try:
        path = expanded(source)
    except ValueError:  # not a path of a file
        return source
    return str(path.absolute()) if source and path.exists() else source
