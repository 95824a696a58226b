"""Pipelines of the diffusion models that are guided by a negative prompt: the order of their work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from videosys.generation import base
from videosys.generation.denoise import Sampling
from videosys.generation.pipeline import Denoising, Pipeline, Texts, output
from videosys.utils.progress import progress

M = TypeVar("M", bound=nn.Module)
Text = tuple[torch.Tensor, torch.Tensor]  # embeddings [1, L, D] and mask [1, L]
Encoded = tuple[torch.Tensor, torch.Tensor | None]  # [B, L, D], and [B, L] where not all tokens are seen

PATCH_PIXELS = 16  # two latents of eight pixels: rows and columns of latents must be even


@dataclass(frozen=True)
class TextToVideoConfig(base.PipelineConfig):
    """The choices of pipelines with a negative prompt, besides those of PipelineConfig.

    num_frames, height, width: of the video, in pixels; None for what the checkpoint was trained on.
    negative_prompt: what the video shall not show; None for the published one.
    clean_caption: clean prompts twice, as captions were for training; false only lower-cases and strips.
    """

    num_frames: int | None = None
    height: int | None = None
    width: int | None = None
    negative_prompt: str | None = None
    clean_caption: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_counts("num_frames", "height", "width")
        height, width = self.size
        if height % PATCH_PIXELS or width % PATCH_PIXELS:
            raise ValueError(
                f"the video would be {height} x {width}; height and width must be multiples of {PATCH_PIXELS}"
            )
        least, most = self.steps_allowed
        if not least <= self.steps <= most:
            raise ValueError(f"num_inference_steps is {self.steps}; it must be {least} to {most}")

    @property
    def steps_allowed(self) -> tuple[int, int]:
        return 1, 1000

    @property
    def negative(self) -> str:
        """The negative prompt as it is written."""
        return self.negative_prompt or ""

    @property
    def keeps_chinese(self) -> bool:
        """Whether cleaning leaves Chinese in prompts."""
        return False

    @property
    def reads_padding(self) -> bool:
        """Whether the model sees padding of the negative prompt, as far as the longest prompt reaches."""
        return True

    @property
    def reads_prompt_padding(self) -> bool:
        """Whether the model sees padding of the prompts."""
        return False

    def positive(self, prompt: str) -> str:
        """The prompt with the words that the model wants around it."""
        return prompt


class TextToVideoPipeline(Pipeline[M]):
    """Text encoder, transformer and autoencoder, and the order of their work. A model says the rest."""

    def latent_size(self, config: Any) -> tuple[int, int, int]:
        return self.vae_config.latent_size(config.output_frames, *config.size)

    def pair(self, prompts: Sequence[Text], negative: Text | None, config: Any) -> Encoded:
        """What the model reads: the prompts, then the negative prompt as often where there is guidance."""
        raise NotImplementedError

    def prepare(self, model: M, encoded: Encoded, size: tuple[int, int, int], config: Any) -> Any:
        """The model's condition for latents of a size (frames, rows, columns)."""
        embeds, mask = encoded
        return model.prepare(embeds, mask, latent_size=size)  # type: ignore[operator]

    def to_vae(self, latents: torch.Tensor) -> torch.Tensor:
        """The autoencoder's latents of the transformer's."""
        return latents

    @torch.no_grad()
    def generate(
        self, prompts: Sequence[str], config: Any, quiet: bool = False
    ) -> Iterator[base.VideoOutput]:
        """The videos of each micro-batch as soon as they are done. `config.seed` must be set."""
        assert config.seed is not None, "the engine draws the seed, so that all ranks have the same"
        self.check_parallel(config)
        jobs = base.make_jobs(prompts, config.seed, config.num_videos_per_prompt)
        config, batches = self.settled(config), self.own_batches(jobs, config.batch_size)
        if not batches:
            return  # there are more replicas than micro-batches
        texts = self.encode_texts([job.prompt for batch in batches for job in batch], config, quiet)
        for batch in batches:
            latents, steps = self.denoise(self.denoising(batch, texts, config), config.cache, quiet)
            yield output(self.decode(latents, config, quiet), batch, steps, config)

    def encode_texts(self, prompts: Sequence[str], config: TextToVideoConfig, quiet: bool) -> Texts:
        """The texts of all prompts and of the negative one, each encoded once."""
        from videosys.text_encoders.cleaning import clean_prompt

        def prepare(text: str) -> str:
            return clean_prompt(text, config.clean_caption, config.keeps_chinese)

        written = [config.positive(prompt) for prompt in prompts]
        negative = [config.negative] if config.is_guided else []
        padded = {
            *(negative if config.reads_padding else []),
            *(written if config.reads_prompt_padding else []),
        }
        return self.encode([*written, *negative], prepare, quiet, padded)

    def denoising(self, jobs: Sequence[base.Job], texts: Texts, config: Any) -> Denoising[M]:
        sources = base.generators(jobs)
        sampler = self.sampler(config, sources)
        size = self.latent_size(config)
        noise = base.initial_noise((self.vae_config.latent_channels, *size), sources)
        prompts = [texts[config.positive(job.prompt)] for job in jobs]
        embeds, mask = self.pair(prompts, texts[config.negative] if config.is_guided else None, config)
        cut = self.parallel.cfg_shard
        encoded = cut(embeds), None if mask is None else cut(mask)
        return Denoising(
            sampler,
            noise * sampler.init_noise_sigma,
            lambda model: self.prepare(model, encoded, size, config),
            Sampling(config.guidance_scale, sources),
        )

    def decode(self, latents: torch.Tensor, config: Any, quiet: bool) -> list[torch.Tensor]:
        """The videos as uint8 [T, H, W, 3]."""
        return [base.to_uint8(row, "down")[0] for row in self.frames(latents, config, quiet)]

    def frames(self, latents: torch.Tensor, config: Any, quiet: bool) -> Iterator[torch.Tensor]:
        count = config.output_frames
        total = len(latents) * count
        with self.vae.use() as vae, progress(None, "decode", total=total, quiet=quiet) as bar:
            for row in latents.split(1):
                yield vae.decode(self.to_vae(row), count, bar.update)


def cut_pair(prompts: Sequence[Text], negative: Text | None, cut: bool = True) -> Encoded:
    """Prompts without their padding, and as many rows of the negative prompt, padding or not.

    That is what the published pipelines do for one prompt. Prompts of several lengths get a mask that hides
    from each what a generation of its own would cut off. cut: false leaves all padding, for all to see.
    """
    embeds = torch.cat([rows for rows, _ in prompts])
    lengths = torch.cat([mask for _, mask in prompts]).sum(dim=1)
    if not cut:
        lengths = torch.full_like(lengths, embeds.shape[1])
    longest = int(lengths.max())
    seen = torch.arange(longest, device=lengths.device) < lengths[:, None]
    embeds, mask = embeds[:, :longest], None if bool(seen.all()) else seen
    if negative is None:
        return embeds, mask
    other = negative[0][:, :longest].expand_as(embeds)
    return torch.cat((embeds, other)), None if mask is None else mask.repeat(2, 1)


def masked_pair(prompts: Sequence[Text], negative: Text | None) -> Encoded:
    """Prompts and, as often, the negative prompt, with the masks of their own tokens."""
    rows = [*prompts, *([] if negative is None else [negative] * len(prompts))]
    embeds, masks = zip(*rows)
    return torch.cat(embeds), torch.cat(masks)
