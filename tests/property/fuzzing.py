"""What the fuzzing tests share: the number of examples, a bound on work, and the rule for errors.

In the suite the examples are few and always the same; `make fuzz` sets FUZZ_EXAMPLES and takes new ones.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

EXAMPLES = os.environ.get("FUZZ_EXAMPLES")
fuzzed = settings(
    max_examples=int(EXAMPLES or 25),
    derandomize=EXAMPLES is None,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
MOST_CALLS = 2_000_000  # of functions, Python's and C's
LONGEST_ERROR = 3_000  # characters

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([10**400, -(10**400), 2**63, 10**12]),
    st.floats(),
    st.text(max_size=20),
)
plain = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=8) | st.sampled_from(["name", "threshold"]), inner, max_size=4)
    ),
    max_leaves=8,
)


@contextlib.contextmanager
def bounded_work(most: int = MOST_CALLS) -> Iterator[None]:
    """Fail once more functions are called than that."""
    calls = 0

    def count(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")
        if calls > most:
            sys.setprofile(None)
            raise AssertionError(f"more than {most} calls")

    previous = sys.getprofile()
    sys.setprofile(count)
    try:
        yield
    finally:
        sys.setprofile(previous)


def result_or_error(run: Callable[[], Any], *names: object) -> Any:
    """The result of `run`, or None after one ValueError that holds one of the names."""
    try:
        with bounded_work():
            return run()
    except ValueError as error:
        text = str(error)
    assert len(text) <= LONGEST_ERROR
    assert any(str(name) in text for name in names), text
    return None


@st.composite
def changed(draw: st.DrawFn, content: bytes, start: int = 0) -> bytes:
    """The bytes with some of them replaced, removed or added, none before `start`."""
    result = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(start, max(len(result), start)))
        end = place + draw(st.integers(0, 8))
        result[place:end] = draw(
            st.binary(max_size=8) | st.sampled_from([b"[", b'"', b"{}", b"-1", b"1e999"])
        )
    return bytes(result[: draw(st.integers(start, len(result)))] if draw(st.booleans()) else result)


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """The path of every value in JSON."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


def replaced(value: Any, path: tuple, new: Any) -> Any:
    """JSON with another value in one place."""
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy
