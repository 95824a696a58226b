"""Methods: the model as published, with a cache, or with another number of steps."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videosys import load_config

BASE, REFERENCE = "base", "reference"
DEFAULT = "base,teacache_slow,teacache_fast"
REFERENCE_FACTOR = 4
_STEPS = re.compile(r"steps_(\d+)")
_WORD = re.compile(r"[A-Za-z0-9][\w.-]{0,60}")


@dataclass(frozen=True)
class Method:
    """A name, and what a request changes: the cache, or its preset's name, and the number of steps."""

    name: str
    request: Mapping[str, Any]


def parse_methods(text: str, config: Any, reference_factor: int = REFERENCE_FACTOR) -> list[Method]:
    """The methods named in a list with commas.

    base: every step computed. reference: `reference_factor` times as many steps. steps_N: N steps.
    Anything else is a preset of the config's caches, or a YAML file of settings whose `cache` is taken: FILE,
    whose name is the method's, or NAME=FILE. ValueError for what is none of these.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise ValueError(f"--methods {text!r} has no methods")
    methods = [_method(name, config, reference_factor) for name in names]
    names = [method.name for method in methods]
    if len(set(names)) < len(names):
        raise ValueError(f"--methods {text!r} has a duplicate method")
    return methods


def _method(name: str, config: Any, reference_factor: int) -> Method:
    presets = cache_presets(config)
    steps = _STEPS.fullmatch(name)
    if name == BASE:
        return Method(name, {"cache": presets["none"]()})
    if name == REFERENCE:
        return Method(
            name, {"cache": presets["none"](), "num_inference_steps": reference_factor * num_steps(config)}
        )
    if steps is not None:
        return Method(name, {"cache": presets["none"](), "num_inference_steps": int(steps[1])})
    if name in presets:
        return Method(name, {"cache": name})
    if name.endswith((".yaml", ".yml")):
        title, file = _named(name)
        return Method(title, {"cache": load_config(type(config), Path(file)).cache})
    raise ValueError(
        f"method {name!r} is unknown; allowed: {BASE}, {REFERENCE}, steps_N, a YAML file with a cache "
        f"(FILE or NAME=FILE), and of the caches {', '.join(presets)}"
    )


def _named(text: str) -> tuple[str, str]:
    """The name of a method and its file, of FILE or NAME=FILE."""
    name, mark, file = text.partition("=")
    if not mark or not _WORD.fullmatch(name):
        name, file = Path(text).stem, text
    if not _WORD.fullmatch(name) or name in (BASE, REFERENCE):
        raise ValueError(
            f"{text}: {name!r} is not a valid method name; use NAME=FILE (NAME: letters, digits, - and _)"
        )
    return name, file


def cache_presets(config: Any) -> Mapping[str, Any]:
    """The caches that a config knows, by name."""
    (field,) = [field for field in dataclasses.fields(config) if field.name == "cache"]
    return field.metadata["registry"]


def num_steps(config: Any) -> int:
    """Steps of the config's sampler."""
    return int(config.num_inference_steps or config.steps)


def named(methods: Sequence[Method]) -> list[str]:
    return [method.name for method in methods]
