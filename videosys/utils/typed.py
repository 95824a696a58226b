"""Converts plain values (JSON, YAML, a command line) to the types that a dataclass annotates."""

from __future__ import annotations

import collections.abc
import dataclasses
import difflib
import numbers
import types
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

LARGEST_NUMBER = 2**63 - 1  # of whole numbers without another limit
LONGEST_LIST = 1_000_000
LONG_INTEGER = 1000  # bits
LONGEST_TEXT = 1_000_000  # characters


class Text(str):
    """User input for one key: a text field uses it unchanged, any other field uses `parsed`."""

    parsed: Any

    def __new__(cls, text: str, parsed: Any) -> Text:
        instance = super().__new__(cls, text)
        instance.parsed = parsed
        return instance


class Word(str):
    """An unquoted yes, no, on or off in YAML: text, or a boolean for boolean fields."""

    @property
    def is_yes(self) -> bool:
        return self.lower() in ("yes", "on")


def convert(value: Any, hint: Any) -> Any:
    """Return `value` as the annotated type `hint`.

    If `hint` requires it, whole numbers become floats, lists tuples and text a path; and numbers
    of other libraries become Python's. There are no other conversions. A value that does not fit
    is a ValueError whose message starts with "must be", for the caller to put the name in front.
    """
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return _union(value, hint)
    if origin is Literal:
        return _literal(value, hint)
    if isinstance(value, Text):
        value = str(value) if hint in (str, Path) else value.parsed
    if isinstance(value, Word):
        value = value.is_yes if hint is bool else str(value)
    if hint in (Any, object):
        return value
    if origin in _CONTAINERS:
        return _CONTAINERS[origin](value, hint)
    if hint not in _SCALARS:
        raise TypeError(f"a config field cannot have the type {hint}")
    return _SCALARS[hint](value, hint)


# Limits of several configs, far above any real model or video.
MOST_STEPS, MOST_FRAMES, MOST_PIXELS = 10_000, 10_000, 16_384  # pixels: of one side
MOST_BLOCKS, MOST_HEADS, MOST_CHANNELS, MOST_LEVELS = 1000, 1024, 65_536, 64


def limited(default: Any = dataclasses.MISSING, *, most: float, **metadata: Any) -> Any:
    """A dataclass field whose number, or each number in its list, must be `most` or less.

    metadata: further metadata of the field, such as `longest`, the maximum number of items of a list.
    """
    return dataclasses.field(default=default, metadata={"most": most, **metadata})


def check_limit(field: dataclasses.Field, value: Any) -> None:
    """Raise a ValueError for a value above its field's limit.

    The message starts with "is", for the caller to put the name in front. Fields without a limit
    have the general ones for whole numbers, lists and texts.
    """
    own = field.metadata.get("most")
    if isinstance(value, str):
        _check_length(value, LONGEST_TEXT, "characters")
    elif isinstance(value, (list, tuple)):
        _check_length(value, field.metadata.get("longest", LONGEST_LIST), "items")
        for item in value:
            check_limit(field, item)
    elif isinstance(value, int) or (own is not None and isinstance(value, float)):
        most = LARGEST_NUMBER if own is None else own
        if value > most:
            raise ValueError(f"is {shown(value)}; it must be {most} or less")


def _check_length(value: Any, longest: int, unit: str) -> None:
    if len(value) > longest:
        raise ValueError(f"has {len(value)} {unit}; there must be {longest} or fewer")


def check_types(config: Any) -> None:
    """Raise a ValueError naming the first field of a dataclass with a wrong type, or
    above its limit (`limited`).

    Numbers of other libraries, such as numpy's, are replaced by Python's for JSON. For use in
    `__post_init__`, also of frozen dataclasses.
    """
    hints = get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        try:
            checked = _checked(value, hints[field.name])
            check_limit(field, checked)
        except ValueError as error:
            raise ValueError(f"{field.name} {error}") from error
        if _is_foreign(value):
            object.__setattr__(config, field.name, checked)


def _checked(value: Any, hint: Any) -> Any:
    members = get_args(hint) or (hint,)
    if not any(dataclasses.is_dataclass(member) for member in members):
        return convert(value, hint)
    if get_origin(hint) is tuple:
        items = value if isinstance(value, tuple) else (value,)
        return tuple(_checked(item, members[0]) for item in items)
    if not any(_is_member(value, member) for member in members):
        names = " or ".join(member.__name__ for member in members)
        raise ValueError(f"must be {names}, got {shown(value)}")
    return value


def _is_member(value: Any, member: type) -> bool:
    return isinstance(value, member) if dataclasses.is_dataclass(member) else type(value) is member


def check_between(name: str, value: float, least: float, most: float) -> None:
    """ValueError for a number outside least..most, and for one that is not a number."""
    if not least <= value <= most:
        word = "or" if isinstance(value, int) and most - least == 1 else "to"
        raise ValueError(f"{name} is {value}; it must be {least:g} {word} {most:g}")


def check_positive(config: Any, *names: str) -> None:
    """Raise a ValueError naming the first of these fields that is not above 0 (in a list: all items)."""
    for name in names:
        value = getattr(config, name)
        items = value if isinstance(value, (tuple, list)) else (value,)
        if not items or not all(item > 0 for item in items):
            raise ValueError(f"{name} is {value}; it must be above 0")


def check_multiple(config: Any, name: str, of: str) -> None:
    """Raise a ValueError if a field, or one of its items, is not a multiple of the field `of`."""
    value, factor = getattr(config, name), getattr(config, of)
    for item in value if isinstance(value, (tuple, list)) else (value,):
        if item % factor:
            raise ValueError(f"{name} is {value}; each must be a multiple of {of}, which is {factor}")


def check_characters(name: str, text: str) -> None:
    """Raise a ValueError for text with invalid characters, as from bytes that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        shown = ascii(text[max(error.start - 20, 0) : error.start + 20])
        raise ValueError(f"{name} is not valid UTF-8 text, at {shown}") from None


def _is_foreign(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(map(_is_foreign, value))
    return isinstance(value, numbers.Real) and type(value) not in (bool, int, float)


def suggest(name: object, options: Iterable[object]) -> str:
    """Return " (did you mean 'x'?)" for the nearest of `options`, or "" if none is similar."""
    near = difflib.get_close_matches(str(name), [str(option) for option in options], n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def listing(options: Iterable[object]) -> str:
    """Return the options as `'a', 'b', 3`, for messages."""
    return ", ".join(repr(option) for option in options)


def describe(hint: Any) -> str:
    """Return a short description of the values of the annotated type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(describe(member) for member in arguments)
    if origin is Literal:
        return f"one of {listing(arguments)}" if len(arguments) > 1 else listing(arguments)
    if origin is tuple and arguments[-1] is not Ellipsis:
        return f"a list of {len(arguments)} ({', '.join(describe(item) for item in arguments)})"
    if origin in _CONTAINERS:
        word = "a mapping" if origin in (dict, collections.abc.Mapping) else "a list"
        return f"{word} of {describe(arguments[-1] if arguments[-1] is not Ellipsis else arguments[0])}"
    return _WORDS.get(hint, str(hint))


def _refuse(value: Any, hint: Any, advice: str = "") -> ValueError:
    return ValueError(f"must be {describe(hint)}, got {shown(value)}{advice}")


def shown(value: Any) -> str:
    """The value's repr in at most 80 characters, for errors."""
    if isinstance(value, int) and value.bit_length() > LONG_INTEGER:  # Python refuses to write it
        return "a number with hundreds of digits"
    text = repr(str(value)) if isinstance(value, str) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _union(value: Any, hint: Any) -> Any:
    members = get_args(hint)
    # Everything can be read as text, so it is tried last.
    for member in sorted(members, key=lambda member: member is str):
        try:
            return convert(value, member)
        except ValueError:
            continue
    literals = [word for member in members if get_origin(member) is Literal for word in get_args(member)]
    raise _refuse(value, hint, suggest(value, literals))


def _literal(value: Any, hint: Any) -> Any:
    allowed = get_args(hint)
    candidates = (str(value), value.parsed) if isinstance(value, Text) else (value,)
    for candidate in (str(item) if isinstance(item, str) else item for item in candidates):
        for option in allowed:
            if type(candidate) is type(option) and candidate == option:
                return option
    raise _refuse(value, hint, suggest(value, allowed))


def _sequence(value: Any, hint: Any) -> Any:
    if not isinstance(value, (list, tuple)):
        raise _refuse(value, hint)
    kind, arguments = get_origin(hint), get_args(hint)
    fixed = kind is tuple and arguments[-1] is not Ellipsis
    if fixed and len(value) != len(arguments):
        raise _refuse(value, hint)
    hints = arguments if fixed else [arguments[0]] * len(value)
    items = [_item(item, item_hint, index) for index, (item, item_hint) in enumerate(zip(value, hints))]
    return items if kind is list else tuple(items)


def _mapping(value: Any, hint: Any) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise _refuse(value, hint)
    key_hint, item_hint = get_args(hint)
    return {_key(key, key_hint): _item(item, item_hint, key) for key, item in value.items()}


def _key(key: Any, hint: Any) -> Any:
    # JSON keys are always text.
    number = hint is int and isinstance(key, str) and key.isdecimal()
    return int(key) if number else _item(key, hint, key)


def _item(value: Any, hint: Any, index: object) -> Any:
    try:
        return convert(value, hint)
    except ValueError as error:
        raise ValueError(f"has an invalid item: item {index!r} {error}") from error


def _exact(value: Any, hint: Any) -> Any:
    if type(value) is not hint:
        raise _refuse(value, hint, " (put it in quotes)" if hint is str and value is not None else "")
    return value


def _int(value: Any, hint: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise _refuse(value, hint)
    return int(value)


def _float(value: Any, hint: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise _refuse(value, hint)
    try:
        return float(value)
    except OverflowError:  # a whole number of more than 308 digits
        raise _refuse(value, hint, " (too large)") from None


def _path(value: Any, hint: Any) -> Path:
    if not isinstance(value, (str, Path)):
        raise _refuse(value, hint)
    return Path(value)


def _none(value: Any, hint: Any) -> None:
    if value is not None:
        raise _refuse(value, hint)


_CONTAINERS: Mapping[Any, Callable[[Any, Any], Any]] = types.MappingProxyType(
    {
        tuple: _sequence,
        list: _sequence,
        collections.abc.Sequence: _sequence,
        dict: _mapping,
        collections.abc.Mapping: _mapping,
    }
)
_SCALARS: Mapping[Any, Callable[[Any, Any], Any]] = types.MappingProxyType(
    {int: _int, bool: _exact, str: _exact, float: _float, Path: _path, types.NoneType: _none}
)
_WORDS: Mapping[Any, str] = types.MappingProxyType(
    {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "text",
        Path: "a path",
        types.NoneType: "null",
    }
)
