"""Inputs of a request that replace texts and noise, and the type of its output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from videosys.generation.guidance import NEGATIVE, PromptEmbeds
from videosys.utils.typed import listing, shown

OUTPUT_TYPES = ("pt", "np", "pil", "latent")
LABEL = "prompt_embeds"  # with a number appended, the name in outputs of a prompt given as embeddings


@dataclass(frozen=True)
class Sizes:
    """The sizes that given tensors must have. latents: (C, T, H, W) of one video. text: (maximum tokens,
    channels).

    clips: number of clips of one video. has_negative: whether the request uses guidance.
    """

    latents: tuple[int, int, int, int]
    text: tuple[int, int]
    clips: int = 1
    has_negative: bool = True


@dataclass(frozen=True, eq=False)
class Given:
    """Tensors that replace the text encoder's output and the noise, for P prompts and N videos.

    latents: [N, C, T, H, W], noise with a standard deviation of 1; video j of prompt i is row
        i * num_videos_per_prompt + j. prompt_embeds: [P, L, D]. prompt_mask: [P, L], 1 = a token; default:
        all rows are tokens. negative_prompt_embeds: [1, L, D], or [P, L, D] with prompt_embeds.
    output_type: pt, np, pil or latent; None for uint8 tensors [T, H, W, 3].
    """

    latents: Tensor | None = None
    prompt_embeds: Tensor | None = None
    prompt_mask: Tensor | None = None
    negative_prompt_embeds: Tensor | None = None
    negative_prompt_mask: Tensor | None = None
    output_type: str | None = None

    def inputs(self) -> dict[str, Any]:
        """The fields that are set, as keyword arguments of a pipeline's `generate`."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def labels(self) -> list[str]:
        """The names in outputs of prompts given as embeddings; empty without prompt_embeds."""
        embeds = self.prompt_embeds
        count = len(embeds) if isinstance(embeds, Tensor) and embeds.ndim else int(embeds is not None)
        return [f"{LABEL} {index}" for index in range(count)]

    def check_prompt(self, prompt: object) -> None:
        """ValueError unless the request has a prompt or its embeddings."""
        if prompt is None and self.prompt_embeds is None:
            raise ValueError("prompt is None; it must be text, a list of texts, or given by prompt_embeds")
        if prompt is not None and self.prompt_embeds is not None:
            raise ValueError("prompt and prompt_embeds are both given; give one of them")
        if self.prompt_embeds is not None and not self.labels():
            shape = list(self.prompt_embeds.shape)
            raise ValueError(f"prompt_embeds has the shape {shape}; it must be [P, L, D] with P of 1 or more")

    def check(self, prompts: Sequence[str], num_videos: int, sizes: Sizes) -> None:
        """ValueError unless the tensors fit the model and a request of this many videos."""
        if self.output_type is not None and self.output_type not in OUTPUT_TYPES:
            allowed = f"{listing(OUTPUT_TYPES)}, or None for uint8 tensors [T, H, W, 3]"
            raise ValueError(f"output_type is {shown(self.output_type)}; allowed: {allowed}")
        if sizes.clips > 1 and (self.latents is not None or self.output_type == "latent"):
            name = "latents" if self.latents is not None else "output_type 'latent'"
            raise ValueError(f"{name}: latents are those of one clip, and the video has {sizes.clips} clips")
        if self.latents is not None:
            check_tensor("latents", self.latents, [(num_videos, *sizes.latents)])
        self._check_texts(len(prompts), sizes)

    def _check_texts(self, count: int, sizes: Sizes) -> None:
        rows = [1, count] if self.prompt_embeds is not None else [1]
        for name, allowed in (("prompt", [count]), ("negative_prompt", rows)):
            embeds, mask = getattr(self, f"{name}_embeds"), getattr(self, f"{name}_mask")
            if embeds is None and mask is not None:
                raise ValueError(f"{name}_mask is given, and {name}_embeds is not")
            if embeds is None:
                continue
            if name == "negative_prompt" and not sizes.has_negative:
                raise ValueError("negative_prompt_embeds: this request has no guidance (guidance_scale is 1)")
            check_embeds(f"{name}_embeds", embeds, sorted({*allowed}), sizes.text)
            if mask is not None:
                check_mask(f"{name}_mask", mask, embeds)

    def texts(
        self, keys: Sequence[Sequence[str]], dtype: torch.dtype, length: int
    ) -> dict[str, PromptEmbeds]:
        """The embeddings as `guidance.Texts`, padded to `length` tokens.

        keys: of the texts of each prompt. A negative text has the key `NEGATIVE` + that of its prompt.
        """
        texts: dict[str, PromptEmbeds] = {}
        for prefix, embeds, mask in (
            ("", self.prompt_embeds, self.prompt_mask),
            (NEGATIVE, self.negative_prompt_embeds, self.negative_prompt_mask),
        ):
            if embeds is not None:
                rows = padded_rows(embeds, mask, dtype, length)
                rows = rows * len(keys) if len(rows) == 1 else rows
                texts |= {prefix + key: row for own, row in zip(keys, rows) for key in own}
        return texts


NAMES = tuple(item.name for item in fields(Given))


def take_given(inputs: dict[str, Any]) -> Given:
    """Remove the fields of `Given` from a request's inputs and return them."""
    return Given(**{name: inputs.pop(name) for name in NAMES if name in inputs})


def check_tensor(name: str, value: Any, shapes: Sequence[tuple[int | str, ...]]) -> None:
    """ValueError unless the value is a floating-point tensor of finite values with one of the shapes. A
    string in a shape matches any size of 1 or more.
    """
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} must be a torch.Tensor, got {shown(value)}")
    if not any(fits(value.shape, shape) for shape in shapes):
        allowed = " or ".join("[" + ", ".join(map(str, shape)) + "]" for shape in shapes)
        raise ValueError(f"{name} has the shape {list(value.shape)}; it must be {allowed}")
    if not value.is_floating_point() or value.is_meta or value.layout != torch.strided:
        raise ValueError(f"{name} is a tensor of {value.dtype} on {value.device}; it must be floating-point")
    if not bool(torch.isfinite(value).all()):
        raise ValueError(f"{name} holds values that are not finite (NaN or infinity)")


def fits(shape: Sequence[int], wanted: Sequence[int | str]) -> bool:
    """Whether a shape matches; a string matches any size of 1 or more."""
    pairs = zip(shape, wanted)
    return len(shape) == len(wanted) and all(
        size >= 1 if isinstance(other, str) else size == other for size, other in pairs
    )


def check_embeds(name: str, embeds: Any, counts: Sequence[int], text: tuple[int, int]) -> None:
    """ValueError unless these are embeddings of an allowed number of texts with at most text[0] tokens."""
    longest, width = text
    check_tensor(name, embeds, [(count, "L", width) for count in counts])
    if embeds.shape[1] > longest:
        raise ValueError(f"{name} has {embeds.shape[1]} tokens per text; the model reads at most {longest}")


def check_mask(name: str, mask: Any, embeds: Tensor) -> None:
    """ValueError unless this is a mask of the embeddings that keeps at least one token of each text."""
    if not isinstance(mask, Tensor) or mask.shape != embeds.shape[:2]:
        got = list(mask.shape) if isinstance(mask, Tensor) else shown(mask)
        raise ValueError(f"{name} is {got}; it must be a tensor of shape {list(embeds.shape[:2])}")
    if not bool(((mask == 0) | (mask == 1)).all()) or not bool((mask != 0).any(dim=1).all()):
        raise ValueError(f"{name} must contain only 0 and 1, with at least one 1 per text")


def padded_rows(embeds: Tensor, mask: Tensor | None, dtype: torch.dtype, length: int) -> list[PromptEmbeds]:
    """Each text of [P, L, D] with its mask [P, L], padded with zeros to `length` tokens as by the text
    encoder.
    """
    mask = torch.ones(embeds.shape[:2], device=embeds.device) if mask is None else mask
    missing = length - embeds.shape[1]
    embeds = torch.nn.functional.pad(embeds.detach().to(dtype), (0, 0, 0, missing))
    mask = torch.nn.functional.pad(mask.detach().to(embeds.device, torch.int64), (0, missing))
    return [PromptEmbeds(*row) for row in zip(embeds.split(1), mask.split(1))]


def converted(video: Tensor, output_type: str | None) -> Any:
    """A video, uint8 [T, H, W, 3], converted to an output type.

    pt: float32 [T, 3, H, W] in 0..1; np: a NumPy array, float32 [T, H, W, 3] in 0..1; pil: a list of images.
    Latents and uint8 are unchanged.
    """
    if output_type == "pt":
        return (video.permute(0, 3, 1, 2).float() / 255).contiguous()
    if output_type == "np":
        return (video.float() / 255).numpy()
    if output_type == "pil":
        from PIL import Image

        return [Image.fromarray(frame) for frame in video.numpy()]
    return video
