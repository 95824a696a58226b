"""Resolves named choices in a config: caches, schedulers, numbers of devices."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from videosys.parallel import ParallelConfig
from videosys.utils.plain import chosen
from videosys.utils.typed import listing, suggest


def with_num_gpus(parallel: ParallelConfig, num_gpus: int) -> ParallelConfig:
    """The settings for this number of devices. ValueError if they set another number."""
    if parallel.num_gpus not in (1, num_gpus):
        raise ValueError(f"num_gpus is {num_gpus}, but parallel.num_gpus is {parallel.num_gpus}")
    return replace(parallel, num_gpus=num_gpus)


def resolve_choices(config: Any) -> None:
    """Replaces values of a field with a registry by its settings, as in YAML: "teacache_slow" by the preset,
    None by the entry "none", a mapping with a `name` by the settings. ValueError for another name. For
    `__post_init__`, also of frozen dataclasses.
    """
    for item in dataclasses.fields(config):
        registry, value = item.metadata.get("registry"), getattr(config, item.name)
        if registry is not None and isinstance(value, Mapping):
            object.__setattr__(config, item.name, chosen(registry, value, item.name))
        if registry is None or not (value is None or isinstance(value, str)):
            continue
        name = "none" if value is None else value
        if name not in registry:
            raise ValueError(
                f"{item.name} is {value!r}{suggest(name, registry)}; allowed: {listing(registry)}"
            )
        choice = registry[name]
        object.__setattr__(config, item.name, choice() if isinstance(choice, type) else choice)


def with_changes(name: str, settings: Any, *keys: str) -> str:
    """The name with all settings that differ from the defaults, as in ddim(eta=0.5). It identifies the run
    that a calibration is valid for. keys: names of the relevant fields, in order; default: all fields.
    """
    defaults = {item.name: item.default for item in dataclasses.fields(settings)}
    changed = []
    for key in keys or defaults:
        value, default = getattr(settings, key), defaults[key]
        if value != default:
            value = float(value) if type(value) is int and type(default) is float else value
            changed.append(f"{key}={value}")
    return f"{name}({', '.join(changed)})" if changed else name
