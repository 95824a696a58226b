"""Warnings that are expected, ignored for a moment."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# Filters apply to all threads. Two contexts that overlap would leave one installed.
LOCK = threading.RLock()


@contextmanager
def ignored(category: type[Warning]) -> Iterator[None]:
    """A context in which warnings of a category are not shown, nor errors in a program that makes them so."""
    with LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore", category)
        yield
