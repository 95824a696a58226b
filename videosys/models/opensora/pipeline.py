"""The pipeline of Open-Sora v1.2: consecutive clips, images and videos as conditions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from videosys.cache import StepRecord
from videosys.generation.denoise import Sampling
from videosys.generation.finite import check_finite, frame_sums
from videosys.generation.guidance import Pair, PromptEmbeds, Texts, masked_pair
from videosys.generation.parts import Part, PartFinder, Parts, config_of
from videosys.generation.pipeline import Decoded, Denoising, Pipeline, Progress, output
from videosys.generation.request import VideoJob, VideoOutput, generators, to_uint8
from videosys.models.opensora.autoencoder import OpenSoraVAE, OpenSoraVAEConfig
from videosys.models.opensora.conditioning import (
    CHUNK_FRAMES,
    FrameCondition,
    Reference,
    apply_mask_strategy,
    check_aligned,
    chunks_needed,
    collect_sources,
    continuation,
    from_chunks,
    join_clips,
    latent_to_pixel_frames,
)
from videosys.models.opensora.config import OpenSoraConfig
from videosys.models.opensora.prompt import notes
from videosys.models.opensora.transformer import STDiT3, STDiT3Condition, STDiT3Config
from videosys.schedulers.rflow import RFlowScheduler
from videosys.utils.logging import get_logger

_LOG = get_logger("opensora")
Conditions = tuple[Sequence[FrameCondition], Sequence[torch.Tensor]]  # and the references by number


def parts(config: OpenSoraConfig, finder: PartFinder) -> Parts:
    """The parts of a checkpoint."""
    transformer = finder.part("transformer", config.transformer, STDiT3, STDiT3Config())
    vae_folder = finder.folder("vae", config.vae)
    vae_config = config_of(OpenSoraVAEConfig, vae_folder, OpenSoraVAEConfig())
    vae_config = replace(vae_config, micro_batch_size=config.frames_at_once)
    return Parts(
        transformer=transformer,
        vae=Part(OpenSoraVAE, vae_config, vae_folder, {"tiling": config.frame_tiling()}),
        text_encoder=finder.text_encoder(config.text_encoder, transformer.config.model_max_length),
    )


def scheduler(config: OpenSoraConfig, generators: Sequence[torch.Generator]) -> RFlowScheduler:
    """Rectified flow with the time shift of the video's size."""
    rflow = RFlowScheduler()
    height, width = config.size
    rflow.set_timesteps(config.steps, num_frames=config.clip_frames, height=height, width=width)
    return rflow


def guidance_pair(
    model: STDiT3, prompts: Sequence[PromptEmbeds], negative: PromptEmbeds | None, config: OpenSoraConfig
) -> Pair:
    """Prompts and the repeated negative prompt; without one, the model's null caption, cut to the number of
    tokens of each prompt.
    """
    if negative is not None or not config.is_guided:
        return masked_pair(prompts, negative)
    embeds, mask = (torch.cat(rows) for rows in zip(*prompts))
    null = model.null_caption(embeds.shape[1]).to(embeds)
    return torch.cat((embeds, null.expand_as(embeds))), mask.repeat(2, 1)


def condition(
    model: STDiT3,
    prompt_embeds: torch.Tensor,
    prompt_mask: torch.Tensor | None,
    latent_size: tuple[int, int, int],
    config: OpenSoraConfig,
) -> STDiT3Condition:
    """The transformer's condition, with the frame rate and the size in pixels."""
    height, width = config.size
    return model.prepare(
        prompt_embeds, prompt_mask, latent_size=latent_size, fps=config.model_fps, height=height, width=width
    )


class OpenSoraPipeline(Pipeline):
    """Generates videos with Open-Sora: several clips (loops) can be consecutive, and images and videos
    can be given for some of their frames.
    """

    rounding = "nearest"

    def check_request(self, prompts: Sequence[str], config: Any) -> None:
        super().check_request(prompts, config)
        for prompt in dict.fromkeys(prompts):
            for note in notes(prompt, config.loops, config.prompt_references):
                _LOG.warning("%s", note)
            self.read_references(config.prompt_conditions(prompt), (), config)  # before any work
        _, rows, columns = self.latent_size(config)
        factor = self.parts.vae.config.spatial_factor
        if (rows * factor, columns * factor) != config.size:
            message = "the size is rounded to %d x %d, from %d x %d (height x width)"
            _LOG.warning(message, rows * factor, columns * factor, *config.size)

    def encode_inputs(
        self, config: Any, references: Sequence[Reference] | Reference | None = None
    ) -> tuple[list[FrameCondition], list[torch.Tensor]]:
        """The conditions, and the latents [1, C, t, h, w] of each source, read and encoded once.

        Positions in the config's published strategy move to the nearest start of a chunk, as in published
        code; in `references` such a position is a ValueError.
        """
        explicit = [references] if isinstance(references, Reference) else list(references or ())
        return self.encode_references(*self.read_references(config.references, explicit, config))

    def read_references(
        self, published: Sequence[Reference], explicit: Sequence[Reference], config: OpenSoraConfig
    ) -> tuple[list[FrameCondition], list[torch.Tensor]]:
        """The conditions, and the frames [1, 3, T, H, W] of each source. ValueError if they do not match."""
        from videosys.models.opensora.references import check_shape, open_reference

        sources, conditions = collect_sources([*published, *explicit])
        if not sources:
            return [], []
        vae_config = self.parts.vae.config
        opened = [open_reference(source, config.reference_background) for source in sources]
        lengths = [vae_config.latent_frames(reference.num_frames) for reference in opened]
        self.check_conditions(conditions, lengths, config)
        end = vae_config.latent_frames(config.clip_frames)
        for condition in conditions[len(published) :]:
            check_aligned(condition, lengths[condition.reference], end, config.align)
        spans = chunks_needed(conditions, lengths, config.align, vae_config.micro_batch_size)
        (height, width), clips = config.size, []
        for reference, (first, last) in zip(opened, spans):
            check_shape(reference, height, width)
            begin, end = first * CHUNK_FRAMES, last * CHUNK_FRAMES
            clips.append(reference.load(height, width, begin, end)[None])
        return from_chunks(conditions, lengths, spans, config.align), clips

    def encode_references(
        self, conditions: list[FrameCondition], clips: Sequence[torch.Tensor]
    ) -> tuple[list[FrameCondition], list[torch.Tensor]]:
        """The conditions, and the latents [1, C, t, h, w] of each source's frames."""
        if not clips:
            return [], []
        with self.vae.use() as vae:
            latents = [vae.encode(clip.to(self.vae.device)).float().cpu() for clip in clips]
        for number, item in enumerate(latents):
            check_finite(item, f"the autoencoder's encoder, for reference {number},")
        return conditions, latents

    def check_conditions(
        self, conditions: Sequence[FrameCondition], lengths: Sequence[int], config: OpenSoraConfig
    ) -> None:
        """ValueError if a condition does not fit the clip or the latent frames of its reference."""
        vae_config = self.parts.vae.config
        references = [torch.empty(vae_config.latent_channels, length, 1, 1) for length in lengths]
        end = vae_config.latent_frames(config.clip_frames)
        clip = torch.empty(vae_config.latent_channels, end, 1, 1)
        for condition in conditions:
            if condition.loop >= config.loops:
                raise ValueError(f"a reference is for loop {condition.loop}, but loops is {config.loops}")
            apply_mask_strategy(clip, references, [condition], condition.loop, config.align)

    def generate_batch(
        self, jobs: Sequence[VideoJob], texts: Texts, config: Any, quiet: bool, conditions: Any
    ) -> VideoOutput:
        """The videos, clip by clip; `conditions` name latents [1 or B, C, t, h, w] by number."""
        conditions, references = (list(items) for items in conditions)
        own = [
            self.encode_references(*self.read_references(config.prompt_conditions(job.prompt), (), config))
            for job in jobs
        ]
        sources = generators(jobs)
        clips: list[list[torch.Tensor]] = []
        steps: list[StepRecord] = []
        for loop in range(config.loops):
            denoising = self.clip_denoising(jobs, texts, config, loop, sources, (conditions, references), own)
            latents, records = self.denoise(denoising, config.cache, quiet)
            if self.given.output_type == "latent":  # supports only one clip
                return output([*latents.cpu()], jobs, records, config)
            frames, tail = self.decode(latents, config, quiet, continues=loop + 1 < config.loops)
            clips.append(frames)
            steps.extend(records)
            if tail is not None:
                check_finite(tail, f"the autoencoder's encoder, for the end of loop {loop},")
                length, strength = config.condition_frame_length, config.condition_frame_edit
                conditions.append(continuation(loop + 1, len(references), length, strength))
                references.append(tail)
        videos = [join_clips(rows, config.condition_frame_length) for rows in zip(*clips)]
        return output(videos, jobs, steps, config)

    def clip_denoising(
        self,
        jobs: Sequence[VideoJob],
        texts: Texts,
        config: OpenSoraConfig,
        loop: int,
        sources: Sequence[torch.Generator],
        shared: Conditions,
        own: Sequence[Conditions],
    ) -> Denoising:
        """The inputs of the denoising loop for one clip of each video, with common and
        individual conditions.
        """
        noise = self.noise(jobs, sources, config)
        latents, mask = apply_mask_strategy(noise, shared[1], shared[0], loop, config.align)
        for row, (conditions, references) in enumerate(own):
            rows = slice(row, row + 1)
            latents[rows], given = apply_mask_strategy(
                latents[rows], references, conditions, loop, config.align
            )
            mask[rows] = mask[rows].minimum(given)
        all_conditions = [condition for conditions, _ in (shared, *own) for condition in conditions]
        frame_mask = mask if any(condition.loop == loop for condition in all_conditions) else None
        prompts = [config.prompt_texts(job.prompt)[loop] for job in jobs]
        return Denoising(
            self.family.sampler(config, sources),
            latents,
            lambda model: self.condition(model, prompts, texts, config),
            Sampling(config.guidance_scale, sources, frame_mask),
        )

    def decode_rows(
        self,
        vae: Any,
        latents: torch.Tensor,
        config: Any,
        continues: bool = False,
        progress: Progress | None = None,
    ) -> Decoded:
        frames = self.vae_frames(vae, latents, config, progress).float()
        sums, frames = frame_sums(frames), frames.clamp(-1, 1)
        end = frames[:, :, -latent_to_pixel_frames(config.condition_frame_length) :]
        tail = vae.encode(end).float() if continues else None
        return Decoded(to_uint8(frames), sums, tail)
