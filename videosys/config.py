"""Creates an instance of a frozen dataclass from its defaults, a YAML or Python file, and key=value
overrides.

See `videosys.utils.plain` for fields that declare a union of classes or old names.
"""

from __future__ import annotations

import re
import runpy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from videosys.utils.plain import Layer, Place, build, to_plain
from videosys.utils.reading import expanded, read_text
from videosys.utils.typed import Text, suggest
from videosys.utils.yaml12 import parse_yaml

T = TypeVar("T")

MOST_BYTES = 1 << 20  # maximum size of a file

_OVERRIDE = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)=(.*)", re.DOTALL)


def load_config(
    cls: type[T], path: str | Path | Mapping[str, Any] | None = None, overrides: Iterable[str] = ()
) -> T:
    """Return an instance of the dataclass `cls`: its defaults, then the file, then the overrides.

    path: a YAML 1.2 file (9:16 is text, 010 is ten); a Python file, which is executed and must set `config`
    to an instance of `cls` or a subclass; the name of a bundled config, such as "tiny"; or a mapping of
    settings, from `config_to_dict` or OmegaConf (including interpolations). An override is `key=value` with
    dots for sections. Text fields use the value unchanged, other fields parse it as YAML. Naming a choice
    (`cache=teacache`, `cache: {name: teacache}`) starts from the defaults of that choice and discards earlier
    settings. Every user error is a ValueError that names the file and the key.
    """
    if path is None or isinstance(path, Mapping):
        base, layer, place = None, _plain(path or {}), Place("", "")
    else:
        base, layer = _read(cls, Path(path))
        place = Place(str(path), "")
    return build(cls if base is None else type(base), [layer, _parse_overrides(overrides)], base, place)


def config_to_dict(config: Any) -> dict[str, Any]:
    """Return a config as plain values for JSON and YAML; `load_config` reads them back.

    A section chosen by name has its name as the first key.
    """
    return to_plain(config)


def _plain(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings as plain values, also from OmegaConf."""
    if not OmegaConf.is_config(settings):
        return settings
    try:
        return OmegaConf.to_container(settings, resolve=True)  # type: ignore[return-value]  # DictConfig
    except OmegaConfBaseException as error:
        raise ValueError(f"config: {' '.join(str(error).split())}") from error


def _read(cls: type[T], path: Path) -> tuple[T | None, Layer]:
    """Return (base instance or None, settings) of a file."""
    path = located(cls, path)
    text = read_text(path, MOST_BYTES)
    if path.suffix == ".py":
        return _run_python(cls, expanded(path)), {}
    return None, _parse_yaml(text, path)


def located(cls: type, path: Path) -> Path:
    """The file of a path or of a bundled config's name (optionally prefixed with its model's folder).

    A folder of the same name is ignored. ValueError, with the known names, if there is no such file.
    """
    there = expanded(path)
    if there.exists() and not there.is_dir():
        return path
    names: Mapping[str, Path] = getattr(cls, "named_configs", dict)()
    name = path.name if path.parent.as_posix() in (".", getattr(cls, "examples", ".")) else ""
    if name in names:
        return names[name]
    if there.exists():
        return path  # reading it raises the error that it is a folder
    hint = f"{suggest(path.stem, names)}; configs by name: {', '.join(names)}" if names else ""
    raise ValueError(f"{path}: no such config file{hint}")


def _parse_yaml(text: str, path: Path) -> Layer:
    try:
        data = parse_yaml(text)
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if data is None:  # only comments
        return {}
    if not isinstance(data, dict):
        raise ValueError(f"{path}: must contain `key: value` lines, got {text.strip()[:40]!r}")
    return data


def _run_python(cls: type[T], path: Path) -> T:
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
            section[name] = section = _as_section(section.get(name), override)
        section[key] = Text(match[2], _parse_value(match[2]))
    return tree


def _as_section(value: Any, override: str) -> dict[str, Any]:
    """Return the section for an override; an earlier override may have replaced it."""
    if isinstance(value, Text):
        value = {"name": value} if isinstance(value.parsed, str) else value.parsed
    if value is None or isinstance(value, dict):
        return value or {}
    raise ValueError(f"override {override!r}: an earlier override set this section to {value!r}")


def _parse_value(text: str) -> Any:
    try:
        return parse_yaml(text)
    except (yaml.YAMLError, ValueError):
        return text
