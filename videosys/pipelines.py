"""Pipelines with the interface of diffusers: `OpenSoraPipeline.from_pretrained("tiny")("a red circle")`.

They are thin wrappers around a config and an engine. Each family has one, named after its config.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch

from videosys.config import load_config
from videosys.engine import VideoSysEngine
from videosys.generation.config import PipelineConfig
from videosys.generation.request import VideoOutput
from videosys.models import FAMILIES, Family
from videosys.utils.hub import BUNDLED
from videosys.utils.reading import expanded
from videosys.utils.typed import listing, suggest

T = TypeVar("T", bound="TextToVideoPipeline")
SUFFIXES = (".yaml", ".yml", ".py")  # of config files
PARTS = ("transformer", "vae", "text_encoder")


class TextToVideoPipeline:
    """An engine with the interface of a diffusers pipeline.

    with OpenSoraPipeline.from_pretrained("tiny") as pipe:
        video = pipe("a red circle", seed=1).frames[0]

    engine: the wrapped `VideoSysEngine`, with all its methods. config: its settings.
    """

    family: ClassVar[Family]

    def __init__(self, config: PipelineConfig, quiet: bool = False):
        self.engine = VideoSysEngine(config, quiet)

    @classmethod
    def from_pretrained(
        cls: type[T], source: str | Path | None = None, *, quiet: bool = False, **settings: Any
    ) -> T:
        """The pipeline of a checkpoint. Weights are loaded on first use.

        source: the name of a bundled config ("tiny", "base", "teacache_fast"); a YAML or Python config file;
        a folder with all parts (transformer, vae, text_encoder) or with only the transformer; a hub id; or
        None for the published checkpoint. settings: config fields. ValueError for other sources and invalid
        settings.
        """
        return cls(pretrained_config(cls.family, source, settings), quiet)

    @property
    def config(self) -> PipelineConfig:
        """The settings of the engine."""
        return self.engine.config

    def __call__(self, prompt: str | Sequence[str] | None = None, **request: Any) -> VideoOutput:
        """Generate videos for one prompt or a list of prompts: see `VideoSysEngine.generate`."""
        return self.engine.generate(prompt, **request)

    def encode_prompt(self, prompt: str | Sequence[str], **request: Any) -> dict[str, torch.Tensor]:
        """The embeddings of prompts: see `VideoSysEngine.encode_prompt`."""
        return self.engine.encode_prompt(prompt, **request)

    def load_lora_weights(self, path: str | Path, scale: float = 1.0) -> None:
        """Add a LoRA to the loaded ones: see `VideoSysEngine.set_lora`."""
        self.engine.set_lora(*self.config.lora, {"path": str(path), "scale": scale})

    def unload_lora_weights(self) -> None:
        """Remove all LoRAs and restore the weights of the checkpoint, bit for bit."""
        self.engine.set_lora()

    def close(self) -> None:
        """Free the weights."""
        self.engine.close()

    def __enter__(self: T) -> T:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def pretrained_config(family: Family, source: str | Path | None, settings: Mapping[str, Any]) -> Any:
    """The config for the arguments of `TextToVideoPipeline.from_pretrained`."""
    if source is None:
        return family.config(**settings)
    text, named = str(source), family.config.named_configs()
    if text in named or text.endswith(SUFFIXES):
        return replace(load_config(family.config, text), **settings)
    tiny = family.tiny.get(text.removeprefix(BUNDLED)) if text.startswith(BUNDLED) else None
    if "/" not in text and not text.startswith(BUNDLED) and not expanded(source).exists():
        raise ValueError(
            f"{text!r} is not a named config, a file, a folder or a hub id like owner/name"
            f"{suggest(text, named)}; configs by name: {listing(named)}"
        )
    places = tiny or places_of(family.config(), text)
    return family.config(**{**places, **settings})


def places_of(published: Any, source: str) -> dict[str, str]:
    """The config fields with the locations of the parts in a folder or a repository.

    Parts that are missing in a folder are the published ones. A repository is expected to have the same parts
    as the published repository of the transformer.
    """
    folder = expanded(source)
    if folder.is_dir():
        others = {"vae": "vae*", "text_encoder": "text_encoder"}
        found = [part for part, pattern in others.items() if any(folder.glob(pattern))]
        return dict.fromkeys(["transformer", *found], source)
    same = [part for part in PARTS if getattr(published, part) == published.transformer]
    return dict.fromkeys(same if published.transformer else PARTS[:2], source)


def pipeline_class(family: Family) -> type[TextToVideoPipeline]:
    """The pipeline of a family, named after its config: `MyConfig` gives `MyPipeline`.

    For your own family: `MyPipeline = videosys.pipeline_class(FAMILY)`.
    """
    name = pipeline_name(family)
    about = f"Prompts to videos with {family.config.__name__}: see `TextToVideoPipeline`."
    return type(name, (TextToVideoPipeline,), {"family": family, "__doc__": about, "__module__": __name__})


def pipeline_name(family: Family) -> str:
    """The name of a family's pipeline."""
    return f"{family.config.__name__.removesuffix('Config')}Pipeline"


PIPELINES = {pipeline_name(FAMILIES[name]): pipeline_class(FAMILIES[name]) for name in FAMILIES.built_in}


def __getattr__(name: str) -> Any:
    """The pipeline of one of the library's families."""
    if name in PIPELINES:
        return PIPELINES[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
