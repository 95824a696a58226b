"""Output that never ends a run: unprintable characters are escaped, and closed streams are ignored."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any


class Steady:
    """A text stream that wraps another one, or None. Writing always succeeds.

    Characters outside the encoding are written as escapes (`\\xe9`). If the reader is gone or the disk is
    full, output is dropped.
    """

    def __init__(self, stream: Any):
        self._stream: Any = stream._stream if isinstance(stream, Steady) else stream

    def __eq__(self, other: object) -> bool:
        return self._stream is getattr(other, "_stream", other)

    def __hash__(self) -> int:
        return id(self._stream)

    def write(self, text: str) -> int:
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        with self._forgiving():
            self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        with self._forgiving():
            self._stream.flush()

    def isatty(self) -> bool:
        return self._stream is not None and self._stream.isatty()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextlib.contextmanager
    def _forgiving(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, AttributeError):  # closed, or there is no stream
            with contextlib.suppress(OSError, ValueError, AttributeError):
                # Buffered text would fail again at the end of the program.
                target = os.open(os.devnull, os.O_WRONLY)
                os.dup2(target, self._stream.fileno())
                os.close(target)


@contextlib.contextmanager
def steady_streams() -> Iterator[None]:
    """Replace standard output and error by steady streams in the `with` block, and flush them at its end."""
    out, err = Steady(sys.stdout), Steady(sys.stderr)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):  # type: ignore[type-var]
        try:
            yield
        finally:
            out.flush()
            err.flush()
