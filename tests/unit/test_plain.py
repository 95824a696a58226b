"""Dataclasses as plain values, and JSON files as dataclasses."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from videosys.utils.plain import finite, from_mapping, read_json, to_plain, unchanged


@dataclass(frozen=True)
class Fast:
    rate: float = 2.0


@dataclass(frozen=True)
class Slow:
    rate: float = 0.5


@dataclass(frozen=True)
class Part:
    speed: Fast | Slow = field(default=Fast(), metadata={"registry": {"fast": Fast, "slow": Slow}})
    sizes: dict[int, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class File:
    name: str
    part: Part = Part()
    count: int = field(default=1, metadata={"aliases": ("number",)})

    def __post_init__(self) -> None:
        assert self.count > 60 % self.count


def test_a_dataclass_becomes_what_json_holds_and_comes_back():
    file = File("a", Part(Slow(1.5), {3: (1, 2)}), 61)
    plain = to_plain(file)
    sizes = {3: [1, 2]}
    assert plain == {
        "name": "a",
        "part": {"speed": {"name": "slow", "rate": 1.5}, "sizes": sizes},
        "count": 61,
    }
    assert list(plain["part"]["speed"]) == ["name", "rate"]
    assert from_mapping(File, json.loads(json.dumps(plain))) == file


def test_numbers_keys_and_other_values_are_changed_as_asked():
    value = {1: (float("inf"), 0.5, True, 7), "path": Path("a/b"), "kind": File}
    assert to_plain(value) == {1: [float("inf"), 0.5, True, 7], "path": "a/b", "kind": str(File)}
    made = to_plain(value, number=finite, key=str, other=unchanged)
    assert made == {"1": [None, 0.5, True, 7], "path": Path("a/b"), "kind": File}
    assert type(made["1"][2]) is bool


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "must contain a JSON object, got list"),
        ("{}", "name: is missing"),
        ('{"name": 3}', "name: must be text, got 3"),
        ('{"name": "a", "nmae": 1}', "nmae: unknown key (did you mean 'name'?)"),
        ('{"name": "a", "part": {"speed": {"rate": "x"}}}', "part.speed.rate: must be a number, got 'x'"),
        ('{"name": "a", "part": {"speed": "fats"}}', "part.speed: must be one of 'fast', 'slow', got 'fats'"),
        ('{"name": "a", "count": 0}', "modulo"),
    ],
)
def test_a_wrong_file_is_one_error_with_its_path(tmp_path, text, message):
    path = tmp_path / "some.json"
    path.write_text(text)
    with pytest.raises(ValueError) as caught:
        read_json(File, path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    with pytest.raises(ValueError, match=r"absent\.json: no such file"):
        read_json(File, tmp_path / "absent.json")


def test_unknown_keys_are_ignored_where_the_reader_says_so(tmp_path):
    path = tmp_path / "some.json"
    path.write_text('{"name": "a", "_class_name": "X", "number": 61}')
    assert read_json(File, path, ignores_unknown=True) == File("a", count=61)
    path.write_text('{"name": 1, "_class_name": "X"}')
    with pytest.raises(ValueError, match="name: must be text"):
        read_json(File, path, ignores_unknown=True)
