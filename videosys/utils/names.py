"""File names from prompts: readable, safe on every file system, and different for different prompts."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from videosys.utils.reading import expanded
from videosys.utils.reservations import release, reserve, sweep
from videosys.utils.sidecar import sidecar_path

SLUG_LENGTH = 60


def video_name(prompt: str, seed: int, index: int = 0, suffix: str = ".mp4") -> str:
    """Return a file name such as `a-red-circle-1f0c2a9be3d4-s42.mp4`.

    It has at most 200 bytes, all of them a-z 0-9 - and the dot of the suffix. The hash is over the whole
    prompt, so prompts that are equal after simplification get different names; all is lower case,
    for file systems that ignore case. `index` counts the videos of one request. An
    empty `suffix` names a folder.
    """
    if not re.fullmatch(r"(\.[a-z0-9]{1,8})?", suffix):
        raise ValueError(f"suffix {suffix!r} must be a dot and up to 8 characters a-z 0-9, or empty")
    digest = hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    count = f"-{index}" if index else ""
    return f"{slug(prompt) or 'video'}-{digest}-s{seed:d}{count}{suffix}"


def slug(text: str) -> str:
    """Return the letters and digits of a text as a-z 0-9, words joined by `-`; accents are dropped."""
    plain = unicodedata.normalize("NFKD", text[: 4 * SLUG_LENGTH]).encode("ascii", "ignore").decode().lower()
    return "-".join(re.findall(r"[a-z0-9]+", plain))[:SLUG_LENGTH].strip("-")


def unique_path(folder: str | Path, name: str, overwrite: bool = False) -> Path:
    """Return `folder/name`; if it exists and `overwrite` is off, the first free name with `_2`, `_3`, ..."""
    candidates = _candidates(folder, name)
    return next(path for path in candidates if overwrite or not _is_taken(path))


@contextlib.contextmanager
def reserved_path(folder: str | Path, name: str, overwrite: bool = False) -> Iterator[Path]:
    """Yield the path of `unique_path`, reserved against other processes and threads.

    A hidden file reserves it and is removed at the end, or by the next run if this process is
    killed. Nothing is reserved with `overwrite`, nor in a folder without write access, where saving raises
    the error.
    """
    if overwrite:
        yield unique_path(folder, name, overwrite)
        return
    sweep(expanded(folder))
    path = next(path for path in _candidates(folder, name) if _reserve(path))
    try:
        yield path
    finally:
        release(path)


def _candidates(folder: str | Path, name: str) -> Iterator[Path]:
    if Path(name).name != name or name in ("", ".."):
        raise ValueError(f"file name {name!r} must be a plain name, without folders")
    path = expanded(folder) / name
    yield path
    yield from (path.with_name(f"{path.stem}_{number}{path.suffix}") for number in itertools.count(2))


def _is_taken(path: Path) -> bool:
    """Whether there is a video, or the JSON file of a deleted one, which must not describe another."""
    return os.path.lexists(path) or os.path.lexists(sidecar_path(path))


def _reserve(path: Path) -> bool:
    if _is_taken(path):
        return False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return reserve(path)
    except OSError:
        return not os.path.lexists(path)
