"""Conversion between dataclasses and plain data (numbers, text, lists, mappings), as in JSON and YAML.

A field whose type is a union of dataclasses has `field(metadata={"registry": {name: class}})`; the
section's `name` selects the class, or the preset if the registry has an instance. A field may also have
`metadata={"aliases": ("old_name",)}`, or `metadata={"read": function}` to convert its plain value.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from videosys.utils.foreign import foreign_name
from videosys.utils.reading import load_json_object
from videosys.utils.typed import Text, check_limit, convert, listing, suggest

T = TypeVar("T")
Layer = Mapping[Any, Any]  # one source of settings for a section; later layers win
NAME = ("name",)  # the key of a section that selects its class
# What the constructor of a config may raise for impossible numbers.
WRONG_NUMBERS = (TypeError, ArithmeticError, LookupError)

_LOG = logging.getLogger("videosys.config")


def unchanged(value: Any) -> Any:
    """The value itself: no conversion is needed."""
    return value


def finite(number: float) -> float | None:
    """Return the number, or None if JSON cannot represent it (NaN, infinity)."""
    return number if math.isfinite(number) else None


def to_plain(
    value: Any,
    *,
    number: Callable[[float], Any] = unchanged,
    key: Callable[[Any], Any] = unchanged,
    other: Callable[[Any], Any] = str,
) -> Any:
    """Return `value` as numbers, text, None, lists and dicts.

    Tuples become lists, and dataclasses dicts of their fields; a section chosen by name gets the name as
    first key. `number` converts each float, `key` each key of a mapping, and `other` values of other types.
    """

    def walk(value: Any) -> Any:
        if value is None or isinstance(value, (bool, int, str)):
            return value
        if isinstance(value, float):
            return number(value)
        if isinstance(value, (list, tuple)):
            return [walk(item) for item in value]
        if isinstance(value, Mapping):
            return {key(name): walk(item) for name, item in value.items()}
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {item.name: named(item, getattr(value, item.name)) for item in dataclasses.fields(value)}
        return other(value)

    def named(item: dataclasses.Field, value: Any) -> Any:
        registry = item.metadata.get("registry")
        if not registry or not dataclasses.is_dataclass(value):
            return walk(value)
        return {"name": name_in(registry, value), **walk(value)}

    return walk(value)


def name_in(registry: Mapping[str, Any], value: Any) -> str:
    """Return the name of a choice: its class, or a preset of that class (all fields are written too)."""
    names = [name for name, choice in registry.items() if choice is type(value)]
    return names[0] if names else next(name for name, item in registry.items() if type(item) is type(value))


def read_json(cls: type[T], path: str | Path, *, ignores_unknown: bool = False) -> T:
    """Return the dataclass `cls` that a JSON file describes.

    A missing or damaged file, a value of the wrong type, a missing value and an unknown key (unless it is
    ignored) are a ValueError that names the file and the key.
    """
    content = load_json_object(path)
    if ignores_unknown:
        known = {name for item in _fields(cls).values() for name in (item.name, *_old_names(item))}
        _LOG.debug("%s: ignored keys: %s", path, sorted(content.keys() - known))
        content = {key: value for key, value in content.items() if key in known}
    try:
        return from_mapping(cls, content, str(path))
    except WRONG_NUMBERS as error:
        raise ValueError(f"{path}: {error}") from error


def from_mapping(cls: type[T], settings: Layer, where: str = "") -> T:
    """Return an instance of the dataclass `cls` from plain values, such as a JSON file's.

    `where` starts every message. Invalid values are a ValueError that names the key.
    """
    return build(cls, [settings], None, Place(where, ""))


@dataclasses.dataclass(frozen=True)
class Place:
    """The place of a value for messages: the file (or nothing) and the dotted key."""

    file: str
    key: str

    def at(self, name: object) -> Place:
        """Return the place of a key in this section."""
        return Place(self.file, f"{self.key}.{name}" if self.key else str(name))

    def error(self, message: str, value: object = None) -> ValueError:
        """Return an error that names the place, or the override where `value` is the text of one.

        A message that begins with a key of this section, such as `cache.speedup`, keeps that as its key.
        """
        if isinstance(value, Text):
            return ValueError(f"{self.key}={value}: {message}")
        key = "" if message.startswith(f"{self.key}.") else self.key
        return ValueError(": ".join(part for part in (self.file, key, message) if part))


def build(
    cls: type[T], layers: Sequence[Layer], base: T | None, place: Place, others: Sequence[str] = ()
) -> T:
    """Return `cls` with the layers' settings over those of `base`, or over the defaults without one.

    others: keys of the section that are not fields, for errors.
    """
    fields = _fields(cls)
    layers = [_renamed(layer, fields, place, others) for layer in layers]
    adapted = getattr(base, "adapted", None)
    if adapted is not None:  # the layers' settings may invalidate other settings of the base
        base = adapted({key: value for layer in layers for key, value in layer.items()})
    values = {} if base is None else {name: getattr(base, name) for name in fields}
    hints = typing.get_type_hints(cls)
    for name, item in fields.items():
        settings = [layer[name] for layer in layers if name in layer]
        if settings:
            values[name] = _field_value(item, hints[name], settings, _default(item, base), place.at(name))
        elif name not in values and _default(item, None) is dataclasses.MISSING:
            raise place.at(name).error("is missing")
    try:
        return cls(**values)
    except ValueError as error:
        raise place.error(str(error)) from error


def _fields(cls: type) -> dict[str, dataclasses.Field]:
    """Return the constructor fields of a dataclass, by name."""
    return {item.name: item for item in dataclasses.fields(cls) if item.init}


def _old_names(item: dataclasses.Field) -> tuple[str, ...]:
    return item.metadata.get("aliases", ())


def _renamed(
    layer: Layer, fields: Mapping[str, dataclasses.Field], place: Place, others: Sequence[str]
) -> dict[str, Any]:
    """Return the layer with old names replaced; an unknown key is an error."""
    aliases = {old: item.name for item in fields.values() for old in _old_names(item)}
    current: dict[str, Any] = {}
    for key, value in layer.items():
        name = aliases.get(key) or key
        if name not in fields:
            hint = foreign_name(key, fields, place.key) or suggest(key, [*others, *fields])
            raise place.at(key).error(f"unknown key{hint}; {_allowed(fields, others)}", value)
        if name in current:
            old = next(word for word in layer if word != name and aliases.get(word) == name)
            raise place.at(old).error(f"is the old name of {name!r}, which is also given", layer[old])
        if name != key:
            _LOG.warning("%s is now called %s", place.at(key).key, name)
        current[name] = value
    return current


def _allowed(fields: Iterable[str], others: Sequence[str]) -> str:
    """A text with the allowed keys of a section."""
    if fields:
        return f"allowed: {listing([*others, *sorted(fields)])}"
    return f"no keys are allowed here{f' except {listing(others)}' if others else ''}"


def _default(item: dataclasses.Field, base: Any) -> Any:
    if base is not None:
        return getattr(base, item.name)
    return item.default_factory() if item.default_factory is not dataclasses.MISSING else item.default


def _field_value(item: dataclasses.Field, hint: Any, settings: list[Any], default: Any, place: Place) -> Any:
    if "registry" in item.metadata:
        return _choice(item.metadata["registry"], settings, default, place)
    if "read" in item.metadata:
        return _read(item.metadata["read"], settings[-1], place)
    members = typing.get_args(hint) or (hint,)
    for member in members:
        if dataclasses.is_dataclass(member):
            return _section(member, type(None) in members, settings, default, place)  # type: ignore[arg-type]
    try:
        value = convert(settings[-1], hint)
        check_limit(item, value)
    except ValueError as error:
        raise place.error(str(error), settings[-1]) from error
    return value


def _read(read: Callable[[Any], Any], value: Any, place: Place) -> Any:
    """Convert a value with the field's reader."""
    try:
        return read(value.parsed if isinstance(value, Text) else value)
    except ValueError as error:
        raise place.error(str(error), value) from error


def _section(cls: type, is_optional: bool, settings: list[Any], default: Any, place: Place) -> Any:
    values = [value.parsed if isinstance(value, Text) else value for value in settings]
    if values[-1] is None and is_optional:
        return None
    for value in values:
        if value is not None and not isinstance(value, dict):
            raise place.error(f"must be a section of `key: value`, got {value!r}")
    base = default if isinstance(default, cls) else None
    return build(cls, [value or {} for value in values], base, place)


def chosen(registry: Mapping[str, Any], value: Mapping[str, Any], key: str) -> Any:
    """The settings of a section with a `name` from the registry. ValueError that begins with `key`."""
    return _choice(registry, [dict(value)], None, Place("", key))


def _choice(registry: Mapping[str, Any], settings: list[Any], default: Any, place: Place) -> Any:
    """Return the section with the class that the last `name` selects, or the default's class."""
    layers = [_named(value, place) for value in settings]
    starts = [index for index, layer in enumerate(layers) if "name" in layer]
    if not starts:
        if not dataclasses.is_dataclass(default) or (any(layers) and not _fields(type(default))):
            raise place.error(f"needs a name, one of {listing(registry)}")
        return build(type(default), layers, default, place, NAME)
    layers = layers[starts[-1] :]
    name = layers[0].pop("name")
    if name not in registry:
        raise place.error(f"must be one of {listing(registry)}, got {str(name)!r}{suggest(name, registry)}")
    choice = registry[name]
    cls, base = (choice, None) if isinstance(choice, type) else (type(choice), choice)
    return build(cls, layers, base, place, NAME)


def _named(value: Any, place: Place) -> dict[str, Any]:
    """Return a section as a new mapping: a single word is its name, and null is the name "none"."""
    if isinstance(value, Text):
        value = value.parsed
    if value is None or isinstance(value, str):
        return {"name": value or "none"}
    if not isinstance(value, dict):
        raise place.error(f"must be a name or a section of `key: value`, got {value!r}")
    name = value.get("name")
    if name is not None and not isinstance(name, str):
        raise place.at("name").error(f"must be text, got {name!r}")
    return {**value, "name": str(name or "none")} if "name" in value else {**value}
