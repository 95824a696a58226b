"""Numbers of other libraries are numbers, and become Python's own."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest

from videosys import OpenSoraConfig, TeaCacheConfig, config_to_dict
from videosys.utils.typed import check_types, convert


@dataclass(frozen=True)
class Config:
    count: int = 1
    rate: float = 1.0
    sizes: tuple[int, ...] = ()
    seed: int | None = None
    length: int | str = 1

    def __post_init__(self) -> None:
        check_types(self)


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (np.int64(7), int, 7),
        (np.uint8(7), int, 7),
        (np.int32(7), float, 7.0),
        (np.float32(0.5), float, 0.5),
        (np.float64(0.5), float, 0.5),
        (np.int64(7), int | str, 7),
        ([np.int64(7), 8], tuple[int, ...], (7, 8)),
    ],
)
def test_numpy_numbers_become_python_numbers(value, hint, expected):
    made = convert(value, hint)
    assert made == expected
    assert type(made) is type(expected)
    assert not isinstance(made, tuple) or {type(item) for item in made} == {int}


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (np.float64(7.0), int),
        (np.bool_(True), int),
        (np.bool_(True), float),
        (True, int),
        (True, float),
        (1j, float),
        (np.array([1, 2]), int),
        ("7", int),
    ],
)
def test_what_is_no_such_number_is_refused(value, hint):
    with pytest.raises(ValueError, match="must be"):
        convert(value, hint)


def test_a_checked_config_holds_python_numbers():
    made = Config(np.int64(3), np.float32(0.5), (1, np.int16(2)), np.int64(5), np.int64(17))
    assert made == Config(3, 0.5, (1, 2), 5, 17)
    assert [type(value) for value in (made.count, made.rate, made.seed, made.length)] == [
        int,
        float,
        int,
        int,
    ]
    assert type(made.sizes[1]) is int
    assert type(Config(rate=2).rate) is int  # what Python has is left as it is


def test_a_config_from_numpy_numbers_is_written_as_numbers():
    config = OpenSoraConfig(
        height=np.int64(64), width=np.int32(96), seed=np.int64(3), cache=TeaCacheConfig(np.float32(0.25))
    )
    about = json.loads(json.dumps(config_to_dict(config)))
    assert (about["height"], about["width"], about["seed"], about["cache"]["threshold"]) == (64, 96, 3, 0.25)
