"""Saves results immediately, so that an interrupted calibration can resume."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from videosys.utils.reading import parse_json
from videosys.utils.reservations import sweep

FILE = "journal.jsonl"


class Journal:
    """Stores results by key in a folder, one JSON line per result.

    about: everything else that the results depend on. ValueError if the folder has results of something else
    or cannot be created.
    """

    def __init__(self, folder: str | Path, about: Any):
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            sweep(self.folder)
        except OSError as error:
            raise ValueError(f"{self.folder} cannot be created: {error}") from error
        self.path = self.folder / FILE
        self._results = self._read()
        self.check("about", fingerprint(about), "its config, prompts or weights differ")

    def check(self, key: str, value: Any, difference: str) -> None:
        """Store a plain value that results depend on. ValueError, with the difference as text, if the folder
        has results for another value.
        """
        if self.result(key, lambda: value) != value:
            raise ValueError(
                f"{self.folder} holds results of another run ({difference}); delete it or choose another "
                "output"
            )

    def result(self, key: str, make: Callable[[], Any]) -> Any:
        """The stored value of a key. If there is none, call `make` and store the value immediately."""
        if key not in self._results:
            value = make()
            self._results[key] = value
            try:
                self._append([key, value])
            except OSError as error:
                raise ValueError(f"{self.path} cannot be written: {error.strerror}") from error
        return self._results[key]

    def _append(self, row: list[Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def has(self, key: str) -> bool:
        """Whether there is a result for a key, from this run or an earlier one."""
        return key in self._results

    def _read(self) -> dict[str, Any]:
        """Read the results so far, and remove an incomplete last line."""
        if not self.path.exists():
            return {}
        lines = self.path.read_bytes().splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):
            lines.pop()
            os.truncate(self.path, sum(map(len, lines)))
        try:
            return dict(parse_json(line) for line in lines)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{self.path} is damaged ({error}); delete it") from error


def policy_key(policy: Any) -> str:
    """A short name for a policy and its settings. It does not change when a class gains a field later."""
    fields = ((field, getattr(policy, field.name)) for field in dataclasses.fields(policy))
    differing = {field.name: repr(value) for field, value in fields if value != field.default}
    return f"{type(policy).__name__} {fingerprint(differing)}"


def run_key(policy: Any, changes: Mapping[str, Any]) -> str:
    """A short name for a policy on a sampler with these overrides of the config."""
    return (
        f"{policy_key(policy)} {fingerprint(repr(sorted(changes.items())))}"
        if changes
        else policy_key(policy)
    )


def fingerprint(value: Any) -> str:
    """A hash of a plain value, 16 hexadecimal digits."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
