"""The model families. A new one is a folder here and a line in `FOLDERS`, or `register_family`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from videosys.config import load_config
from videosys.generation.config import PipelineConfig
from videosys.models.family import Family
from videosys.utils.registry import Registry, calling_module
from videosys.utils.typed import listing

__all__ = ["FAMILIES", "Family", "family_of", "load_family_config", "register_family"]

FOLDERS = (
    "opensora",
    "latte",
    "open_sora_plan",
)


def _built_in() -> dict[str, Family]:
    families = [import_module(f"{__name__}.{folder}").FAMILY for folder in FOLDERS]
    return {family.name: family for family in families}


def _check(name: str, family: Any, families: Mapping[str, Family]) -> None:
    if not isinstance(family, Family) or family.name != name:
        raise ValueError(f"family {name!r} is {family!r}; it must be a videosys.Family of this name")
    for other in families.values():
        if other.name != name and other.config is family.config:  # a config class identifies its family
            raise ValueError(
                f"families {name!r} and {other.name!r} have the same config {family.config.__name__}; "
                "each needs its own class"
            )


FAMILIES: Registry[Family] = Registry(
    kind="family",
    group="videosys.families",
    built_in=_built_in(),
    check=_check,
)


def register_family(family: Family) -> None:
    """Add a family to those of the library, in this process and the processes that its engines start.

    Call it in an importable module, or declare the family in the entry point group `videosys.families`
    of a package. ValueError if another family has its name or its config class.
    """
    FAMILIES.register(family.name, family, calling_module())


def family_of(config: PipelineConfig) -> Family:
    """The family of a config. ValueError if it does not belong to one."""
    for family in FAMILIES.values():
        if type(config) is family.config:
            return family
    names = ", ".join(family.config.__name__ for family in FAMILIES.values())
    raise ValueError(f"config is a {type(config).__name__}; allowed: {names}")


def load_family_config(path: str | Path, name: str | None = None, overrides: Sequence[str] = ()) -> Any:
    """The config of a YAML or Python file, or of a name such as "tiny", or "latte/tiny" without a family's.

    Without a family's name, a folder above the file with the name of a family selects it. Else a
    Python file determines it by the config, and a YAML file must fit exactly one family. ValueError
    if there is none.
    """
    name = name or next((part for part in reversed(Path(path).parts) if part in FAMILIES), None)
    if name is not None and name not in FAMILIES:
        raise ValueError(f"unknown model family {name!r}; there are: {listing(FAMILIES)}")
    if name is not None:
        return load_config(FAMILIES[name].config, path, overrides)
    if Path(path).suffix == ".py":
        config = load_config(PipelineConfig, path, overrides)
        family_of(config)  # ValueError if there is none
        return config
    configs: dict[str, Any] = {}
    errors: dict[str, str] = {}
    for family in FAMILIES.values():
        try:
            configs[family.name] = load_config(family.config, path, overrides)
        except ValueError as error:
            errors[family.name] = str(error)
    if len(configs) == 1:
        return next(iter(configs.values()))
    if not configs and len({*errors.values()}) == 1:  # about the file, for every model
        raise ValueError(next(iter(errors.values())))
    reason = f"fits {', '.join(configs)}" if configs else "; ".join(f"{k}: {v}" for k, v in errors.items())
    raise ValueError(
        f"{path}: cannot determine the model; set --model to one of {', '.join(FAMILIES)} ({reason})"
    )
