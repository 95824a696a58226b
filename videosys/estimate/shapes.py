"""The parts of a pipeline without their weights: what its config and the checkpoint's say about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import torch

from videosys.generation.base import PipelineConfig, as_bytes
from videosys.models.latte.pipeline import MAX_TOKENS, LatteConfig
from videosys.models.open_sora_plan.pipeline import OpenSoraPlanConfig, read_model_config, with_frame_scale
from videosys.models.open_sora_plan.transformer import OpenSoraT2V, OpenSoraT2VConfig
from videosys.models.opensora.conditioning import latent_to_pixel_frames
from videosys.models.opensora.config import OpenSoraConfig
from videosys.models.opensora.transformer import STDiT3, STDiT3Config
from videosys.models.pixart.latte_t2v import LatteT2V, LatteT2VConfig
from videosys.parallel import Parallel
from videosys.utils.checkpoint import read_config, resolve

C = TypeVar("C")
Size = tuple[int, int, int]


@dataclass(frozen=True)
class Shapes:
    """What a request needs of each part.

    text_folder: of the text encoder, or None for the published XXL. latent_size: frames, rows and columns.
    model: a transformer of so many blocks, or pairs of blocks, on a rank; `depth` is the real number.
    prepare: the condition of a transformer for embeddings. decode: bytes of a video for latents, by a VAE.
    history: latents of a video that the sampler keeps. found: the folders of the parts. assumed: the parts
        that are not on this computer, for which the published shapes stand.
    """

    text_folder: Path | None
    is_mt5: bool
    max_tokens: int
    model: Callable[[int, Parallel], Any]
    depth: int
    vae: Callable[[], Any]
    latent_size: Size
    latent_channels: int
    text_channels: int
    prepare: Callable[[Any, torch.Tensor], Any]
    decode: Callable[[Any, torch.Tensor], torch.Tensor]
    evaluations: int
    history: int
    found: Mapping[str, Path]
    assumed: tuple[str, ...]


class Finder:
    """Finds folders without fetching anything, and remembers them, and which parts are not here."""

    def __init__(self, config: PipelineConfig):
        self.revision = config.revision
        self.found: dict[str, Path] = {}
        self.assumed: list[str] = []

    def folder(self, part: str, source: str, *names: str) -> Path | None:
        """The folder of a part on this computer, which may be below the one that `source` names."""
        try:
            home = resolve(source, revision=self.revision, offline=True)
        except ValueError:
            self.assumed.append(f"{part} {source}")
            return None
        self.found[part] = next((home / name for name in names if (home / name).is_dir()), home)
        return self.found[part]

    def read(self, config_cls: type[C], folder: Path | None, published: C) -> C:
        return published if folder is None else read_config(config_cls, folder)


def opensora(config: OpenSoraConfig) -> Shapes:
    from videosys.models.opensora.autoencoder import OpenSoraVAE, OpenSoraVAEConfig

    finder = Finder(config)
    model = finder.read(STDiT3Config, finder.folder("transformer", config.transformer), STDiT3Config())
    vae = finder.read(OpenSoraVAEConfig, finder.folder("vae", config.vae), OpenSoraVAEConfig())
    vae = replace(vae, micro_batch_size=config.vae_micro_batch_size)
    size = vae.latent_size(config.clip_frames, *config.size)
    height, width = config.size
    return Shapes(
        text_folder=finder.folder("text_encoder", config.text_encoder),
        is_mt5=False,
        max_tokens=model.model_max_length,
        model=lambda depth, parallel: STDiT3(replace(model, depth=depth), parallel),
        depth=model.depth,
        vae=lambda: OpenSoraVAE(vae, tiling=config.frame_tiling()),
        latent_size=size,
        latent_channels=vae.latent_channels,
        text_channels=model.caption_channels,
        prepare=lambda made, text: made.prepare(
            text, latent_size=size, fps=config.model_fps, height=height, width=width
        ),
        decode=lambda made, latents: opensora_bytes(made, latents, config),
        evaluations=config.num_inference_steps,
        history=0,
        found=finder.found,
        assumed=tuple(finder.assumed),
    )


def opensora_bytes(vae: Any, latents: torch.Tensor, config: OpenSoraConfig) -> torch.Tensor:
    """Bytes of latents, of which the next clip, if there is one, gets the end."""
    frames = vae.decode(latents, config.clip_frames).float().clamp(-1, 1)
    if config.loops > 1:
        vae.encode(frames[:, :, -latent_to_pixel_frames(config.condition_frame_length) :])
    return as_bytes(frames)


def latte(config: LatteConfig) -> Shapes:
    from videosys.models.latte.autoencoder import IMAGES, TEMPORAL, LatteVAE, LatteVAEConfig

    finder = Finder(config)
    folder = finder.folder("transformer", config.transformer, "transformer")
    model = finder.read(LatteT2VConfig, folder, LatteT2VConfig())
    is_temporal = config.enable_vae_temporal_decoder
    name = "vae_temporal_decoder" if is_temporal else "vae"
    published = LatteVAEConfig(_class_name=TEMPORAL if is_temporal else IMAGES)
    vae = finder.read(LatteVAEConfig, finder.folder("vae", config.vae, name), published)
    vae = replace(vae, decode_chunk_size=config.decode_chunk_size)
    size = vae.latent_size(config.output_frames, *config.size)
    temporal = config.enable_temporal_attentions
    return Shapes(
        text_folder=finder.folder("text_encoder", config.text_encoder),
        is_mt5=False,
        max_tokens=MAX_TOKENS,
        model=lambda depth, parallel: LatteT2V(replace(model, num_layers=depth), parallel),
        depth=model.num_layers,
        vae=lambda: LatteVAE(vae, tiling=config.frame_tiling()),
        latent_size=size,
        latent_channels=vae.latent_channels,
        text_channels=model.caption_channels,
        prepare=lambda made, text: made.prepare(text, latent_size=size, enable_temporal_attentions=temporal),
        decode=lambda made, latents: as_bytes(made.decode(latents, config.output_frames), "down"),
        evaluations=config.steps,
        history=0,
        found=finder.found,
        assumed=tuple(finder.assumed),
    )


def open_sora_plan(config: OpenSoraPlanConfig) -> Shapes:
    from videosys.models.open_sora_plan.autoencoder import CausalVAE, CausalVAEConfig

    finder, release = Finder(config), config.release
    folder = finder.folder("transformer", config.transformer or release.repository, config.checkpoint)
    vae_folder = finder.folder("vae", config.vae or release.repository, "vae")
    is_v110 = config.version == "v110"
    vae = finder.read(CausalVAEConfig, vae_folder, CausalVAEConfig.published(config.version))
    size = vae.latent_size(config.output_frames, *config.size)
    model = published_plan(config, vae) if folder is None else read_model_config(config, folder, vae)
    return Shapes(
        text_folder=finder.folder("text_encoder", config.text_encoder or release.text_encoder),
        is_mt5=not is_v110,
        max_tokens=release.max_tokens,
        model=lambda depth, parallel: build_plan(replace(model, num_layers=depth), parallel),
        depth=model.num_layers,
        vae=lambda: CausalVAE(vae, tiling=config.tiles()),
        latent_size=size,
        latent_channels=vae.latent_channels,
        text_channels=model.caption_channels,
        prepare=lambda made, text: made.prepare(text, latent_size=size),
        decode=lambda made, latents: as_bytes(made.decode(latents, config.output_frames), "down"),
        evaluations=config.steps + (PNDM_EXTRA if is_v110 else 0),
        history=PNDM_HISTORY if is_v110 else 0,
        found=finder.found,
        assumed=tuple(finder.assumed),
    )


PNDM_EXTRA = 9  # evaluations of its Runge-Kutta steps
PNDM_HISTORY = 4  # predictions that its multistep rule combines


def build_plan(model: LatteT2VConfig | OpenSoraT2VConfig, parallel: Parallel) -> LatteT2V | OpenSoraT2V:
    return LatteT2V(model, parallel) if isinstance(model, LatteT2VConfig) else OpenSoraT2V(model, parallel)


def published_plan(config: OpenSoraPlanConfig, vae: Any) -> LatteT2VConfig | OpenSoraT2VConfig:
    if config.version == "v120":
        return OpenSoraT2VConfig()
    frames = vae.latent_size(*config.release.types[config.checkpoint])[0]
    return with_frame_scale(LatteT2VConfig(video_length=frames))


SHAPES: Mapping[type[PipelineConfig], Callable[[Any], Shapes]] = MappingProxyType(
    {OpenSoraConfig: opensora, LatteConfig: latte, OpenSoraPlanConfig: open_sora_plan}
)


def shapes(config: PipelineConfig) -> Shapes:
    """The shapes of a config's parts. Nothing is fetched, and no weight is read."""
    return SHAPES[type(config)](config)
