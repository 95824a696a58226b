"""YAML as plain values, with the scalars of YAML 1.2's core schema.

https://yaml.org/spec/1.2.2/#103-core-schema

PyYAML follows YAML 1.1, where 9:16 is 556, 010 is 8, a date is a date, and 1e-3 is text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import yaml

from videosys.utils.typed import Word

DEEPEST = 64  # nested sections and lists, aliases expanded
MOST_NODES = 20_000  # scalars, sections and lists, aliases expanded

_PREFIX = "tag:yaml.org,2002:"
_NUMBER = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
# Tag, pattern of a scalar without quotes, and the characters it may begin with ("" for an empty scalar).
_PATTERNS = (
    ("null", "~|null|Null|NULL|", ("~", "n", "N", "")),
    ("bool", "true|True|TRUE|false|False|FALSE", tuple("tTfF")),
    ("word", "yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF", tuple("yYnNoO")),  # true and false in YAML 1.1
    ("int", "[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", tuple("-+0123456789")),
    ("float", rf"{_NUMBER}|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", tuple("-+.0123456789")),
    ("merge", "<<", ("<",)),
)
_RESOLVERS = MappingProxyType(
    {
        letter: [
            (_PREFIX + tag, re.compile(rf"(?:{pattern})\Z"))
            for tag, pattern, letters in _PATTERNS
            if letter in letters
        ]
        for letter in {letter for _, _, letters in _PATTERNS for letter in letters}
    }
)


def parse_yaml(text: str) -> Any:
    """Return the content of a YAML document: None, bool, int, float, str, and lists and dicts of them.

    Unquoted yes, no, on and off are a `Word`. ValueError (yaml.YAMLError for syntax) for invalid YAML, for
    other types, duplicate keys, and more than `DEEPEST` levels or `MOST_NODES` values, which is checked
    before anything is built.
    """
    _check_amount(text)
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def _int(text: str) -> int:
    # A leading 0 has no meaning in YAML 1.2; int() with base 0 would refuse it.
    return int(text, 0) if text[:2] in ("0x", "0o") else int(text)


def _str(text: str) -> str:
    """Return a text whose characters above U+FFFF may be surrogate pairs, as in JSON."""
    return (
        text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
        if re.search("[\ud800-\udfff]", text)
        else text
    )


def _float(text: str) -> float:
    word = text.lower()
    return float(word.replace(".inf", "inf").replace(".nan", "nan"))


_SCALARS: Mapping[str, Callable[[str], Any]] = MappingProxyType(
    {
        "null": lambda text: None,
        "bool": lambda text: {"true": True, "false": False}[text.lower()],
        "word": Word,
        "int": _int,
        "float": _float,
        "str": _str,
    }
)


def _scalar(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    """Return the value of a node of this tag, which may have been written out (!!int)."""
    if not isinstance(node, yaml.ScalarNode):
        raise yaml.constructor.ConstructorError(None, None, "must be a single value", node.start_mark)
    try:
        return _SCALARS[node.tag.removeprefix(_PREFIX)](node.value)
    except (ValueError, KeyError):
        problem = f"{node.value[:40]!r} is not {node.tag.removeprefix(_PREFIX)}, or too large"
        raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from None


_CONSTRUCTORS = MappingProxyType(
    {
        **{_PREFIX + tag: _scalar for tag in _SCALARS},
        _PREFIX + "map": yaml.SafeLoader.construct_yaml_map,
        _PREFIX + "seq": yaml.SafeLoader.construct_yaml_seq,
        None: yaml.SafeLoader.construct_undefined,
    }
)


class _Loader(yaml.SafeLoader):
    """The safe loader with the scalars of YAML 1.2."""

    yaml_implicit_resolvers = _RESOLVERS
    yaml_constructors = _CONSTRUCTORS

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be text", key.start_mark)
            if key.value in seen and key.tag != f"{_PREFIX}merge":
                problem = f"the key {key.value!r} is given twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _check_amount(text: str) -> None:
    """Raise a ValueError for YAML that is too deep, too large, or recursive.

    PyYAML's event parser does not recurse; its constructor does.
    """
    known: dict[str, tuple[int, int]] = {}  # anchor -> (nodes, levels below)
    open_nodes: list[tuple[str | None, int, int]] = [(None, 0, 0)]

    def add(anchor: str | None, nodes: int, levels: int) -> None:
        if anchor is not None:
            known[anchor] = nodes, levels
        parent, count, deepest = open_nodes[-1]
        open_nodes[-1] = parent, count + nodes, max(deepest, levels)
        if len(open_nodes) - 1 + levels > DEEPEST:
            raise ValueError(f"is more than {DEEPEST} levels deep")
        if count + nodes > MOST_NODES:
            raise ValueError(f"has more than {MOST_NODES} values")

    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, 0, 0))
            add(None, 0, 0)
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, nodes, levels = open_nodes.pop()
            add(anchor, nodes + 1, levels + 1)
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in known:
                raise ValueError(f"the alias *{event.anchor} is undefined or refers to itself")
            add(None, *known[event.anchor])
        elif isinstance(event, yaml.ScalarEvent):
            add(event.anchor, 1, 0)
