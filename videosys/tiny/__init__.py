"""Small trained checkpoints of the published classes, bundled with the package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from videosys.models import FAMILIES
from videosys.models.family import Family
from videosys.utils.hub import BUNDLED, BUNDLED_FOLDER
from videosys.utils.logging import get_logger
from videosys.utils.typed import listing, suggest

__all__ = ["bundled", "config", "warn_of_unknown_words"]

_LOG = get_logger("tiny")


def bundled() -> list[str]:
    """The names of the bundled checkpoints."""
    return list(_bundled())


def config(model: str | None = None, **changes: Any) -> Any:
    """The config of a bundled checkpoint, without a cache; None for the first of `bundled()`.

    changes: fields of the config. ValueError for a name that is not bundled.
    """
    checkpoints = _bundled()
    model = next(iter(checkpoints)) if model is None else model
    if model not in checkpoints:
        raise ValueError(
            f"unknown tiny checkpoint {model!r}{suggest(model, checkpoints)}; allowed: {listing(checkpoints)}"
        )
    family, settings = checkpoints[model]
    return family.config(**{**settings, **changes})


def warn_of_unknown_words(config: Any, prompts: Sequence[str], told: set[str]) -> None:
    """Logs a warning for prompts with words that the bundled checkpoint of a config was not trained on.

    told: the words of earlier warnings, to which the new ones are added; each is named once.
    """
    if not str(config.transformer).startswith(BUNDLED):
        return
    from videosys.tiny.words import unknown_words, vocabulary  # also a command: python -m

    unknown = dict.fromkeys(word for prompt in prompts for word in unknown_words(prompt))
    if unknown.keys() - told:
        told.update(unknown)
        _LOG.warning(
            "the tiny checkpoint was not trained on these words of the prompt: %s. Its vocabulary:\n%s",
            ", ".join(unknown),
            vocabulary(),
        )


def _bundled() -> dict[str, tuple[Family, Mapping[str, Any]]]:
    """The families and settings of the bundled checkpoints."""
    return {
        name: (family, settings)
        for family in FAMILIES.values()
        for name, settings in family.tiny.items()
        if is_there(settings["transformer"])
    }


def is_there(source: str) -> bool:
    """Whether the folder of a checkpoint is bundled with the package or exists on this computer."""
    return not source.startswith(BUNDLED) or (BUNDLED_FOLDER / source.removeprefix(BUNDLED)).is_dir()
