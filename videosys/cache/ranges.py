"""Minimum values of settings, declared on dataclass fields."""

from __future__ import annotations

import dataclasses
from typing import Any


def at_least(least: float, default: Any) -> Any:
    """A dataclass field of a number that must be `least` or more, or None."""
    return dataclasses.field(default=default, metadata={"least": least})


def check_least(settings: Any, section: str) -> None:
    """ValueError for a field of a dataclass that is below its `at_least` minimum, or not a number.

    section: prefix of the field's name in the error.
    """
    for field in dataclasses.fields(settings):
        value, least = getattr(settings, field.name), field.metadata.get("least")
        if value is not None and least is not None and not value >= least:
            name = f"{section}.{field.name}" if section else field.name
            raise ValueError(f"{name} is {value}; it must be {least} or more")
