"""Open-Sora v1.2: prompts to videos."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from videosys.cache import StepRecord
from videosys.generation import base
from videosys.generation.denoise import Sampling
from videosys.generation.pipeline import Denoising, Loader, Pipeline, Texts, check_channels, output
from videosys.generation.tiles import TiledFrames, field_names
from videosys.models.opensora.conditioning import (
    Condition,
    Reference,
    apply_mask_strategy,
    check_aligned,
    collect_sources,
    continuation,
    frames_needed,
    join_clips,
    latent_to_pixel_frames,
)
from videosys.models.opensora.config import OpenSoraConfig
from videosys.models.opensora.prompt import text_of_loop
from videosys.models.opensora.transformer import STDiT3, STDiT3Condition, STDiT3Config
from videosys.parallel import Parallel
from videosys.schedulers.rflow import RFlowScheduler
from videosys.utils.checkpoint import read_config
from videosys.utils.logging import get_logger
from videosys.utils.progress import progress

_LOG = get_logger("opensora")

__all__ = ["OpenSoraConfig", "OpenSoraPipeline"]


class OpenSoraPipeline(Pipeline[STDiT3]):
    """Text encoder, transformer and VAE, loaded when first used, and the order of their work."""

    loading_fields = Pipeline.loading_fields | {"vae_micro_batch_size"} | field_names(TiledFrames)
    inputs = frozenset({"references"})

    @classmethod
    def from_config(
        cls, config: OpenSoraConfig, quiet: bool = False, parallel: Parallel = Parallel()
    ) -> OpenSoraPipeline:
        from videosys.models.opensora.autoencoder import OpenSoraVAE, OpenSoraVAEConfig

        loader = Loader(config, quiet, parallel)
        model_folder, vae_folder = loader.find(config.transformer), loader.find(config.vae)
        vae_config = replace(
            read_config(OpenSoraVAEConfig, vae_folder), micro_batch_size=config.vae_micro_batch_size
        )
        model_config = read_config(STDiT3Config, model_folder)
        check_channels(model_config, model_folder, vae_config, vae_folder)
        longest, width = model_config.model_max_length, model_config.caption_channels
        made = cls(
            loader.text_encoder(config.text_encoder, longest, width),
            loader.transformer(STDiT3, model_config, model_folder),
            loader.model(OpenSoraVAE, vae_config, vae_folder, tiling=config.frame_tiling()),
            model_config,
            vae_config,
            parallel,
        )
        made.check_parallel(config)
        return made

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[str],
        config: OpenSoraConfig,
        references: Sequence[Reference] | Reference | None = None,
        quiet: bool = False,
    ) -> Iterator[base.VideoOutput]:
        """The videos of each micro-batch as soon as they are done. `config.seed` must be set."""
        assert config.seed is not None, "the engine draws the seed, so that all ranks have the same"
        self.check_parallel(config)
        base.check_prompts(written(prompts, config))
        self.warn_of_size(config)
        jobs = base.make_jobs(prompts, config.seed, config.num_videos_per_prompt)
        config, batches = self.settled(config), self.own_batches(jobs, config.batch_size)
        if not batches:
            return  # there are more replicas than micro-batches
        given = self.encode_references(config.references, explicit(references), config)
        texts = self.encode_texts([job.prompt for batch in batches for job in batch], config, quiet)
        for batch in batches:
            yield MicroBatch(self, config, batch, texts, quiet).run(*given)

    def encode_texts(self, prompts: Sequence[str], config: OpenSoraConfig, quiet: bool) -> Texts:
        from videosys.text_encoders.cleaning import prepare_prompt

        def prepare(text: str) -> str:
            return prepare_prompt(text, config.aes, config.flow, config.camera_motion)

        return self.encode(written(prompts, config), prepare, quiet)

    def denoising(self, jobs: Sequence[base.Job], texts: Texts, config: OpenSoraConfig) -> Denoising[STDiT3]:
        """What the loop needs for the first clip of these videos, which has no references."""
        return MicroBatch(self, config, jobs, texts, quiet=True).denoising(0, base.generators(jobs), (), ())

    def frames(self, latents: torch.Tensor, config: OpenSoraConfig, quiet: bool) -> Iterator[torch.Tensor]:
        with self.vae.use() as vae:
            for row in progress(latents.split(1), "decode", quiet=quiet):
                yield vae.decode(row, config.clip_frames)

    def sampler(self, config: OpenSoraConfig, sources: Sequence[torch.Generator]) -> RFlowScheduler:
        scheduler = RFlowScheduler()
        height, width = config.size
        scheduler.set_timesteps(config.steps, num_frames=config.clip_frames, height=height, width=width)
        return scheduler

    def latent_size(self, config: OpenSoraConfig) -> tuple[int, int, int]:
        return self.vae_config.latent_size(config.clip_frames, *config.size)

    def warn_of_size(self, config: OpenSoraConfig) -> None:
        _, rows, columns = self.latent_size(config)
        made = (rows * self.vae_config.spatial_factor, columns * self.vae_config.spatial_factor)
        if made != config.size:
            _LOG.warning("the video will be %d x %d, not %d x %d (height x width)", *made, *config.size)

    def encode_references(
        self, published: Sequence[Reference], references: Sequence[Reference], config: OpenSoraConfig
    ) -> tuple[list[Condition], list[torch.Tensor]]:
        """The conditions, and the latents [1, C, t, h, w] of each source, read and encoded once.

        Places of `published` strategies are moved to the nearest start of a chunk, as published code does; in
        `references` such a place is a ValueError.
        """
        from videosys.models.opensora.references import load_reference

        sources, conditions = collect_sources([*published, *references])
        if not sources:
            return [], []
        frames = [load_reference(source, *config.size) for source in sources]
        self.check_conditions(conditions, [clip.shape[1] for clip in frames], config)
        for condition in conditions[len(published) :]:
            end = self.vae_config.latent_frames(frames[condition.reference].shape[1])
            check_aligned(condition, end, self.vae_config.latent_frames(config.clip_frames), config.align)
        clips = [clip[None, :, : frames_needed(conditions, number)] for number, clip in enumerate(frames)]
        with self.vae.use() as vae:
            return conditions, [vae.encode(clip.to(self.vae.device)).float().cpu() for clip in clips]

    def check_conditions(
        self, conditions: Sequence[Condition], lengths: Sequence[int], config: OpenSoraConfig
    ) -> None:
        """ValueError where a condition fits neither its reference of so many frames nor the clip."""
        channels = self.vae_config.latent_channels
        given = [torch.empty(channels, self.vae_config.latent_frames(length), 1, 1) for length in lengths]
        clip = torch.empty(channels, self.vae_config.latent_frames(config.clip_frames), 1, 1)
        for condition in conditions:
            if condition.loop >= config.loops:
                raise ValueError(f"a reference is for loop {condition.loop}, and loops is {config.loops}")
            apply_mask_strategy(clip, given, [condition], condition.loop, config.align)


def written(prompts: Sequence[str], config: OpenSoraConfig) -> list[str]:
    """What the text encoder reads of the prompts, loop by loop."""
    return [text_of_loop(prompt, loop) for prompt in prompts for loop in range(config.loops)]


def explicit(references: Sequence[Reference] | Reference | None) -> list[Reference]:
    """References as a list: none, one or several may be given."""
    if references is None:
        return []
    return [references] if isinstance(references, Reference) else list(references)


@dataclass(frozen=True)
class MicroBatch:
    """Some videos that are made together, on their way from texts to frames."""

    pipeline: OpenSoraPipeline
    config: OpenSoraConfig
    jobs: Sequence[base.Job]
    texts: Texts
    quiet: bool

    def run(self, conditions: Sequence[Condition], given: Sequence[torch.Tensor]) -> base.VideoOutput:
        """The videos, loop by loop; `conditions` name latents [1 or B, C, t, h, w] of `given` by number."""
        sources = base.generators(self.jobs)
        conditions, given = list(conditions), list(given)
        clips: list[torch.Tensor] = []
        steps: list[StepRecord] = []
        for loop in range(self.config.loops):
            denoising = self.denoising(loop, sources, conditions, given)
            latents, records = self.pipeline.denoise(denoising, self.config.cache, self.quiet)
            clip, tail = self.decode(latents, continues=loop + 1 < self.config.loops)
            clips.append(clip)
            steps.extend(records)
            if tail is not None:
                conditions.append(self.continuation(loop + 1, len(given)))
                given.append(tail)
        videos = [join_clips(rows, self.config.condition_frame_length) for rows in zip(*clips)]
        return output(videos, self.jobs, steps, self.config)

    def continuation(self, loop: int, reference: int) -> Condition:
        return continuation(
            loop, reference, self.config.condition_frame_length, self.config.condition_frame_edit
        )

    def denoising(
        self,
        loop: int,
        sources: Sequence[torch.Generator],
        conditions: Sequence[Condition],
        given: Sequence[torch.Tensor],
    ) -> Denoising[STDiT3]:
        """What the denoise loop needs for one loop of clips."""
        config, pipeline = self.config, self.pipeline
        size = pipeline.latent_size(config)
        noise = base.initial_noise((pipeline.vae_config.latent_channels, *size), sources)
        latents, mask = apply_mask_strategy(noise, given, conditions, loop, config.align)
        frame_mask = mask if any(condition.loop == loop for condition in conditions) else None
        return Denoising(
            pipeline.sampler(config, sources),
            latents,
            lambda model: self.prepare(model, loop, size),
            Sampling(config.guidance_scale, sources, frame_mask),
        )

    def prepare(self, model: STDiT3, loop: int, latent_size: tuple[int, int, int]) -> STDiT3Condition:
        """The condition of the pair [cond, uncond], of this device's half, or of cond without guidance."""
        rows = [self.texts[text_of_loop(job.prompt, loop)] for job in self.jobs]
        embeds, mask = (torch.cat(parts) for parts in zip(*rows))
        if self.config.is_guided:
            null = model.null_caption(embeds.shape[1]).to(embeds)
            embeds = self.pipeline.parallel.cfg_shard(torch.cat((embeds, null.expand_as(embeds))))
        height, width = self.config.size
        return model.prepare(
            embeds, mask, latent_size=latent_size, fps=self.config.model_fps, height=height, width=width
        )

    def decode(self, latents: torch.Tensor, continues: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The clips, uint8 [B, T, H, W, 3], and the latents of their ends if another loop continues them."""
        config = self.config
        total = latents.shape[0] * config.clip_frames
        slices = latents.split(1 if config.enable_vae_slicing else len(latents))
        made = []
        with self.pipeline.vae.use() as vae, progress(None, "decode", total=total, quiet=self.quiet) as bar:
            for rows in slices:
                frames = vae.decode(rows, config.clip_frames, bar.update).float().clamp(-1, 1)
                end = frames[:, :, -latent_to_pixel_frames(config.condition_frame_length) :]
                tail = [vae.encode(end).float().cpu()] if continues else []
                made.append((base.to_uint8(frames), *tail))
        clips, *tails = (torch.cat(parts) for parts in zip(*made))
        return clips, tails[0] if tails else None
