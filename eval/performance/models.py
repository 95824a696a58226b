"""The transformers of all families at a size that takes seconds on a CPU, with random weights and inputs.
diffusers' transformer with the same weights is included if there is one.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from eval.performance.floor import Shape, record
from videosys import FAMILIES, Blueprint, Parallel, blueprint, use_attention, use_kernels

NOISE = 1_000_003  # random values, repeated to fill tensors; prime, so that rows differ
TIMESTEP = 500.0
USUAL_DEPTH = 2  # blocks per stack for a family that is not in models.json


@dataclass(frozen=True)
class Size:
    """The size of the latents [batch, channels, *latents] and the number of text tokens."""

    latents: tuple[int, int, int] = (16, 32, 32)
    batch: int = 2
    text: int = 100


MID = Size()


@dataclass(frozen=True)
class Subject:
    """A model with prepared inputs for a step."""

    model: Any
    latents: torch.Tensor
    timesteps: torch.Tensor
    prompt_embeds: torch.Tensor
    condition: Any

    def step(self, cache: Any = None) -> torch.Tensor:
        """One forward."""
        cached = () if cache is None else (cache,)
        return self.model(self.latents, self.timesteps, self.condition, *cached)

    def calls(self) -> Counter[Shape]:
        """The number of matrix products and attentions of a step, by shape."""
        use_attention(self.model, "torch")  # torch's attention is a single call
        calls = record(self.step)
        use_attention(self.model, "auto")
        return calls


def versions() -> Iterator[Any]:
    """The config of every published version of every family."""
    for family in FAMILIES.values():
        names = list(family.published)
        yield from [family.config(version=name) for name in names] if len(names) > 1 else [family.config()]


def facts(config: Any) -> Mapping[str, Any]:
    """The entry of models.json for a config.

    transformer: overrides that make it small. real: latents of a published size to measure. decoders: config
    overrides of further decoders. diffusers: class name of diffusers' transformer.
    """
    return json.loads(Path(__file__).with_suffix(".json").read_text("utf-8")).get(config.model_name, {})


def with_transformer(plan: Blueprint, config: Any) -> Blueprint:
    """A blueprint with another config of its transformer."""
    part = replace(plan.parts.transformer, config=config)
    return replace(plan, parts=replace(plan.parts, transformer=part))


def class_of(plan: Blueprint) -> str:
    """The class name of the transformer, which identifies a model here."""
    return plan.parts.transformer.module_cls.__name__


@functools.cache
def published() -> Mapping[str, Blueprint]:
    """Transformer class name -> the first published version that uses it."""
    plans: dict[str, Blueprint] = {}
    for config in versions():
        plan = blueprint(config)
        plans.setdefault(class_of(plan), plan)
    return MappingProxyType(plans)


def models() -> list[str]:
    """The class names of the transformers."""
    return list(published())


@dataclass(frozen=True)
class Setting:
    """A blueprint's transformer with the size of its latents, device, dtype and kernels."""

    plan: Blueprint
    dtype: torch.dtype = torch.float32
    device: torch.device = torch.device("cpu")  # noqa: RUF009 (it never changes)
    size: Size = MID
    kernels: str = "auto"  # auto: this package's on a GPU; none: torch's operators only

    @classmethod
    def small(cls, model: str, *where: Any, **changes: Any) -> Setting:
        """A transformer class at the size of models.json, with config overrides."""
        plan = published()[model]
        fields = facts(plan.config).get("transformer")
        config = plan.parts.transformer.config
        config = replace(config, **fields) if fields else config.with_depth(USUAL_DEPTH)
        return cls(with_transformer(plan, replace(config, **changes)), *where)

    @property
    def model(self) -> str:
        return class_of(self.plan)

    @property
    def config(self) -> Any:
        """The transformer's config."""
        return self.plan.parts.transformer.config

    @property
    def tokens(self) -> int:
        """The number of tokens of the batch."""
        grid = self.config.grid(self.size.latents)
        return self.size.batch * grid.num_frames * grid.tokens_per_frame

    def resized(self, **changes: Any) -> Setting:
        return replace(self, size=replace(self.size, **changes))

    def built(self) -> nn.Module:
        """The model with random weights."""
        with torch.device("meta"):
            model = self.plan.parts.transformer.build(Parallel())
        model = model.to(self.dtype).to_empty(device=self.device).eval().requires_grad_(False)
        torch.manual_seed(0)
        noise = (0.02 * torch.randn(NOISE)).to(self.device, self.dtype)
        for parameter in model.parameters():
            for part in parameter.view(-1).split(NOISE):
                part.copy_(noise[: len(part)])
        return model

    def subject(self) -> Subject:
        model, size = use_kernels(self.built(), self.kernels, self.device), self.size
        make: dict[str, Any] = {"device": self.device}
        latents = torch.randn(size.batch, self.plan.latent_channels, *size.latents, **make)
        embeds = torch.randn(size.batch, size.text, self.config.caption_channels, **make).to(self.dtype)
        with torch.no_grad():
            condition = replace(self.plan, latent_size=size.latents).condition(model, embeds)
        timesteps = torch.full((size.batch,), TIMESTEP, **make)
        return Subject(model, latents, timesteps, embeds, condition)


def diffusers_step(setting: Setting, subject: Subject) -> Callable[[], torch.Tensor] | None:
    """A step of diffusers' transformer with the same weights and inputs; None if diffusers has none."""
    import diffusers

    name = facts(setting.plan.config).get("diffusers")
    if name is None:
        return None
    theirs_cls = getattr(diffusers, name)
    fields = {**asdict(setting.config), "video_length": setting.size.latents[0], "num_embeds_ada_norm": 1000}
    taken = inspect.signature(theirs_cls).parameters
    theirs = theirs_cls(**{name: value for name, value in fields.items() if name in taken})
    theirs.load_state_dict(subject.model.state_dict())
    theirs = theirs.to(setting.device, setting.dtype).eval().requires_grad_(False)
    latents, timesteps = subject.latents.to(setting.dtype), subject.timesteps.long()
    return lambda: theirs(latents, timesteps, subject.prompt_embeds, return_dict=False)[0]
