"""Reads text and JSON from user files: regular files of a bounded size, else one ValueError."""

from __future__ import annotations

import json
import os
import stat
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from videosys.utils.kinds import kind_of

MAX_TEXT_BYTES = 16 << 20  # an index of 100,000 tensors has 10 MiB
MAX_DEPTH = 100  # nested brackets


def expanded(path: str | Path) -> Path:
    """Return the path with ~ expanded.

    ValueError for an impossible path: an unknown user, a NUL, too long, or a loop of links.
    """
    try:
        whole = Path(path).expanduser()
        os.stat(whole)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except RuntimeError:
        raise ValueError(f"{_shown(path)}: this user has no home folder") from None
    except OSError as error:
        raise ValueError(f"{_shown(path)}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{_shown(path)}: is not a valid path: {error}") from error
    return whole


def _shown(path: str | Path) -> str:
    """Return the path for a message, short and without unprintable characters."""
    text = str(path)
    text = text if len(text) <= 200 else f"{text[:100]}...{text[-20:]}"
    return text if text.isprintable() else repr(text)


def read_bytes(path: str | Path, limit: int = MAX_TEXT_BYTES) -> bytes:
    """Return the content of a regular file.

    FileNotFoundError if it does not exist. ValueError for a folder, device or pipe, for more than `limit`
    bytes and for a file that may not be read. Never waits, and never reads more than the limit.
    """
    whole = expanded(path)
    try:
        with open(whole, "rb", opener=_open_without_waiting) as file:
            check_regular(path, os.fstat(file.fileno()).st_mode)
            content = file.read(limit + 1)
    except FileNotFoundError:
        raise
    except IsADirectoryError:
        raise ValueError(f"{path}: cannot be read: it is a folder, not a file") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    if len(content) > limit:
        raise ValueError(f"{path}: cannot be read: it is larger than the limit of {limit >> 20} MiB")
    return content


def _open_without_waiting(path: str, flags: int) -> int:
    """An `opener` of `open`: without it, opening a pipe would wait for the other end."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def check_regular(path: str | Path, mode: int) -> None:
    """ValueError if `path` is not a regular file, with its kind; `mode` is from its `os.stat`."""
    if not stat.S_ISREG(mode):
        names: dict[Callable[[int], bool], str] = {
            stat.S_ISDIR: "a folder",
            stat.S_ISFIFO: "a pipe",
            stat.S_ISSOCK: "a socket",
        }
        kind = next((name for test, name in names.items() if test(mode)), "a device")
        raise ValueError(f"{path}: cannot be read: it is {kind}, not a file")


def read_text(path: str | Path, limit: int = MAX_TEXT_BYTES) -> str:
    """Return the text of a UTF-8 file without its byte order mark.

    Errors as `read_bytes`; other content is a ValueError that identifies it if possible.
    """
    content = read_bytes(path, limit)
    if content and (kind := kind_of(content)):
        raise ValueError(f"{path}: cannot be read: it is {kind}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: cannot be read: it is not UTF-8 text: {error.reason} at byte {error.start}"
        ) from error


def load_json(path: str | Path, limit: int = MAX_TEXT_BYTES) -> Any:
    """Return the content of a JSON file. ValueError if it is missing, damaged or refused by `parse_json`."""
    try:
        content = read_bytes(path, limit)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    try:
        return parse_json(content)
    except ValueError as error:
        known = kind_of(content)
        raise ValueError(f"{path}: cannot be read as JSON: {f'it is {known}' if known else error}") from error


def load_json_object(path: str | Path) -> dict[str, Any]:
    """Return the JSON object in a file; ValueError for any other content."""
    content = load_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: must contain a JSON object, got {type(content).__name__}")
    return content


class DuplicateKey(ValueError):
    """A JSON object has a duplicate key, of which parsers silently use the last value. key: that key."""

    def __init__(self, key: str):
        super().__init__(f"the key {key[:100]!r} is given twice")
        self.key = key


def parse_json(content: bytes) -> Any:
    """Return the content of a JSON text.

    ValueError if it is not JSON or is nested deeper than `MAX_DEPTH` brackets; DuplicateKey for a duplicate
    key.
    """
    if nesting(content) > MAX_DEPTH:
        raise ValueError(f"it is nested deeper than {MAX_DEPTH} brackets")
    return json.loads(content.decode("utf-8-sig"), object_pairs_hook=_object)


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        (name, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise DuplicateKey(name)
    return content


def nesting(content: bytes) -> int:
    """Return the nesting depth of brackets in a JSON text, without those inside strings.

    Exact up to the first syntax error, where a parser stops.
    """
    # Without escaped characters, every quotation mark begins or ends a string.
    text = np.frombuffer(content.replace(rb"\\", b"").replace(rb"\"", b""), np.uint8)
    outside = np.cumsum(text == ord('"'), dtype=np.uint8) % 2 == 0
    opening = ((text == ord("[")) | (text == ord("{"))) & outside
    closing = ((text == ord("]")) | (text == ord("}"))) & outside
    return int(np.cumsum(opening.astype(np.int8) - closing, dtype=np.int32).max(initial=0))
