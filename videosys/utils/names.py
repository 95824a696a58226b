"""File names made from prompts: readable, safe on every file system, and never the same for two prompts."""

from __future__ import annotations

import hashlib
import itertools
import re
import unicodedata
from pathlib import Path

SLUG_LENGTH = 60


def video_name(prompt: str, seed: int, index: int = 0, suffix: str = ".mp4") -> str:
    """Return a file name such as `a-red-circle-1f0c2a9be3d4-s42.mp4`.

    It has at most 200 bytes, all of them a-z 0-9 - and the dot of the suffix. The hash is over the whole
    prompt, so prompts that read the same after simplification get names of their own; all is lower case,
    so that they differ where upper and lower case are one. `index` counts the videos of one request. An
    empty `suffix` names a folder.
    """
    if not re.fullmatch(r"(\.[a-z0-9]{1,8})?", suffix):
        raise ValueError(f"suffix {suffix!r} must be a dot and up to 8 of a-z 0-9, or nothing")
    digest = hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    count = f"-{index}" if index else ""
    return f"{slug(prompt) or 'video'}-{digest}-s{seed:d}{count}{suffix}"


def slug(text: str) -> str:
    """Return the letters and digits of a text as a-z 0-9, words joined by `-`; accents are dropped."""
    plain = unicodedata.normalize("NFKD", text[: 4 * SLUG_LENGTH]).encode("ascii", "ignore").decode().lower()
    return "-".join(re.findall(r"[a-z0-9]+", plain))[:SLUG_LENGTH].strip("-")


def unique_path(folder: str | Path, name: str, overwrite: bool = False) -> Path:
    """Return `folder/name`, or the first free one of it and `_2`, `_3` without `overwrite`."""
    if Path(name).name != name or name in ("", ".."):
        raise ValueError(f"file name {name!r} must be a plain name, without folders")
    path = Path(folder) / name
    if overwrite or not path.exists():
        return path
    others = (path.with_name(f"{path.stem}_{number}{path.suffix}") for number in itertools.count(2))
    return next(other for other in others if not other.exists())
