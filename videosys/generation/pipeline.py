"""The pipeline: encode texts, denoise latents, decode frames."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch

from videosys.cache import Cache, CacheConfig, RunSpec, StepRecord, find_plan, resolve_cache, start
from videosys.cache.run_spec import WITH
from videosys.generation import request
from videosys.generation.compile import compile_report
from videosys.generation.config import PipelineConfig, resolve_dtype
from videosys.generation.denoise import Sampling, denoise
from videosys.generation.finite import check_finite, check_frames, frame_sums
from videosys.generation.given import Given, Sizes, take_given
from videosys.generation.graphs import graphed
from videosys.generation.guidance import NEGATIVE, PromptEmbeds, Texts, negative_of
from videosys.generation.loader import Components
from videosys.generation.lora import loras_hash
from videosys.generation.offload import Component, loaded_ahead
from videosys.generation.parts import Parts
from videosys.generation.plans import plan_text, with_plan
from videosys.generation.request import Rounding, VideoJob, VideoOutput, generators
from videosys.generation.watch import Monitor, Watch
from videosys.parallel import Parallel
from videosys.utils.devices import resolve_device
from videosys.utils.logging import get_logger
from videosys.utils.progress import progress
from videosys.utils.settled import settle
from videosys.utils.weights_hash import weights_hash

C = TypeVar("C", bound=PipelineConfig)
P = TypeVar("P", bound="Pipeline")
Progress = Callable[[int], object]
_LOG = get_logger("generation")


@dataclass(frozen=True)
class Denoising:
    """The inputs of the denoising loop for one micro-batch. For a single use, because it has a scheduler.

    latents: [B, C, T, H, W]. condition: creates the condition for the loaded transformer's forward.
    """

    scheduler: Any
    latents: torch.Tensor
    condition: Callable[[Any], Any]
    sampling: Sampling


class Decoded(NamedTuple):
    """Decoded clips, uint8 [B, T, H, W, 3], their `frame_sums` [B, T] before rounding, and latents [B, C, t,
    H, W] for the continuation in the next clip.
    """

    frames: torch.Tensor
    sums: torch.Tensor
    tail: torch.Tensor | None = None


class Pipeline:
    """Text encoder, transformer and autoencoder, and the stages that use them.

    This class supports models with and without a negative prompt. A family with other stages derives a class.
    family: the `Family` record, whose scheduler, condition and guidance_pair are used.
    """

    rounding: ClassVar[Rounding] = "down"

    def __init__(self, family: Any, parts: Parts, components: Components, parallel: Parallel = Parallel()):
        self.family, self.parts, self.components, self.parallel = family, parts, components, parallel
        self.text_encoder: Component[Any] = components.text_encoder
        self.transformer, self.vae = components.transformer, components.vae
        self.monitor, self.given = Monitor(), Given()

    def watched(self: P, watch: Watch) -> P:
        """A copy of this pipeline, with the same parts, for one watched request.

        Either all devices of a replica watch the request, or none.
        """
        pipeline = copy.copy(self)
        pipeline.monitor = Monitor(watch, self.parallel)
        return pipeline

    def with_given(self: P, given: Given) -> P:
        """A copy of this pipeline, with the same parts, for one request with given tensors."""
        pipeline = copy.copy(self)
        pipeline.given = given
        return pipeline

    def keep_parts(self, other: Pipeline) -> None:
        """Take over the text encoder and the autoencoder of a pipeline with another transformer."""
        self.components = replace(self.components, text_encoder=other.text_encoder, vae=other.vae)
        self.text_encoder, self.vae = other.text_encoder, other.vae

    @settle
    def generate(
        self, prompts: Sequence[str], config: Any, quiet: bool = False, **inputs: Any
    ) -> Iterator[VideoOutput]:
        """Yield the videos of each micro-batch of this replica when they are done.

        `config.seed` must be set. inputs: inputs of a request besides config fields: the fields of `Given`
        and the family's inputs. All devices of a replica must pass the same inputs.
        """
        assert config.seed is not None, "the engine draws the seed, so that all ranks have the same"
        yield from self.with_given(take_given(inputs)).generate_batches(prompts, config, quiet, inputs)

    def generate_batches(
        self, prompts: Sequence[str], config: Any, quiet: bool, inputs: dict[str, Any]
    ) -> Iterator[VideoOutput]:
        """Like `generate`, with `self.given` set. inputs: only those of the family."""
        self.check_parallel(config)
        self.check_given(self.given, prompts, config)
        self.check_request(prompts, config)
        jobs = request.make_jobs(prompts, config.seed, config.num_videos_per_prompt)
        config = self.with_resolved_cache(config, logs_plan=True)
        batches = self.parallel.own([*request.batches(jobs, config.batch_size)])
        if not batches:
            return  # more replicas than micro-batches
        self.monitor.expect(len(batches) * config.num_clips)
        conditions = self.encode_inputs(config, **inputs)
        texts = self.given_texts(prompts, config)
        with loaded_ahead([self.transformer, self.vae]):
            own = [job.prompt for batch in batches for job in batch]
            texts |= self.encode_texts(own, config, quiet, texts)
        for batch in batches:
            yield self.generate_batch(batch, texts, config, quiet, conditions)

    def check_parallel(self, config: Any) -> None:
        """ValueError if the devices of `config.parallel` cannot share a request."""
        axes = config.parallel.resolved(config.is_guided)
        self.parts.transformer.config.check_parallel(axes.sp, self.latent_size(config))

    def check_request(self, prompts: Sequence[str], config: Any) -> None:
        """ValueError for texts that cannot be encoded."""
        request.check_prompts([text for prompt in prompts for text in config.prompt_texts(prompt)])

    def check_given(self, given: Given, prompts: Sequence[str], config: Any) -> None:
        """ValueError if given tensors do not fit the model or the request."""
        if not given.inputs():
            return
        sizes = Sizes(
            latents=(self.parts.vae.config.latent_channels, *self.latent_size(config)),
            text=(self.parts.text_encoder.max_length, self.parts.transformer.config.caption_channels),
            clips=config.num_clips,
            has_negative=config.is_guided,
        )
        given.check(prompts, len(prompts) * config.num_videos_per_prompt, sizes)
        if given.negative_prompt_embeds is not None:
            config.check_negative("negative_prompt_embeds")

    def given_texts(self, prompts: Sequence[str], config: Any) -> dict[str, PromptEmbeds]:
        """The given embeddings, by the texts that they replace."""
        keys = [config.prompt_texts(prompt) for prompt in prompts]
        device = self.text_encoder.device
        dtype, length = resolve_dtype(config.dtype, device), self.parts.text_encoder.max_length
        texts = self.given.texts(keys, dtype, length)
        return {key: on_device(text, device) for key, text in texts.items()}

    def embeddings(self, prompts: Sequence[str], config: Any, quiet: bool) -> dict[str, torch.Tensor]:
        """The embeddings of prompts, and of the negative prompt if there is one, as fields of `Given`."""
        self.check_request(prompts, config)
        texts = self.encode_texts(prompts, config, quiet)
        groups = {"prompt": [config.prompt_texts(prompt)[0] for prompt in prompts]}
        if config.is_guided and config.negative_text is not None:
            groups["negative_prompt"] = [config.negative_text]
        rows = {
            name: [torch.cat(parts) for parts in zip(*map(texts.get, keys))] for name, keys in groups.items()
        }
        names = ("embeds", "mask")
        return {f"{name}_{kind}": part for name, parts in rows.items() for kind, part in zip(names, parts)}

    def encode_inputs(self, config: Any) -> Any:
        """Encode the request's inputs that all micro-batches share."""
        return None

    def generate_batch(
        self, jobs: Sequence[VideoJob], texts: Texts, config: Any, quiet: bool, conditions: Any
    ) -> VideoOutput:
        """Generate the videos of one micro-batch."""
        latents, steps = self.denoise(self.denoising(jobs, texts, config), config.cache, quiet)
        if self.given.output_type == "latent":
            return output([*latents.cpu()], jobs, steps, config)
        clips, _ = self.decode(latents, config, quiet)
        return output(clips, jobs, steps, config)

    def latent_size(self, config: Any) -> tuple[int, int, int]:
        """Latent frames, rows and columns of one clip."""
        return self.parts.latent_size(config)

    def scope(self, config: Any) -> RunSpec:
        """The run that calibrated cache settings must match for this config."""
        folder = self.parts.transformer.folder
        evaluations = len(self.family.sampler(config, ()).timesteps)
        digest = folder and weights_hash(folder)
        if digest and config.lora:
            digest = f"{digest}{WITH}{loras_hash(config.lora, config.offline)}"
        return config.scope(evaluations, self.latent_size(config), digest)

    def with_resolved_cache(self, config: C, logs_plan: bool = False) -> C:
        """The config with resolved cache settings, or plan: from calibration files, and published values.

        logs_plan: whether a plan is logged. ValueError, before anything is loaded, if there are none for it
        or its device is missing.
        """
        device = config.cache.device
        if device != "auto":  # auto is the model's device
            resolve_device(device, "cache.device")
        folder = self.parts.transformer.folder
        found = find_plan(config.cache, lambda: self.scope(config), folder)
        if found is not None:
            config = with_plan(config, *found)
            if logs_plan:
                _LOG.info("plan: %s", plan_text(config, found[0]))
        cache = resolve_cache(config.cache, lambda: self.scope(config), folder)
        config = replace(config, cache=cache)
        return replace(config, cache=config.with_default_coefficients())

    def encode_texts(
        self, prompts: Sequence[str], config: Any, quiet: bool, given: Texts = MappingProxyType({})
    ) -> dict[str, PromptEmbeds]:
        """Encode the texts of all prompts and the negative text, each once, except those in `given`."""
        wanted = {text: config.clean(text) for prompt in prompts for text in config.prompt_texts(prompt)}
        has_negative = config.is_guided and not any(key.startswith(NEGATIVE) for key in given)
        if has_negative and config.negative_text is not None:
            wanted[config.negative_text] = config.clean_negative(config.negative_text)
        wanted = {text: cleaned for text, cleaned in wanted.items() if text not in given}
        encoded: dict[str, PromptEmbeds] = {}
        self.monitor.begin("encode", len(wanted))
        if not wanted:
            return encoded
        with self.text_encoder.use() as encoder:
            for text, cleaned in progress(wanted.items(), "encode", total=len(wanted), quiet=quiet):
                encoded[text] = PromptEmbeds(*encoder([cleaned], padded=config.reads_padding(text)))
                self.monitor.advance()
        for text, (embeds, _) in encoded.items():
            check_finite(embeds, f"the text encoder, for {text[:40]!r},")
        return {text: on_device(item, self.text_encoder.device) for text, item in encoded.items()}

    def denoising(self, jobs: Sequence[VideoJob], texts: Texts, config: Any) -> Denoising:
        """The loop's inputs for the first clip of these videos, with noise drawn from their seeds."""
        sources = generators(jobs)
        scheduler = self.family.sampler(config, sources)
        noise = self.noise(jobs, sources, config) * scheduler.init_noise_sigma
        prompts = [config.prompt_texts(job.prompt)[0] for job in jobs]
        return Denoising(
            scheduler,
            noise,
            lambda model: self.condition(model, prompts, texts, config),
            Sampling(config.guidance_scale, sources),
        )

    def noise(
        self, jobs: Sequence[VideoJob], sources: Sequence[torch.Generator], config: Any
    ) -> torch.Tensor:
        """Initial latents [B, C, T, H, W]: those given for these videos, or noise from their seeds.

        The noise is always drawn, because samplers that add noise continue with the same generators.
        """
        drawn, latents = self.initial_noise(sources, config), self.given.latents
        return drawn if latents is None else latents.detach().cpu().float()[[job.index for job in jobs]]

    def initial_noise(self, sources: Sequence[torch.Generator], config: Any) -> torch.Tensor:
        """Normal latents [B, C, T, H, W], each sample from a separate generator."""
        channels = self.parts.vae.config.latent_channels
        return request.initial_noise((channels, *self.latent_size(config)), sources)

    def condition(self, model: Any, prompts: Sequence[str], texts: Texts, config: Any) -> Any:
        """The transformer's condition for the pair [cond, uncond], or for this device's half of it."""
        negative = negative_of(prompts, texts, config.negative_text) if config.is_guided else None
        embeds, mask = self.family.guidance_pair(model, [texts[text] for text in prompts], negative, config)
        cut = self.parallel.cfg_shard
        mask = None if mask is None else cut(mask)
        return self.family.condition(model, cut(embeds), mask, self.latent_size(config), config)

    def denoise(
        self, denoising: Denoising, cache_config: CacheConfig, quiet: bool
    ) -> tuple[torch.Tensor, list[StepRecord]]:
        """(denoised latents [B, C, T, H, W], records of the model evaluations)."""
        scheduler, latents = denoising.scheduler, denoising.latents
        request_id, times = request.checksum(latents), scheduler.times()
        settings = repr((times, cache_config, denoising.sampling.guidance_scale))
        # If they differ, the devices could deadlock or mix two videos.
        self.parallel.agree("a generation (latents, settings)", request_id, zlib.crc32(settings.encode()))
        cache = start(cache_config, times, self.parallel.gather_rows, request_id)
        total = len(scheduler.timesteps)
        self.monitor.begin("denoise", total)
        with self.transformer.use() as model, progress(None, "denoise", total=total, quiet=quiet) as bar:
            condition = denoising.condition(model)
            sampling = replace(denoising.sampling, progress=partial(self.step_done, bar, cache))
            latents = latents.to(self.transformer.device)
            run = graphed(model, self.transformer.device) if self.components.uses_graphs else model
            latents = denoise(run, scheduler, latents, condition, sampling, cache, self.parallel)
        return latents, cache.steps

    def step_done(self, bar: Any, cache: Cache) -> None:
        """Report a model evaluation; raise the error that stopped the request."""
        bar.update()
        if self.monitor.watch is not None:
            self.monitor.advance(computed=all(record.computed for record in cache.steps[-1:]))

    def decode(
        self, latents: torch.Tensor, config: Any, quiet: bool, continues: bool = False
    ) -> tuple[list[torch.Tensor], torch.Tensor | None]:
        """(clips, uint8 [T, H, W, 3] on the CPU, latents for their continuations).

        continues: whether another clip follows.
        """
        clips: list[torch.Tensor] = []
        tails: list[torch.Tensor] = []
        total = len(latents) * config.clip_frames
        self.monitor.begin("decode", total)
        with self.vae.use() as vae, progress(None, "decode", total=total, quiet=quiet) as bar:
            for rows in latents.split(config.decode_batch_size):
                decoded = self.decode_rows(vae, rows, config, continues, partial(self.frames_done, bar))
                self.monitor.check()
                check_frames(decoded.sums, getattr(self.parts.vae.config, "chunk_frames", None))
                clips += decoded.frames.cpu()
                tails += [] if decoded.tail is None else [decoded.tail.cpu()]
        return clips, torch.cat(tails) if tails else None

    def frames_done(self, bar: Any, count: int) -> None:
        """Report decoded frames. Devices that share the frames may report at different times."""
        bar.update(count)
        (self.monitor.advance if self.parallel.replica.size == 1 else self.monitor.tell)(count)

    def decode_rows(
        self,
        vae: Any,
        latents: torch.Tensor,
        config: Any,
        continues: bool = False,
        progress: Progress | None = None,
    ) -> Decoded:
        """Decode latents together, on their device."""
        frames = self.vae_frames(vae, latents, config, progress)
        return Decoded(request.to_uint8(frames, self.rounding), frame_sums(frames))

    def vae_frames(
        self, vae: Any, latents: torch.Tensor, config: Any, progress: Progress | None = None
    ) -> torch.Tensor:
        """Frames [B, 3, T, H, W] in about [-1, 1] of the transformer's latents."""
        return vae.decode(latents, config.clip_frames, progress)

    def frames(self, latents: torch.Tensor, config: Any, quiet: bool) -> Iterator[torch.Tensor]:
        """Yield frames [1, 3, T, H, W] in about [-1, 1] for each sample of latents [B, C, T, H, W]."""
        with self.vae.use() as vae:
            for row in progress(latents.split(1), "decode", quiet=quiet):
                yield self.vae_frames(vae, row, config)

    def close(self) -> None:
        """Drop all weights."""
        self.components.close()


def on_device(text: PromptEmbeds, device: torch.device) -> PromptEmbeds:
    """Move a text to a device."""
    return PromptEmbeds(*(part.to(device) for part in text))


def output(
    videos: Sequence[torch.Tensor],
    jobs: Sequence[VideoJob],
    steps: Sequence[StepRecord],
    config: PipelineConfig,
) -> VideoOutput:
    """The output of a micro-batch. Its videos share the records of model evaluations."""
    prompts, seeds = [job.prompt for job in jobs], [job.seed for job in jobs]
    compiled = None if config.compile == "none" else compile_report()
    return VideoOutput(list(videos), prompts, seeds, [list(steps) for _ in videos], config.fps, compiled)
