"""The record of a model family, the only place that declares it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from videosys.generation.config import PipelineConfig
from videosys.generation.guidance import Pair, PromptEmbeds, masked_pair
from videosys.generation.loader import Loader
from videosys.generation.parts import PartFinder, Parts
from videosys.generation.pipeline import Pipeline
from videosys.parallel import Parallel
from videosys.utils.registry import is_own_dataclass

# Properties that PipelineConfig leaves to the config of a family.
CONFIG_PROPERTIES = ("model_name", "scheduler_name", "steps", "size", "output_frames")


def masked_prompts(
    model: Any, prompts: Sequence[PromptEmbeds], negative: PromptEmbeds | None, config: Any
) -> Pair:
    """Prompts and negative prompt with the masks of their own tokens."""
    return masked_pair(prompts, negative)


def prepared(
    model: Any, prompt_embeds: Any, prompt_mask: Any, latent_size: tuple[int, int, int], config: Any
) -> Any:
    """The condition of a model with a `prepare` for texts and a size of the latents."""
    return model.prepare(prompt_embeds, prompt_mask, latent_size=latent_size)


@dataclass(frozen=True)
class Family:
    """A model family: transformer, autoencoder, text encoder and scheduler that make videos together.

    name: on the command line, of its folder in examples/, in the evaluation.
    config: the user's settings, a frozen dataclass derived from PipelineConfig.
    parts(config, finder) -> Parts: folders, classes and configs of the parts.
    scheduler(config, generators) -> the published scheduler, new, with its timesteps set. It has the
        interface of diffusers' schedulers, and `times()` (its own time at each model evaluation),
        `init_noise_sigma` and `history` (see videosys/schedulers). Noise that a step adds to a video is
        drawn from the video's own generator.
    condition(model, prompt_embeds, prompt_mask, latent_size, config) -> what the transformer's forward takes
        as `condition`: everything that is constant over the steps.
    guidance_pair(model, prompts, negative, config) -> embeds [2B, L, D] as [cond, uncond] and mask [2B, L] or
        None; [B, ...] without guidance.
    pipeline: the pipeline class, if a family has more stages than the base class.
    presets: cache settings published for the model, by name; YAML and requests accept them like caches.
    tiny: settings of the bundled checkpoints, by the checkpoint's name; may be empty.
    published: for each published version the YAML file in examples/<name>/, the default one first. If there
        are several, the config's field `version` names them, and their bundled checkpoints are NAME_VERSION.
    inputs: inputs of a request other than fields of the config, with the class of each.

    ValueError for an invalid member.
    """

    name: str
    config: type[PipelineConfig]
    parts: Callable[[Any, PartFinder], Parts]
    scheduler: Callable[[Any, Sequence[Any]], Any]
    condition: Callable[..., Any] = prepared
    guidance_pair: Callable[..., Pair] = masked_prompts
    pipeline: type[Pipeline] = Pipeline
    presets: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    tiny: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: MappingProxyType({}))
    published: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    inputs: Mapping[str, type] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.isidentifier():
            raise ValueError(f"family name is {self.name!r}; it must be an identifier such as 'my_model'")
        for name in ("parts", "scheduler", "condition", "guidance_pair"):
            self._require(name, callable(getattr(self, name)), "be a function")
        is_pipeline = isinstance(self.pipeline, type) and issubclass(self.pipeline, Pipeline)
        self._require("pipeline", is_pipeline, "derive from Pipeline")
        is_config = is_own_dataclass(self.config, PipelineConfig)
        self._require(
            "config", is_config, "be a class with @dataclass(frozen=True) derived from PipelineConfig"
        )
        absent = [name for name in CONFIG_PROPERTIES if not is_overridden(self.config, name)]
        self._require("config", not absent, f"have the properties {', '.join(absent)}")
        unknown = [name for name in self.presets if name not in self.caches]
        self._require(
            "config", not unknown, f"take {', '.join(unknown)}: declare `cache` by cache_field(PRESETS)"
        )

    def _require(self, member: str, is_fine: bool, demand: str) -> None:
        if not is_fine:
            raise ValueError(f"family {self.name!r}: {member} is {getattr(self, member)!r}; it must {demand}")

    def tiny_name(self, version: str) -> str:
        """The name of the bundled checkpoint of a published version, which may not exist."""
        return self.name if len(self.published) < 2 else f"{self.name}_{version}"

    @property
    def caches(self) -> Mapping[str, Any]:
        """The caches that the config accepts by name: policies (classes) and presets (instances)."""
        (cache,) = [item for item in dataclasses.fields(self.config) if item.name == "cache"]
        return cache.metadata.get("registry", {})

    def sampler(self, config: Any, generators: Sequence[Any]) -> Any:
        """A new scheduler for one generation with its timesteps set: the family's or the config's solver."""
        if config.uses_published_scheduler:
            return self.scheduler(config, generators)
        return config.scheduler.build(config.steps, config.training, generators)

    def build(self, config: Any, quiet: bool = False, parallel: Parallel = Parallel()) -> Pipeline:
        """The pipeline of a config. Folders and their configs are read now, weights on first use.

        parallel: this device's place in the mesh; each device has its own pipeline.
        ValueError for folders that are not checkpoints or not of one model, and for devices that cannot share
        the work.
        """
        parts = self.parts(config, PartFinder(config))
        parts.check()
        pipeline = self.pipeline(self, parts, Loader(config, quiet, parallel).components(parts), parallel)
        pipeline.check_parallel(config)
        return pipeline


def is_overridden(config_cls: type, name: str) -> bool:
    """Whether a config class has its own property of this name."""
    return getattr(config_cls, name) is not getattr(PipelineConfig, name)
