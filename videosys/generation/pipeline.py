"""What every pipeline does alike: its parts are found and loaded, texts encoded once, latents denoised."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import torch
from torch import nn

from videosys.cache import CacheConfig, Scope, StepRecord, settle, start
from videosys.generation import base
from videosys.generation.compile import check_compile_offload, check_compiler, compile_blocks, compile_report
from videosys.generation.denoise import Sampling, denoise
from videosys.generation.offload import HOST, Component, check_offload
from videosys.layers.backends import check_attention, use_attention
from videosys.layers.storage import quantize_blocks, use_opaque_dequantize
from videosys.parallel import Parallel
from videosys.utils.checkpoint import check_model, load_model, resolve
from videosys.utils.hub import BUNDLED, PATTERNS
from videosys.utils.progress import progress
from videosys.utils.weights_hash import weights_hash

if TYPE_CHECKING:
    from videosys.text_encoders.t5 import T5Encoder

M = TypeVar("M", bound=nn.Module)
C = TypeVar("C", bound=base.PipelineConfig)
Texts = dict[str, tuple[torch.Tensor, torch.Tensor]]  # embeddings [1, L, D] and mask [1, L]


class Loader:
    """Finds the parts of a config's checkpoint at once, and loads each when it is first used."""

    def __init__(self, config: base.PipelineConfig, quiet: bool = False, parallel: Parallel = Parallel()):
        self.config, self.quiet, self.parallel = config, quiet, parallel
        self.device = base.resolve_device(config.device)
        self.dtype = base.resolve_dtype(config.dtype, self.device)
        check_offload(config.offload, self.device)
        self.has_groups = config.offload == "group"
        self.keep = quantize_blocks if config.storage_dtype != "auto" else None

    def find(self, source: str, subfolder: str = "", patterns: Sequence[str] = PATTERNS) -> Path:
        """The folder of a part, which in a repository of all parts is `subfolder`. A folder on this computer
        may be the part itself.
        """
        local = source.startswith(BUNDLED) or Path(source).expanduser().is_dir()
        fetch = functools.partial(
            resolve, source, revision=self.config.revision, offline=self.config.offline, patterns=patterns
        )
        if not local:
            return fetch(subfolder=subfolder)
        folder = fetch()
        return folder / subfolder if (folder / subfolder).is_dir() else folder

    def text_encoder(self, source: str, max_length: int, width: int) -> Component[T5Encoder]:
        """The text encoder of a folder that has `text_encoder` and `tokenizer`, or holds both itself.

        width: of the embeddings that the transformer reads; ValueError where the folder's have another.
        """
        from videosys.text_encoders.t5 import PARTS, PATTERNS, T5Encoder, check_width

        folder = self.find(source, patterns=PARTS)  # not all that a repository of a whole model has
        if not (folder / "text_encoder").is_dir():
            folder = self.find(source, patterns=PATTERNS)
        check_width(folder, width)
        load = functools.partial(
            T5Encoder.from_pretrained,
            max_length=max_length,
            dtype=self.dtype,
            storage_dtype=self.config.storage_dtype,
        )
        home, offload = self.home, self.config.offload
        return Component(
            lambda: load(folder, device=home), self.device, offload, root=lambda made: made.blocks_owner
        )

    @property
    def home(self) -> torch.device:
        """Where parts that are moved in groups lie, or all parts where none is."""
        return HOST if self.has_groups else self.device

    def model(self, model_cls: type[M], config: Any, folder: Path, **options: Any) -> Component[M]:
        """A part that is moved as a whole. ValueError where its weights are not there or not its own: a part
        that is used last must not fail after all the work.
        """
        load = self.checked(model_cls, config, folder, **options)
        offload = "stage" if self.has_groups else self.config.offload
        return Component(lambda: load(device=self.device), self.device, offload, folder)

    def transformer(self, model_cls: type[M], config: Any, folder: Path) -> Component[M]:
        """A model with its kernel of attention, its blocks compiled where the config says so.

        ValueError where device or packages cannot do it.
        """
        is_compiled, backend = self.config.compile != "none", self.config.attention
        check_attention(backend, self.device, self.dtype)
        if is_compiled:
            check_compiler(self.device)
            check_compile_offload(self.config.offload, self.device)
        load = self.checked(model_cls, config, folder)

        def load_transformer() -> M:
            made = use_attention(load(device=self.home, keep=self.keep), backend)
            return compile_blocks(use_opaque_dequantize(made, self.device)) if is_compiled else made

        return Component(load_transformer, self.device, self.config.offload, folder)

    def checked(self, model_cls: type[M], config: Any, folder: Path, **options: Any) -> Callable[..., M]:
        """What loads a model; the names and shapes of its weights are compared with the files now."""
        check_model(model_cls, config, folder, parallel=self.parallel, **options)
        return functools.partial(
            load_model,
            model_cls,
            config,
            folder,
            dtype=self.dtype,
            quiet=self.quiet,
            parallel=self.parallel,
            **options,
        )


@dataclass(frozen=True)
class Denoising(Generic[M]):
    """What the loop needs for one micro-batch besides a cache. A sampler serves once, and so does this.

    prepare: makes the condition of the loaded model.
    """

    sampler: Any
    latents: torch.Tensor
    prepare: Callable[[M], Any]
    sampling: Sampling


class Pipeline(Generic[M]):
    """Text encoder, transformer and autoencoder, loaded when first used."""

    # Fields that decide which weights are loaded, and where: chosen once, not with each request.
    loading_fields: ClassVar[frozenset[str]] = frozenset(
        {
            "transformer",
            "vae",
            "text_encoder",
            "revision",
            "offline",
            "device",
            "dtype",
            "storage_dtype",
            "offload",
            "compile",
            "attention",
            "parallel",
            "fps",  # not of the weights, but `engine.save_video` goes by the engine's
        }
    )
    # What a request may bring besides fields of the config; arguments of `generate`.
    inputs: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self,
        text_encoder: Component[T5Encoder],
        transformer: Component[M],
        vae: Component[Any],
        model_config: Any,
        vae_config: Any,
        parallel: Parallel = Parallel(),
    ):
        self.text_encoder, self.transformer, self.vae = text_encoder, transformer, vae
        self.model_config, self.vae_config, self.parallel = model_config, vae_config, parallel

    @classmethod
    def from_config(cls, config: Any, quiet: bool = False, parallel: Parallel = Parallel()) -> Pipeline:
        """The pipeline of a config. Folders are found and their configs read now, weights when first used.

        parallel: this device's place among those that work together; each of them has its pipeline.
        """
        raise NotImplementedError

    def generate(self, *request: Any, **inputs: Any) -> Iterator[base.VideoOutput]:
        """The videos of each micro-batch as soon as they are done; of several replicas, this one's.

        Takes prompts, config (its seed set), what `inputs` names, and quiet. All devices of a replica must
        ask for the same, and get the same.
        """
        raise NotImplementedError

    def check_parallel(self, config: Any) -> None:
        """ValueError where a request cannot be shared by the devices of `config.parallel`."""
        axes = config.parallel.resolved(config.is_guided)
        self.model_config.check_parallel(axes.sp, self.latent_size(config))

    def own_batches(self, jobs: Sequence[base.Job], size: int) -> Sequence[Sequence[base.Job]]:
        """The micro-batches of `size` jobs that this replica makes."""
        return self.parallel.own(list(base.batches(jobs, size)))

    def sampler(self, config: Any, sources: Sequence[torch.Generator]) -> Any:
        """A new sampler, which draws what noise it needs for each video from the video's own source."""
        raise NotImplementedError

    def latent_size(self, config: Any) -> tuple[int, int, int]:
        """Frames, rows and columns of the latents."""
        raise NotImplementedError

    def encode_texts(self, prompts: Sequence[str], config: Any, quiet: bool) -> Texts:
        """All texts that the prompts need, each encoded once."""
        raise NotImplementedError

    def denoising(self, jobs: Sequence[base.Job], texts: Texts, config: Any) -> Denoising[M]:
        """What the loop needs for these videos, all noise drawn anew from their seeds."""
        raise NotImplementedError

    def frames(self, latents: torch.Tensor, config: Any, quiet: bool) -> Iterator[torch.Tensor]:
        """Frames [1, 3, T, H, W] in about [-1, 1] of each sample of latents [B, C, T, H, W]."""
        raise NotImplementedError

    def scope(self, config: Any) -> Scope:
        """What settings of a cache must have been found on to hold for this config."""
        folder = self.transformer.folder
        evaluations = len(self.sampler(config, ()).timesteps)
        found = None if folder is None else weights_hash(folder)
        return base.scope_of(config, evaluations, self.latent_size(config), found)

    def settled(self, config: C) -> C:
        """The config with the settings of its cache looked up: in calibration files, and what was published.

        ValueError, before anything is loaded, where there are none for it, and for a device that is not here.
        """
        where = getattr(config.cache, "device", "auto")
        if where != "auto":  # with the model, wherever that is
            base.resolve_device(where, "cache.device")
        found = settle(config.cache, lambda: self.scope(config), self.transformer.folder)
        config = replace(config, cache=found)
        return replace(config, cache=config.settled_cache())

    def encode(
        self,
        texts: Iterable[str],
        prepare: Callable[[str], str],
        quiet: bool,
        padded: Collection[str] = (),
    ) -> Texts:
        """The embeddings and masks of texts, each cleaned by `prepare` and encoded once.

        padded: the texts whose padding is read; the encoder need not look at that of the others.
        """
        with self.text_encoder.use() as encoder:
            made = {
                text: encoder([prepare(text)], padded=text in padded)
                for text in progress(list(dict.fromkeys(texts)), "encode", quiet=quiet)
            }
        device = self.text_encoder.device
        return {text: (embeds.to(device), mask.to(device)) for text, (embeds, mask) in made.items()}

    def denoise(
        self, given: Denoising[M], cache: CacheConfig, quiet: bool
    ) -> tuple[torch.Tensor, list[StepRecord]]:
        """Denoised latents [B, C, T, H, W], and the model evaluations."""
        sampler, latents = given.sampler, given.latents
        request_id, times = base.checksum(latents), sampler.times()
        settings = repr((times, cache, given.sampling.guidance_scale))
        # Or the devices would wait for each other in vain, or mix two videos.
        self.parallel.agree("a generation (latents, settings)", request_id, zlib.crc32(settings.encode()))
        made = start(cache, times, self.parallel.gather_rows, request_id)
        total = len(sampler.timesteps)
        with self.transformer.use() as model, progress(None, "denoise", total=total, quiet=quiet) as bar:
            condition, sampling = given.prepare(model), replace(given.sampling, progress=bar.update)
            latents = latents.to(self.transformer.device)
            latents = denoise(model, sampler, latents, condition, sampling, made, self.parallel)
        if not bool(torch.isfinite(latents).all()):
            raise ValueError(
                "the latents are not finite: the weights are damaged, or too large for their dtype "
                "(bfloat16 and float32 reach further than float16)"
            )
        return latents, made.steps

    def close(self) -> None:
        """Forgets all weights."""
        for part in (self.text_encoder, self.transformer, self.vae):
            part.close()


def check_channels(model_config: Any, model_folder: Path, vae_config: Any, vae_folder: Path) -> None:
    """ValueError where a transformer and an autoencoder are not of one model."""
    if model_config.in_channels != vae_config.latent_channels:
        raise ValueError(
            f"{model_folder} makes {model_config.in_channels} latent channels, "
            f"{vae_folder} decodes {vae_config.latent_channels}"
        )


def output(
    videos: Sequence[torch.Tensor],
    jobs: Sequence[base.Job],
    steps: Sequence[StepRecord],
    config: base.PipelineConfig,
) -> base.VideoOutput:
    """The output of a micro-batch, whose videos share their model evaluations."""
    prompts, seeds = [job.prompt for job in jobs], [job.seed for job in jobs]
    compiled = None if config.compile == "none" else compile_report()
    return base.VideoOutput(list(videos), prompts, seeds, [list(steps) for _ in videos], config.fps, compiled)
