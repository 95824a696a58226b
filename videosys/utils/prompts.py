"""Lists of prompts in files: text, JSON, JSON lines, and tables with a named column.

The suffix selects the format: .json, .jsonl, .ndjson, .csv, .tsv, .tab, else one prompt per line.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from videosys.utils.reading import parse_json, read_bytes
from videosys.utils.text import decode, lines_of

MOST_BYTES = 16 << 20
MOST_PROMPTS = 100_000
KEYS = ("prompt", "prompt_en", "text", "caption")  # of an object or a column; the first one present is used
DELIMITERS = (",", ";", "\t")
VBENCH_KEY = "prompt_en"

Row = tuple[str, Any]  # its place and its content: text or an object


@dataclass(frozen=True)
class PromptFile:
    """Prompts of a file; `rows` are the objects that they came from, if any."""

    prompts: tuple[str, ...]
    rows: tuple[Mapping[str, Any], ...] = ()

    @property
    def is_vbench(self) -> bool:
        """Whether this is a list like VBench_full_info.json."""
        return bool(self.rows) and all(_key(row) == VBENCH_KEY for row in self.rows)


def read_prompts(path: str | Path) -> PromptFile:
    """Return the prompts of a file, at least one.

    Text: one per line; blank lines are ignored. JSON: a list of texts, or of objects with a `prompt`, such
    as VBench_full_info.json (`prompt_en`); the same in JSON lines. CSV and TSV: a column of that name. Lines
    and cells are trimmed.
    Text may be UTF-8, UTF-16 or UTF-32. An invalid file is a ValueError that names it and the line or item.
    """
    try:
        content = read_bytes(path, MOST_BYTES)
    except FileNotFoundError:
        raise ValueError(f"{path}: cannot be read as prompts: no such file") from None
    try:
        text = decode(content)
        _check_format(text, Path(path).suffix.lower())
        reader = _READERS.get(Path(path).suffix.lower(), _text_rows)
        found = [
            (_prompt(where, value), value)
            for where, value in itertools.islice(reader(text), MOST_PROMPTS + 1)
        ]
        _check_count(len(found))
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path}: cannot be read as prompts: {error}") from error
    objects = tuple(value for _, value in found if isinstance(value, Mapping))
    return PromptFile(tuple(prompt for prompt, _ in found), objects if len(objects) == len(found) else ())


def _check_count(count: int) -> None:
    if not count:
        raise ValueError("it has no prompts")
    if count > MOST_PROMPTS:
        raise ValueError(f"it has more than {MOST_PROMPTS} prompts")


def _prompt(where: str, value: Any) -> str:
    """Return the text of a row."""
    key = _key(value) if isinstance(value, Mapping) else ""
    text = value[key] if isinstance(value, Mapping) and key else value
    if isinstance(text, Mapping):
        raise ValueError(f"{where} has none of the keys {', '.join(KEYS)}")
    if not isinstance(text, str):
        raise ValueError(f"{where} must be text{f' at {key!r}' if key else ''}, got {str(text)[:40]!r}")
    if not text.strip():
        raise ValueError(f"{where} is blank")
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ValueError(f"{where} has a NUL or a lone surrogate, which text cannot contain")
    return text


def _trimmed(text: str) -> str:
    """Return a text without surrounding space and without byte order marks of concatenated files."""
    return text.strip().removeprefix("\ufeff").strip()


def _key(row: Mapping[str, Any]) -> str:
    return next((key for key in KEYS if key in row), "")


def _text_rows(text: str) -> Iterator[Row]:
    for number, line in enumerate(lines_of(text), 1):
        prompt = _trimmed(line)
        if prompt:
            yield f"line {number}", prompt


def _json_rows(text: str) -> Iterator[Row]:
    try:
        content = parse_json(text.encode())
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno} is not JSON: {error}") from None
    if not isinstance(content, list):
        raise ValueError(f"it must hold a JSON list of texts or objects, got {type(content).__name__}")
    yield from ((f"item {number}", item) for number, item in enumerate(content))


def _json_line_rows(text: str) -> Iterator[Row]:
    for number, line in enumerate(lines_of(text), 1):
        if not line.strip():
            continue
        try:
            value = parse_json(line.encode())
        except ValueError as error:
            raise ValueError(f"line {number} is not JSON: {error}") from None
        if isinstance(value, list):
            raise ValueError(f"line {number} must be a text or an object; a JSON list needs the suffix .json")
        yield f"line {number}", value


def _table_rows(text: str, delimiters: Sequence[str]) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text, delimiters), strict=True)
    names: list[str] = []
    column = 0
    try:
        for cells in reader:
            where = f"line {reader.line_num}"
            if not any(cell.strip() for cell in cells):
                continue
            if not names:
                names = [cell.strip().lower() for cell in cells]
                column = _column(names)
            elif len(cells) != len(names):
                counts = f"{len(cells)} columns, but the first line has {len(names)}"
                raise ValueError(
                    f"{where} has {counts}: a prompt with a {reader.dialect.delimiter!r} needs quotes"
                )
            else:
                yield where, _trimmed(cells[column])
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num} is not a valid table row: {error}") from None


def _delimiter(text: str, delimiters: Sequence[str]) -> str:
    """Return the first delimiter with which the header line has a prompt column."""
    first = next((line for line in lines_of(text[: 1 << 16]) if line.strip()), "")
    for delimiter in delimiters:
        if {*KEYS} & {cell.strip(' "').lower() for cell in first.split(delimiter)}:
            return delimiter
    return delimiters[0]


def _column(names: Sequence[str]) -> int:
    """Return the index of the column with the prompts."""
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice:
        raise ValueError(f"two columns have the name {twice!r}")
    name = next((name for name in KEYS if name in names), None)
    if name is None:
        shown = ", ".join(repr(name[:40]) for name in names[:10])
        raise ValueError(f"no column has the name {' or '.join(KEYS)}; the first line has {shown}")
    return names.index(name)


def _check_format(text: str, suffix: str) -> None:
    """Raise a ValueError if the content belongs to another suffix."""
    if suffix in _READERS and suffix not in (".json", *_LINES):
        return
    looks, wanted = _looks_like(text.lstrip())
    if wanted and suffix not in wanted:
        raise ValueError(f"it contains {looks}: its name must end in {wanted[0]}")


def _looks_like(text: str) -> tuple[str, tuple[str, ...]]:
    """Return the format of a text and its suffixes; empty for plain lines."""
    first, _, rest = text.partition("\n")
    first = first.strip()
    if text.startswith("{") and _is_json(first) and not _is_json(text):
        return "JSON lines", _LINES
    is_broken = first in ("[", "{") or first.endswith((",", "[", "{"))
    if text.startswith(("[", "{")) and (is_broken or _is_json(text)):
        return "JSON", (".json", *(_LINES if text.startswith("{") and not rest.strip() else ()))
    cells = [cell.strip(' "').lower() for mark in DELIMITERS if mark in first for cell in first.split(mark)]
    return ("a table", (".csv", ".tsv")) if {"prompt", VBENCH_KEY} & {*cells} else ("", ())


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), (list, dict))
    except RecursionError:
        return True
    except ValueError:
        return False


_LINES = (".jsonl", ".ndjson")
_READERS: Mapping[str, Callable[[str], Iterator[Row]]] = MappingProxyType(
    {
        ".json": _json_rows,
        **dict.fromkeys(_LINES, _json_line_rows),
        ".csv": lambda text: _table_rows(text, DELIMITERS),
        **dict.fromkeys((".tsv", ".tab"), lambda text: _table_rows(text, ("\t",))),
    }
)
