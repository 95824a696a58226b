"""YAML 1.2's scalars, and bounds on what a document may make of itself."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
import yaml

from videosys import OpenSoraConfig
from videosys.config import MOST_BYTES, load_config
from videosys.utils import yaml12
from videosys.utils.yaml12 import parse_yaml


@dataclass(frozen=True)
class Words:
    text: str = ""
    number: float = 0.0
    quiet: bool = False
    either: bool | str = ""
    word: Literal["on", "auto"] | None = None
    texts: dict[str, str] = field(default_factory=dict)
    extra: Any = None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("9:16", "9:16"),
        ("190:20:30", "190:20:30"),
        ("12:30:45.5", "12:30:45.5"),
        ("2024-01-01", "2024-01-01"),
        ("2001-12-14t21:59:43.10-05:00", "2001-12-14t21:59:43.10-05:00"),
        ("010", 10),
        ("08", 8),
        ("0o10", 8),
        ("0x1F", 31),
        ("0b11", "0b11"),
        ("1_000", "1_000"),
        ("+1", 1),
        ("-12", -12),
        ("1e-3", 0.001),
        ("1E3", 1000.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("0.5625", 0.5625),
        ("-.inf", -math.inf),
        ("~", None),
        ("Null", None),
        ("TRUE", True),
        ("yes", "yes"),
        ("Off", "Off"),
        ("=", "="),
        ("'true'", "true"),
        ("!!str 5", "5"),
        (r'"\ud83d\udc08 \u00e9"', "\U0001f408 \u00e9"),
        ("!!int '5'", 5),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text, expected):
    value = parse_yaml(f"key: {text}")["key"]
    assert value == expected
    assert isinstance(value, type(expected))
    assert parse_yaml(text) == expected
    assert parse_yaml(f"- {text}") == [expected]


def test_anchors_and_merges_are_read():
    assert parse_yaml("a: &x {p: 1, q: 2}\nb: *x\nc: {<<: *x, q: 3}\n") == {
        "a": {"p": 1, "q": 2},
        "b": {"p": 1, "q": 2},
        "c": {"p": 1, "q": 3},
    }
    assert math.isnan(parse_yaml(".nan"))


def doubled(levels: int, item: str = "{}") -> str:
    """Lists that each name the one before nine times."""
    lines = ["a0: &a0 [x]"]
    for number in range(1, levels):
        names = ", ".join([f"*a{number - 1}"] * 9)
        lines.append(f"a{number}: &a{number} {item.format(f'[{names}]')}")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "more than 64 levels deep"),
        ("{a: " * 100_000, "more than 64 levels deep"),
        ("- " * 10_000 + "x", "more than 64 levels deep"),
        ("\n".join(" " * level + "a:" for level in range(900)), "more than 64 levels deep"),
        ("a0: &a0 [x]\n" + "\n".join(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 99)), "64 levels deep"),
        (doubled(30), "has more than 20000 values"),
        (doubled(30, "{{<<: {}}}"), "has more than 20000 values"),
        ("a: &a [*a]", r"alias \*a is undefined or refers to itself"),
        ("a: *b", r"alias \*b is undefined"),
        ("a: 1\na: 2", "'a' is given twice"),
        ("? [1]\n: 2", "a key must be text"),
        ("a: " + "9" * 5000, "is not int, or too large"),
        ("a: !!int 9:16", "'9:16' is not int"),
        ("a: !!int [1]", "must be a single value"),
        (r'a: "\ud800"', "is not str"),
        ("a: !!map 3", "expected a mapping"),
        ("a: !!seq {b: 1}", "expected a sequence"),
        ("a: !!binary aGk=", "could not determine a constructor"),
        ("a: !!timestamp 2024-01-01", "could not determine a constructor"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("--- 1\n--- 2", "expected a single document"),
    ],
)
def test_what_is_too_deep_too_much_or_of_another_type_is_refused(tmp_path, text, message):
    with pytest.raises((ValueError, yaml.YAMLError), match=message):
        parse_yaml(text)
    path = tmp_path / "some.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"some\.yaml: not valid YAML: .*{message}"):
        load_config(Words, path)


def test_the_bounds_are_as_said():
    deep = "[" * yaml12.DEEPEST + "]" * yaml12.DEEPEST
    assert str(parse_yaml(deep)) == deep
    with pytest.raises(ValueError, match="levels deep"):
        parse_yaml(f"[{deep}]")
    assert len(parse_yaml("- 1\n" * 5000)) == 5000


def test_no_more_of_a_deep_text_is_parsed_than_is_needed(monkeypatch):
    tokens = []
    original = yaml.scanner.Scanner.fetch_more_tokens
    monkeypatch.setattr(
        yaml.scanner.Scanner, "fetch_more_tokens", lambda self: tokens.append(1) or original(self)
    )
    with pytest.raises(ValueError, match="levels deep"):
        parse_yaml("[" * 100_000)
    assert len(tokens) < 2000  # it looks 1024 characters ahead for the end of a key


@pytest.mark.parametrize("word", ["yes", "Yes", "on", "ON"])
def test_yes_and_on_are_true_where_that_is_wanted_and_text_elsewhere(tmp_path, word):
    path = tmp_path / "some.yaml"
    path.write_text(
        f"text: {word}\nquiet: {word}\neither: {word}\ntexts: {{a: {word}}}\nextra: {word}\nword: 'on'\n"
    )
    assert load_config(Words, path) == Words(word, 0.0, True, True, "on", {"a": word}, word)
    assert type(load_config(Words, path).text) is str
    assert load_config(Words, None, [f"quiet={word}", f"text={word}"]) == Words(text=word, quiet=True)
    path.write_text(f"quiet: '{word}'")
    with pytest.raises(ValueError, match="quiet: must be true or false"):
        load_config(Words, path)


@pytest.mark.parametrize("word", ["no", "off", "OFF"])
def test_no_and_off_are_false_where_that_is_wanted(word):
    assert load_config(Words, {"quiet": True}, [f"quiet={word}"]).quiet is False


def test_an_unquoted_word_picks_among_words(tmp_path):
    path = tmp_path / "some.yaml"
    path.write_text("word: on")
    assert load_config(Words, path).word == "on"
    assert load_config(Words, None, ["word=on"]).word == "on"


@pytest.mark.parametrize("ratio", ["9:16", "'9:16'", "0.56", "0.560", "16:9", "1:1"])
def test_an_aspect_ratio_needs_no_quotes(tmp_path, ratio):
    path = tmp_path / "some.yaml"
    path.write_text(f"resolution: 240p\naspect_ratio: {ratio}\n")
    name = ratio.strip("'")
    expected = OpenSoraConfig(resolution="240p", aspect_ratio=name).size
    assert load_config(OpenSoraConfig, path).size == expected
    assert load_config(OpenSoraConfig, None, ["resolution=240p", f"aspect_ratio={name}"]).size == expected


def test_deep_overrides_are_text_or_an_error_that_names_the_key():
    deep = "[" * 500
    assert load_config(Words, None, [f"text={deep}"]).text == deep
    with pytest.raises(ValueError, match=r"number=.*must be a number"):
        load_config(Words, None, [f"number={deep}"])


def test_a_file_without_an_end_or_too_large_is_refused(tmp_path):
    path = tmp_path / "large.yaml"
    path.write_bytes(b"#" * (MOST_BYTES + 1))
    with pytest.raises(
        ValueError, match=r"large\.yaml: cannot be read: it is larger than the limit of 1 MiB"
    ):
        load_config(Words, path)
    with pytest.raises(ValueError, match="zero: cannot be read: it is a device, not a file"):
        load_config(Words, "/dev/zero")
