"""Progress bars of one style; none in quiet mode."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def progress(
    items: Iterable[Any] | None = None,
    description: str = "",
    *,
    total: int | None = None,
    quiet: bool = False,
) -> tqdm:
    """Return a progress bar over `items`, or over `total` calls of its `update()`.

    It can be iterated and used as a context manager; `quiet` shows nothing.
    """
    return tqdm(items, desc=description, total=total, disable=quiet, dynamic_ncols=True)
