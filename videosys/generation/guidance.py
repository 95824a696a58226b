"""Text inputs of a transformer under classifier-free guidance: prompts and the repeated negative prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch


class PromptEmbeds(NamedTuple):
    """One encoded text."""

    embeds: torch.Tensor  # [1, L, D]
    mask: torch.Tensor  # [1, L], 1 = a token


Texts = Mapping[str, PromptEmbeds]  # text -> its embeddings
NEGATIVE = "\0negative of "  # prefix of a prompt's key: key of the embeddings given as its negative prompt
Pair = tuple[
    torch.Tensor, torch.Tensor | None
]  # [B or 2B, L, D] as [cond, uncond], and the mask of its tokens


def masked_pair(prompts: Sequence[PromptEmbeds], negative: PromptEmbeds | None) -> Pair:
    """Prompts and the repeated negative prompt (or one per prompt), each with the mask of its tokens."""
    embeds, masks = (list(parts) for parts in zip(*prompts))
    if negative is not None:
        embeds.append(negative[0].expand(len(prompts), -1, -1))
        masks.append(negative[1].expand(len(prompts), -1))
    return torch.cat(embeds), torch.cat(masks)


def negative_of(prompts: Sequence[str], texts: Texts, common: str | None) -> PromptEmbeds | None:
    """The negative prompt [1 or B, L, D] of these prompts: the one given for each, or else the `common` one;
    None if there is none.
    """
    own = [texts[NEGATIVE + key] for key in prompts if NEGATIVE + key in texts]
    if not own:
        return None if common is None else texts[common]
    return PromptEmbeds(*(torch.cat(parts) for parts in zip(*own)))


def cut_pair(prompts: Sequence[PromptEmbeds], negative: PromptEmbeds | None, cut: bool = True) -> Pair:
    """Prompts without padding, and the same number of rows of the negative prompt, including its padding.

    The published pipelines do this for one prompt. Prompts of different lengths get a mask that hides the
    tokens that a separate generation would cut off. cut: false attends to all padding.
    """
    embeds, masks = (torch.cat(parts) for parts in zip(*prompts))
    lengths = masks.sum(dim=1)
    if not cut:
        lengths = torch.full_like(lengths, embeds.shape[1])
    longest = int(lengths.max())
    seen = torch.arange(longest, device=lengths.device) < lengths[:, None]
    embeds, mask = embeds[:, :longest], None if bool(seen.all()) else seen
    if negative is None:
        return embeds, mask
    other = negative[0][:, :longest].expand_as(embeds)
    return torch.cat((embeds, other)), None if mask is None else mask.repeat(2, 1)
