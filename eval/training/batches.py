"""Training batches of latents and captions of equal length, from shards that may still be written."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from eval.training.captions import TEMPLATES, caption_of
from eval.training.clips import ClipSpec
from eval.training.factors import odds_of
from eval.training.latents import HELD_OUT_SHARD, read_shard
from eval.training.trainer import Timer

Tokens = Callable[[Sequence[str]], Mapping[str, Tensor]]  # captions -> [L] ids or [L, D] embeddings


class CaptionedLatents:
    """The shards of a folder with these `numbers`, or all except the held-out one.

    All captions of a batch have the same length, so no padding is needed. factors: how many times more often
    clips with a motion or shape are drawn.
    """

    def __init__(
        self,
        folder: Path,
        tokens: Tokens,
        numbers: Sequence[int] | None = None,
        factors: Mapping[str, float] | None = None,
    ):
        self.folder, self.tokens, self.numbers = folder, tokens, numbers
        self.factors = dict(factors or {})
        self.read: set[Path] = set()
        self.latents = torch.empty(0)
        self.rows: dict[str, Tensor] = {}
        self.by_length: dict[int, list[tuple[int, str]]] = defaultdict(list)
        self.odds: list[float] = []  # of each clip
        self.odds_by_length: dict[int, np.ndarray] = {}  # of each pair in by_length
        self.timer = Timer(120.0)
        self.refresh()

    def refresh(self) -> None:
        """Read new shards."""
        for path in sorted(set(self.folder.glob("shard_*.safetensors")) - self.read):
            number = int(path.stem.split("_")[1])
            if number in self.numbers if self.numbers is not None else number != HELD_OUT_SHARD:
                self._add(*read_shard(path))
            self.read.add(path)

    def _add(self, latents: Tensor, specs: Sequence[ClipSpec]) -> None:
        first = len(self.latents)
        self.latents = torch.cat((self.latents, latents)) if first else latents
        pairs = [
            (clip, caption_of(spec, template))
            for clip, spec in enumerate(specs, start=first)
            for template in range(len(TEMPLATES))
        ]
        self.rows.update(self.tokens([caption for _, caption in pairs if caption not in self.rows]))
        for clip, caption in pairs:
            self.by_length[len(self.rows[caption])].append((clip, caption))
        self.odds += [odds_of(spec, self.factors) for spec in specs]
        odds = np.array(self.odds)
        self.odds_by_length = {
            length: odds[[clip for clip, _ in pairs]] for length, pairs in self.by_length.items()
        }

    def batch(self, rng: np.random.Generator, size: int) -> tuple[Tensor, Tensor]:
        """Latents [B, 4, t, 8, 8] and the tokens [B, L, ...] of their captions."""
        if self.timer.due():
            self.refresh()
        lengths = sorted(self.by_length)
        sums = np.array([self.odds_by_length[length].sum() for length in lengths])
        length = lengths[rng.choice(len(lengths), p=sums / sums.sum())]
        pairs, odds = self.by_length[length], self.odds_by_length[length]
        samples = [pairs[i] for i in rng.choice(len(pairs), size=size, p=odds / odds.sum())]
        clips = torch.tensor([clip for clip, _ in samples])
        return self.latents[clips], torch.stack([self.rows[caption] for _, caption in samples])
