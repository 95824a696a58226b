"""One process at a time in a folder."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def own(folder: Path, option: str) -> Iterator[None]:
    """Makes a folder, and keeps other processes that do the same away from it.

    option: on the command line, for errors. ValueError where another process has the folder, or it cannot be
    written. The system frees it when this process ends, however that is.
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
