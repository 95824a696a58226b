"""Methods of the evaluation: the published model, with a cache, or with another number of steps."""

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
    """A name with the overrides of a request: the cache (or the name of a preset) and the number of steps."""

    name: str
    request: Mapping[str, Any]


def parse_methods(text: str, config: Any, reference_factor: int = REFERENCE_FACTOR) -> list[Method]:
    """Parse a comma-separated list of methods.

    base: every step computed. reference: `reference_factor` times as many steps. steps_N: N steps.
    Other items are a cache preset of the config, or a YAML file whose `cache` section is used: FILE, named
    after the file, or NAME=FILE. ValueError for anything else.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise ValueError(f"--methods {text!r} names no method")
    methods = [_method(name, config, reference_factor) for name in names]
    names = [method.name for method in methods]
    if len(set(names)) < len(names):
        raise ValueError(f"--methods {text!r} names a method twice")
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
        f"(FILE or NAME=FILE), or a cache: {', '.join(presets)}"
    )


def _named(text: str) -> tuple[str, str]:
    """(name of the method, its file) from FILE or NAME=FILE."""
    name, mark, file = text.partition("=")
    if not mark or not _WORD.fullmatch(name):
        name, file = Path(text).stem, text
    if not _WORD.fullmatch(name) or name in (BASE, REFERENCE):
        raise ValueError(
            f"{text}: {name!r} is not a valid method name; use NAME=FILE (NAME: letters, digits, - and _)"
        )
    return name, file


def cache_presets(config: Any) -> Mapping[str, Any]:
    """The cache presets of a config, by name."""
    (field,) = [field for field in dataclasses.fields(config) if field.name == "cache"]
    return field.metadata["registry"]


def num_steps(config: Any) -> int:
    """The number of steps of the config's sampler."""
    return int(config.num_inference_steps or config.steps)


def named(methods: Sequence[Method]) -> list[str]:
    return [method.name for method in methods]
