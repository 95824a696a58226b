"""Messages come back as they were packed, and any change of their bytes is a value or one ValueError."""

from __future__ import annotations

import json
import math
import sys
import tracemalloc
from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from videosys import LatteConfig, OpenSoraConfig, PABConfig, ParallelConfig, Reference, TeaCacheConfig
from videosys.cache import StepRecord
from videosys.engine import messages as m
from videosys.engine.codec import DTYPES, PREFIX_BYTES
from videosys.generation.request import VideoOutput

CODEC = m.message_codec()
STEP = StepRecord(0, 999.5, None, float("inf"), 0.25, True)
quickly = settings(max_examples=200, deadline=None, derandomize=True)

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(st.characters(), max_size=20)
)
tensors = st.builds(
    lambda dtype, shape: torch.arange(math.prod(shape)).reshape(shape).to(dtype),
    st.sampled_from(sorted(DTYPES.values(), key=str)),
    st.lists(st.integers(0, 3), max_size=4),
)
dataclasses = st.one_of(
    st.builds(ParallelConfig, num_gpus=st.integers(1, 64), timeout=st.floats(1e-3, 1e6)),
    st.builds(TeaCacheConfig, threshold=st.floats(0, 10), coefficients=st.tuples(st.floats(-9, 9))),
    st.builds(LatteConfig, seed=st.integers(0, 2**32), negative_prompt=st.text(max_size=9)),
)
values = st.recursive(
    st.one_of(scalars, dataclasses, st.text("ab/.", max_size=9).map(Path)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(scalars, inner, max_size=4),
    ),
    max_leaves=12,
)
MESSAGES = [
    m.Open(OpenSoraConfig(cache=PABConfig()), 3, ["a", "b \u2192"], {"references": [Reference("a.png")]}, 20),
    m.Output(3, VideoOutput([torch.zeros(1, 2, 2, 3, dtype=torch.uint8)] * 2, ["a"], [1], [[STEP]], 8.0)),
    m.Log("videosys", 20, "INFO", "text", 1.5, {"x": [1, None]}),
]
PACKED = [CODEC.pack(message) for message in MESSAGES]


@quickly
@given(values)
def test_values_come_back_and_equal_values_have_equal_bytes(value):
    data = CODEC.pack(value)
    copy = CODEC.unpack(data)
    assert copy == value
    assert type(copy) is type(value)
    assert CODEC.pack(copy) == data


@quickly
@given(st.lists(tensors, max_size=4))
def test_tensors_come_back(contents):
    copies = CODEC.unpack(CODEC.pack(contents))
    for tensor, copy in zip(contents, copies, strict=True):
        assert (copy.dtype, copy.shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(copy, tensor)


def error_of(data: bytes) -> str | None:
    """What is said about the bytes; None where they are a value, which can be packed again."""
    try:
        value = CODEC.unpack(data)
    except ValueError as error:
        return str(error)
    CODEC.unpack(CODEC.pack(value))
    return None


def assert_value_or_error(data: bytes) -> None:
    """A value or one ValueError; no import, and memory bounded by the data."""
    modules = len(sys.modules)
    tracemalloc.start()
    error = error_of(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert error is None or error.startswith("a message from another process is refused: ")
    assert len(sys.modules) == modules
    assert peak < 200 * len(data) + 1_000_000


MARKS = [b"[", b'"', b"{}", b"-1", b"1e999", b"NaN"]


@quickly
@given(st.sampled_from(PACKED), st.data())
def test_changed_bytes_are_a_value_or_one_error(packed, data):
    changed = bytearray(packed)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(changed)))
        end = start + data.draw(st.integers(0, 8))
        changed[start:end] = data.draw(st.binary(max_size=8) | st.sampled_from(MARKS))
    assert_value_or_error(bytes(changed))


def spots(plain, path=()):
    """The path of every value in JSON."""
    yield path
    items = plain.items() if isinstance(plain, dict) else enumerate(plain) if isinstance(plain, list) else ()
    for key, item in items:
        yield from spots(item, (*path, key))


def replaced(plain, path, value):
    if not path:
        return value
    copy = plain.copy()
    copy[path[0]] = replaced(plain[path[0]], path[1:], value)
    return copy


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["tuple", "dict", "path", "tensor", "class"]), inner, max_size=2)
        | st.tuples(st.sampled_from(sorted(CODEC.types)), inner).map(list)
    ),
    max_leaves=6,
)


@settings(quickly, max_examples=400)
@given(st.sampled_from(PACKED), st.data())
def test_changed_headers_are_a_value_or_one_error(packed, data):
    end = PREFIX_BYTES + int.from_bytes(packed[:PREFIX_BYTES], "big")
    header = json.loads(packed[PREFIX_BYTES:end])
    path = data.draw(st.sampled_from(list(spots(header))))
    text = json.dumps(replaced(header, path, data.draw(json_values))).encode()
    assert_value_or_error(len(text).to_bytes(PREFIX_BYTES, "big") + text + packed[end:])


@quickly
@given(st.binary(max_size=200))
def test_any_header_is_a_value_or_one_error(header):
    assert_value_or_error(len(header).to_bytes(PREFIX_BYTES, "big") + header)


@quickly
@given(st.binary(max_size=50))
def test_any_bytes_are_a_value_or_one_error(data):
    assert_value_or_error(data)
