"""Locks a folder for one process."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def own(folder: Path, option: str) -> Iterator[None]:
    """Create a folder and lock it for this process.

    option: name of the command-line option, for errors. ValueError if another process holds the lock or the
    folder is not writable. The system releases the lock when this process ends, even if it is killed.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".videosys-lock").open("a")
    except OSError as error:
        raise ValueError(f"{option} {folder}: cannot be written: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(f"{option} {folder}: in use by another process") from None
        yield
