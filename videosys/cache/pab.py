"""Pyramid Attention Broadcast (arXiv 2408.12588): branches of blocks use again what they gave before."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

import torch

from videosys.cache.base import Branch, Cache, Compute, GatherRows, RecordedCache, StepRecord
from videosys.cache.config import Goal
from videosys.cache.device import to_cache_device
from videosys.utils.typed import check_types

Keys = tuple[tuple[float, int, tuple[int, ...]], ...]
FIRST_TIMESTEP = 1000
ATTENTIONS = ("spatial", "temporal", "joint", "cross")
MLPS = ("mlp_spatial", "mlp_temporal", "mlp_joint")
UNITS = MappingProxyType(
    {"fraction": "shares of the steps, 0 to 1", "timestep": "timesteps, 1000 is noise and 0 the video"}
)


@dataclass(frozen=True)
class Broadcast:
    """One kind of attention: inside the window (both ends excluded) it computes at the steps that are whole
    multiples of `range`, and broadcasts what it gave to the steps between.
    """

    range: int
    window: tuple[float, float] = (0.15, 0.85)

    def __post_init__(self) -> None:
        check_types(self)
        if self.range < 1:
            raise ValueError(f"range is {self.range}; it must be 1 or more")
        if not self.window[0] < self.window[1]:
            raise ValueError(f"window is {list(self.window)}; it must be [low, high]")

    def holds(self, unit: str) -> bool:
        """Whether the window means anything: shares of the steps, or one whole timestep at least."""
        low, high = self.window
        return low >= 0 and high <= 1 if unit == "fraction" else math.floor(low) + 1 < high


@dataclass(frozen=True)
class PABConfig(Goal):
    """What is broadcast; null computes. The defaults are the paper's, for any model: the attentions of the
    middle 70 % of all steps, every second (spatial, joint), fourth (temporal) and sixth (cross) computed.

    spatial, temporal, joint: self-attention of the blocks within and over frames, or of both at once.
    cross: attention to the text, in all blocks.
    mlp_spatial, mlp_temporal, mlp_joint: a list of [place, count, blocks]: at the step nearest to the place
        these blocks compute their MLP, and use it again in the `count` steps that follow. A place within
        the steps of an earlier one is passed over, so that a list means something for few steps too.
    unit: of windows and places: `timestep` (1000 is noise, 0 the video), or `fraction` of the steps (0 is the
        first, 1 the last). Where a config changes that of a preset, the preset's ranges stay and its windows
        and places do not, see `adapted`.
    """

    spatial: Broadcast | None = Broadcast(2)
    temporal: Broadcast | None = Broadcast(4)
    joint: Broadcast | None = Broadcast(2)
    cross: Broadcast | None = Broadcast(6)
    mlp_spatial: Keys = ()
    mlp_temporal: Keys = ()
    mlp_joint: Keys = ()
    unit: Literal["timestep", "fraction"] = "fraction"

    def __post_init__(self) -> None:
        check_types(self)
        self.check_goal(replaces_fields=True)  # a model's own settings are those of its preset
        for name in MLPS:
            for place, count, blocks in getattr(self, name):
                if count < 1 or not blocks or min(blocks) < 0:
                    raise ValueError(
                        f"cache.{name} holds [{place:g}, {count}, {list(blocks)}]; it must be [place, count "
                        "of 1 or more, block numbers of 0 or more]"
                    )
        self._check_unit()

    def _check_unit(self) -> None:
        """ValueError for what lies nowhere in the unit, and so would do nothing."""
        rules = [(f"{name}.window", getattr(self, name)) for name in ATTENTIONS]
        wrong = {name: list(rule.window) for name, rule in rules if rule and not rule.holds(self.unit)}
        if self.unit == "fraction":
            keys = [(name, place) for name in MLPS for place, *_ in getattr(self, name)]
            wrong |= {name: place for name, place in keys if not 0 <= place <= 1}
        for name, value in wrong.items():
            raise ValueError(
                f"cache.{name} has {value}, and cache.unit is {self.unit} ({UNITS[self.unit]}): it would "
                "never be reached"
            )

    def adapted(self, given: Mapping[str, Any]) -> PABConfig:
        """These settings as the base of a config that gives others. Where it gives another unit, windows and
        places of this one mean nothing: ranges stay, with the window of the defaults, and no MLP does.
        """
        unit = given.get("unit", self.unit)
        if unit == self.unit or unit not in (*UNITS,):
            return self
        own = replace(self, mlp_spatial=(), mlp_temporal=(), mlp_joint=())
        if unit == "timestep":  # no window is every model's: the config gives them, or is refused
            return own
        rules = ((name, getattr(self, name)) for name in ATTENTIONS)
        fresh: dict[str, Any] = {name: rule and Broadcast(rule.range) for name, rule in rules}
        return replace(own, unit=unit, **fresh)

    def start(self, times: Sequence[float], gather_rows: GatherRows, request_id: int = 0) -> Cache:
        return PAB(self, times)

    @classmethod
    def pyramid(cls, ranges: tuple[int, int, int], window: tuple[float, float], mlp: Keys = ()) -> PABConfig:
        """The settings that have one window of timesteps for all attentions; ranges: spatial and joint,
        temporal, cross.
        """
        spatial, temporal, cross = (Broadcast(each, window) for each in ranges)
        return cls(spatial, temporal, spatial, cross, mlp_spatial=mlp, mlp_temporal=mlp, unit="timestep")

    def attention(self, stack: str, kind: str) -> Broadcast | None:
        """The rule of an attention branch: its own for cross-attention, else that of its stack."""
        return getattr(self, "cross" if kind == "cross" else stack, None)

    def mlp(self, stack: str) -> Keys:
        return getattr(self, f"mlp_{stack}", ())


class PAB(RecordedCache):
    """Runs all blocks in every step, and in them only the branches that are due.

    Which ones depends on the step and on nothing measured, so all ranks do alike. A branch's result is kept
    only as long as a step is ahead that uses it. The first and the last step compute all.
    """

    def __init__(self, config: PABConfig, times: Sequence[float]):
        super().__init__()
        self.config, self.places = config, places(times, config.unit)
        self.kept: dict[tuple[str, int, str], torch.Tensor] = {}
        self.home: torch.device | None = None  # the model's
        self.reused: Counter[int] = Counter()
        self._reuse: dict[tuple[str, int, str], frozenset[int]] = {}

    @property
    def steps(self) -> list[StepRecord]:
        return [replace(record, reused=self.reused[record.step]) for record in super().steps]

    def held(self) -> Iterable[torch.Tensor]:
        return self.kept.values()

    def layer(self, stack: str, index: int) -> Branch:
        def branch(kind: str, compute: Compute) -> torch.Tensor:
            return self._branch((stack, index, kind), compute)

        return branch

    def _branch(self, key: tuple[str, int, str], compute: Compute) -> torch.Tensor:
        if key not in self._reuse:
            self._reuse[key] = reuse_steps(self.config, self.places, *key)
        reuse = self._reuse[key]
        if self.step in reuse:
            self.reused[self.step] += 1
            kept = self.kept.pop(key)
            result = kept.to(self.home)
        else:
            result = compute()
            self.home, kept = result.device, result
        if self.step + 1 in reuse:
            self.kept[key] = to_cache_device(kept, self.config.device)
        return result


def places(times: Sequence[float], unit: str) -> list[float]:
    """Where each step lies: its timestep, whether the sampler's time runs from 1 or from 1000; or its share
    of the way.
    """
    last = max(len(times) - 1, 1)
    if unit == "fraction":
        return [step / last for step in range(len(times))]
    scale = FIRST_TIMESTEP if max(times) <= 1 else 1
    return [round(time * scale, 3) for time in times]  # float32 times may lie a little beside a whole number


def reuse_steps(
    config: PABConfig, places: Sequence[float], stack: str, block: int, kind: str
) -> frozenset[int]:
    """The steps in which a branch takes what it gave before."""
    if kind == "mlp":
        steps = mlp_steps(config.mlp(stack), places, block)
    else:
        rule = config.attention(stack, kind)
        steps = set() if rule is None else attention_steps(rule, places, config.unit)
    return frozenset(steps & {*range(1, len(places) - 1)})


def attention_steps(rule: Broadcast, places: Sequence[float], unit: str) -> set[int]:
    """The published rule: by the number of the step, and by its timestep rounded down."""
    low, high = rule.window
    rounded = [float(int(place)) if unit == "timestep" else place for place in places]
    return {step for step, place in enumerate(rounded) if step % rule.range and low < place < high}


def mlp_steps(keys: Keys, places: Sequence[float], block: int) -> set[int]:
    """The steps after each key of this block, as far as no key before has them already."""
    starts = sorted((nearest(place, places), count) for place, count, blocks in keys if block in blocks)
    steps: set[int] = set()
    for start, count in starts:
        if start not in steps:
            steps.update(range(start + 1, start + 1 + count))
    return steps


def nearest(place: float, places: Sequence[float]) -> int:
    """The number of the step nearest to a place, the earlier of two."""
    return min(range(len(places)), key=lambda step: (abs(places[step] - place), step))
