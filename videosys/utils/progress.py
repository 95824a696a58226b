"""Progress bars in a common style; disabled in quiet mode."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

from videosys.utils.streams import Steady


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
    stream: Any = Steady(sys.stderr)
    return tqdm(items, desc=description, total=total, disable=quiet, dynamic_ncols=True, file=stream)
