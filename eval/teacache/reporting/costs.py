"""The work of a run's videos, from the recorded description of its transformer and prompts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from videosys import FAMILIES, Blueprint, Family, TransformerWork, blueprint, load_config, transformer_work


@dataclass(frozen=True)
class Costs:
    """The work of one generation as a function of the prompt's length. It is linear in the tokens, so two
    counts determine it. longest: tokens of the longest prompt, used for videos with an unknown number.
    """

    one: TransformerWork
    two: TransformerWork
    longest: int

    @classmethod
    def of(cls, plan: Blueprint) -> Costs:
        return cls(transformer_work(plan, 1), transformer_work(plan, 2), plan.parts.text_encoder.max_length)

    def work(self, tokens: int | None = None) -> TransformerWork:
        """The work for a prompt of this many tokens; None for the longest prompt."""
        more = (tokens or self.longest) - 1

        def grown(name: str) -> int:
            one, two = getattr(self.one, name), getattr(self.two, name)
            return one + (two - one) * more

        return dataclasses.replace(
            self.one, prepare=grown("prepare"), step=grown("step"), reused=grown("reused")
        )

    def total(self, record: Mapping[str, Any]) -> float:
        """FLOPs of the transformer for a video of a manifest; computed steps count in full."""
        return self.work(record.get("text_tokens")).total(record["computed"], record["steps"])


def of_run(described: Mapping[str, Any], config: Mapping[str, Any]) -> Costs | None:
    """Costs from the transformer's description in runs.jsonl and the config in a manifest. None if no
    registered family has this transformer.
    """
    for family in families(config, described.get("family")):
        plan = plan_of(family, config)
        if plan is not None and type(plan.parts.transformer.config).__name__ == described["kind"]:
            shape = shape_of(type(plan.parts.transformer.config), described["config"])
            return Costs.of(with_transformer(plan, shape, tuple(described["latents"])))
    return None


def of_config(config: Mapping[str, Any], frames: int, height: int, width: int) -> Costs | None:
    """Costs from the config in a manifest whose run did not describe the transformer, using the checkpoint's
    config.json. None if the checkpoint is not on this computer.
    """
    for family in families(config):
        plan = plan_of(family, config)
        if plan is not None:
            size = plan.parts.vae.config.latent_size(frames, height, width)
            is_there = plan.parts.transformer.folder is not None
            return Costs.of(replace(plan, latent_size=size)) if is_there else None
    return None


def families(config: Mapping[str, Any], name: str | None = None) -> Sequence[Family]:
    """The family of this name. Without a name, as in older manifests, all families, sorted by the number of
    matching config fields.
    """
    if name is not None:
        return [FAMILIES[name]] if name in FAMILIES else []
    return sorted(FAMILIES.values(), key=lambda family: -len(own_fields(family.config, config)))


def own_fields(cls: type, content: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a manifest that are fields of a dataclass; other versions may have other fields."""
    names = {field.name for field in dataclasses.fields(cls)}
    return {name: value for name, value in content.items() if name in names}


def plan_of(family: Family, config: Mapping[str, Any]) -> Blueprint | None:
    """The blueprint of a manifest's config; None if it is not a config of the family."""
    try:
        return blueprint(load_config(family.config, own_fields(family.config, config)))
    except ValueError:
        return None


def shape_of(cls: type, content: Mapping[str, Any]) -> Any:
    """The transformer's config from JSON data."""
    fields = own_fields(cls, content)
    return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()})


def with_transformer(plan: Blueprint, shape: Any, latent_size: tuple[int, int, int]) -> Blueprint:
    """The blueprint with another transformer config and latent size."""
    transformer = replace(plan.parts.transformer, config=shape)
    return replace(plan, parts=replace(plan.parts, transformer=transformer), latent_size=latent_size)
