"""The work of videos of a run, from what the run wrote down about its transformer and its prompts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from videosys import FAMILIES, Blueprint, Family, TransformerWork, blueprint, load_config, transformer_work


@dataclass(frozen=True)
class Costs:
    """The work of one generation by the length of its prompt: it grows by the same with every token, so two
    counts tell all. longest: tokens of the longest prompt, for videos of which the number is not known.
    """

    one: TransformerWork
    two: TransformerWork
    longest: int

    @classmethod
    def of(cls, plan: Blueprint) -> Costs:
        return cls(transformer_work(plan, 1), transformer_work(plan, 2), plan.parts.text_encoder.max_length)

    def work(self, tokens: int | None = None) -> TransformerWork:
        """The work for a prompt of this many tokens; None for the longest."""
        more = (tokens or self.longest) - 1

        def grown(name: str) -> int:
            one, two = getattr(self.one, name), getattr(self.two, name)
            return one + (two - one) * more

        return dataclasses.replace(
            self.one, prepare=grown("prepare"), step=grown("step"), reused=grown("reused")
        )

    def total(self, record: Mapping[str, Any]) -> float:
        """FLOPs of the transformer for a video of a manifest, whose computed steps count whole."""
        return self.work(record.get("text_tokens")).total(record["computed"], record["steps"])


def of_run(described: Mapping[str, Any], config: Mapping[str, Any]) -> Costs | None:
    """From what runs.jsonl says of the transformer, and the config in a manifest. None for a transformer of
    no registered family.
    """
    for family in families(config, described.get("family")):
        plan = plan_of(family, config)
        if plan is not None and type(plan.parts.transformer.config).__name__ == described["kind"]:
            shape = shape_of(type(plan.parts.transformer.config), described["config"])
            return Costs.of(with_transformer(plan, shape, tuple(described["latents"])))
    return None


def of_config(config: Mapping[str, Any], frames: int, height: int, width: int) -> Costs | None:
    """From the config in a manifest whose run did not say it: by the checkpoint's own file. None where that
    is not on this computer.
    """
    for family in families(config):
        plan = plan_of(family, config)
        if plan is not None:
            size = plan.parts.vae.config.latent_size(frames, height, width)
            is_there = plan.parts.transformer.folder is not None
            return Costs.of(replace(plan, latent_size=size)) if is_there else None
    return None


def families(config: Mapping[str, Any], name: str | None = None) -> Sequence[Family]:
    """The family of this name. Without one, as in manifests of older versions, all of them, those first whose
    config has the most of the manifest's fields.
    """
    if name is not None:
        return [FAMILIES[name]] if name in FAMILIES else []
    return sorted(FAMILIES.values(), key=lambda family: -len(own_fields(family.config, config)))


def own_fields(cls: type, content: Mapping[str, Any]) -> dict[str, Any]:
    """Of a manifest's values those that are fields of a dataclass; other versions may have others."""
    names = {field.name for field in dataclasses.fields(cls)}
    return {name: value for name, value in content.items() if name in names}


def plan_of(family: Family, config: Mapping[str, Any]) -> Blueprint | None:
    """The blueprint of a manifest's config; None if it is not a config of the family."""
    try:
        return blueprint(load_config(family.config, own_fields(family.config, config)))
    except ValueError:
        return None


def shape_of(cls: type, content: Mapping[str, Any]) -> Any:
    """The transformer's config from fields that JSON holds."""
    fields = own_fields(cls, content)
    return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()})


def with_transformer(plan: Blueprint, shape: Any, latent_size: tuple[int, int, int]) -> Blueprint:
    """The blueprint with another transformer's config and latent size."""
    transformer = replace(plan.parts.transformer, config=shape)
    return replace(plan, parts=replace(plan.parts, transformer=transformer), latent_size=latent_size)
