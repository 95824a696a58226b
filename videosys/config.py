"""One instance of a frozen dataclass from its defaults, a YAML or Python file, and key=value overrides.

A field whose type is a union of dataclasses carries `field(metadata={"registry": {name: class}})`; the
section's `name` picks the class, or the preset where the registry holds an instance. A field may carry
`metadata={"aliases": ("old_name",)}`.
"""

from __future__ import annotations

import dataclasses
import io
import logging
import re
import runpy
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from videosys.utils.typed import Text, convert, listing, suggest

T = TypeVar("T")
Layer = Mapping[Any, Any]  # one source of settings for a section; later layers win

_OVERRIDE = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)=(.*)", re.DOTALL)
_LOG = logging.getLogger("videosys.config")


def load_config(cls: type[T], path: str | Path | None = None, overrides: Iterable[str] = ()) -> T:
    """Return an instance of the dataclass `cls`: its defaults, then the file, then the overrides.

    `path` is a YAML file, or a Python file (which is run) that sets `config`. An override is `key=value`
    with dots for sections; text fields take the value as it is, the others read it as YAML. Naming a
    choice (`cache=teacache`, `cache: {name: teacache}`) starts from that choice's defaults, whatever
    stood before. Every mistake of the user is a ValueError that names the file and the key.
    """
    base, layer = (None, {}) if path is None else _read(cls, Path(path))
    place = _Place("" if path is None else str(path), "")
    return _build(cls, [layer, _parse_overrides(overrides)], base, place)


def from_mapping(cls: type[T], settings: Layer, where: str = "") -> T:
    """Return an instance of the dataclass `cls` from plain values, such as a JSON file's.

    `where` stands in front of every complaint. Errors are those of `load_config`.
    """
    return _build(cls, [settings], None, _Place(where, ""))


def config_to_dict(config: Any) -> dict[str, Any]:
    """Return a config as plain values that JSON and YAML can hold; `load_config` reads them back.

    A section chosen by name gets its name as first key.
    """
    made: dict[str, Any] = {}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        made[item.name] = _plain(value)
        registry = item.metadata.get("registry")
        if registry and dataclasses.is_dataclass(value):
            made[item.name] = {"name": _name(registry, value), **made[item.name]}
    return made


def _name(registry: Mapping[str, Any], value: Any) -> str:
    """Return the name of a choice: its class, or a preset of that class (all fields are given too)."""
    names = [name for name, choice in registry.items() if choice is type(value)]
    return names[0] if names else next(name for name, item in registry.items() if type(item) is type(value))


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where a value stands, for messages: the file (or nothing) and the dotted key."""

    file: str
    key: str

    def at(self, name: object) -> _Place:
        return _Place(self.file, f"{self.key}.{name}" if self.key else str(name))

    def error(self, message: str, value: object = None) -> ValueError:
        if isinstance(value, Text):
            return ValueError(f"{self.key}={value}: {message}")
        return ValueError(": ".join(part for part in (self.file, self.key, message) if part))


def _read(cls: type, path: Path) -> tuple[Any, Layer]:
    """Return (base instance or None, settings) of a file."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ValueError(f"{path}: no such config file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from error
    if path.suffix == ".py":
        return _run_python(cls, path), {}
    return None, _parse_yaml(text, path)


def _parse_yaml(text: str, path: Path) -> Layer:
    try:
        # OmegaConf's loader reads 1e-3 as a number and refuses a key given twice.
        data = OmegaConf.to_container(OmegaConf.load(io.StringIO(text)))
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ValueError(f"{path}: not valid YAML: {error}") from error
    except OSError:
        data = None  # a lone number
    if not isinstance(data, dict) or data == {text.strip(): None}:
        raise ValueError(f"{path}: must hold `key: value` lines, got {text.strip()[:40]!r}")
    return data


def _run_python(cls: type, path: Path) -> Any:
    try:
        config = runpy.run_path(str(path)).get("config")
    except (Exception, SystemExit) as error:
        raise ValueError(f"{path}: {type(error).__name__}: {error}") from error
    if not isinstance(config, cls):
        raise ValueError(f"{path}: must set `config` to a {cls.__name__}, got {type(config).__name__}")
    return config


def _parse_overrides(overrides: Iterable[str]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for override in overrides:
        match = _OVERRIDE.fullmatch(override)
        if match is None:
            raise ValueError(f"override {override!r}: must be key=value, for example cache.threshold=0.2")
        *sections, key = match[1].split(".")
        section = tree
        for name in sections:
            section[name] = section = _opened(section.get(name), override)
        section[key] = Text(match[2], _parse_value(match[2]))
    return tree


def _opened(value: Any, override: str) -> dict[str, Any]:
    """Return a section that an override goes into, whatever an earlier override made of it."""
    if isinstance(value, Text):
        value = {"name": value} if isinstance(value.parsed, str) else value.parsed
    if value is None or isinstance(value, dict):
        return value or {}
    raise ValueError(f"override {override!r}: an earlier override set this section to {value!r}")


def _parse_value(text: str) -> Any:
    try:
        return OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))["value"]  # type: ignore
    except (yaml.YAMLError, OmegaConfBaseException):
        return text


def _build(cls: type[T], layers: Sequence[Layer], base: T | None, place: _Place) -> T:
    """Return `cls` with the layers' settings over those of `base`, or over the defaults without one."""
    fields = {item.name: item for item in dataclasses.fields(cls) if item.init}  # type: ignore[arg-type]
    layers = [_renamed(layer, fields, place) for layer in layers]
    adapted = getattr(base, "adapted", None)
    if adapted is not None:  # what is given may leave no sense to other settings of the base
        base = adapted({key: value for layer in layers for key, value in layer.items()})
    values = {} if base is None else {name: getattr(base, name) for name in fields}
    hints = typing.get_type_hints(cls)
    for name, item in fields.items():
        given = [layer[name] for layer in layers if name in layer]
        if given:
            values[name] = _field_value(item, hints[name], given, _default(item, base), place.at(name))
        elif name not in values and _default(item, None) is dataclasses.MISSING:
            raise place.at(name).error("is missing")
    try:
        return cls(**values)
    except ValueError as error:
        raise place.error(str(error)) from error


def _renamed(layer: Layer, fields: Mapping[str, dataclasses.Field], place: _Place) -> dict[str, Any]:
    """Return the layer with old names replaced; a key that no field has is an error."""
    aliases = {old: item.name for item in fields.values() for old in item.metadata.get("aliases", ())}
    made: dict[str, Any] = {}
    for key, value in layer.items():
        name = aliases.get(key) or key
        if name not in fields:
            allowed = f"the keys here are {listing(sorted(fields))}" if fields else "there are no keys here"
            raise place.at(key).error(f"unknown key{suggest(key, fields)}; {allowed}", value)
        if name in made:
            old = next(word for word in layer if word != name and aliases.get(word) == name)
            raise place.at(old).error(f"is the old name of {name!r}, which is given too", layer[old])
        if name != key:
            _LOG.warning("%s is called %s now", place.at(key).key, name)
        made[name] = value
    return made


def _default(item: dataclasses.Field, base: Any) -> Any:
    if base is not None:
        return getattr(base, item.name)
    return item.default_factory() if item.default_factory is not dataclasses.MISSING else item.default


def _field_value(item: dataclasses.Field, hint: Any, given: list[Any], default: Any, place: _Place) -> Any:
    if "registry" in item.metadata:
        return _chosen(item.metadata["registry"], given, default, place)
    section = _section_class(hint)
    if section is not None:
        return _section(section, hint, given, default, place)
    try:
        return convert(given[-1], hint)
    except ValueError as error:
        raise place.error(str(error), given[-1]) from error


def _section_class(hint: Any) -> type | None:
    """Return the dataclass among the members of an annotation, if there is one."""
    members = typing.get_args(hint) or (hint,)
    sections = (member for member in members if isinstance(member, type) and dataclasses.is_dataclass(member))
    return next(sections, None)


def _section(cls: type, hint: Any, given: list[Any], default: Any, place: _Place) -> Any:
    values = [value.parsed if isinstance(value, Text) else value for value in given]
    if values[-1] is None and type(None) in typing.get_args(hint):
        return None
    for value in values:
        if value is not None and not isinstance(value, dict):
            raise place.error(f"must be a section of `key: value`, got {value!r}")
    base = default if isinstance(default, cls) else None
    return _build(cls, [value or {} for value in values], base, place)


def _chosen(registry: Mapping[str, Any], given: list[Any], default: Any, place: _Place) -> Any:
    """Return the section of the class that the last `name` picks, or of the default's class."""
    layers = [_named(value, place) for value in given]
    starts = [index for index, layer in enumerate(layers) if "name" in layer]
    if not starts:
        if not dataclasses.is_dataclass(default):
            raise place.error(f"needs a name, one of {listing(registry)}")
        return _build(type(default), layers, default, place)
    layers = layers[starts[-1] :]
    name = layers[0].pop("name")
    if name not in registry:
        raise place.error(f"must be one of {listing(registry)}, got {str(name)!r}{suggest(name, registry)}")
    choice = registry[name]
    cls, base = (choice, None) if isinstance(choice, type) else (type(choice), choice)
    return _build(cls, layers, base, place)


def _named(value: Any, place: _Place) -> dict[str, Any]:
    """Return a section as a mapping: a lone word is its name, and null is the name "none"."""
    if isinstance(value, Text):
        value = value.parsed
    if value is None or isinstance(value, str):
        return {"name": value or "none"}
    if not isinstance(value, dict):
        raise place.error(f"must be a name or a section of `key: value`, got {value!r}")
    return {key: _name_of(item, place) if key == "name" else item for key, item in value.items()}


def _name_of(value: Any, place: _Place) -> str:
    if value is not None and not isinstance(value, str):
        raise place.at("name").error(f"must be text, got {value!r}")
    return str(value or "none")


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return config_to_dict(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
