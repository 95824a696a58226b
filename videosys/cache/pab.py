"""Pyramid Attention Broadcast (PAB, arXiv 2408.12588): branches of blocks are reused in later steps."""

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
from videosys.cache.ranges import check_least
from videosys.utils.typed import check_types

MLPRules = tuple[tuple[float, int, tuple[int, ...]], ...]
FIRST_TIMESTEP = 1000
ATTENTIONS = ("spatial", "temporal", "joint", "cross")
MLPS = ("mlp_spatial", "mlp_temporal", "mlp_joint")
UNITS = MappingProxyType(
    {"fraction": "shares of the steps, 0 to 1", "timestep": "timesteps, 1000 is noise and 0 the video"}
)


@dataclass(frozen=True)
class Broadcast:
    """The rule of one kind of attention: in the window, computed in every `range`-th step, else reused.

    range: steps whose index is a multiple of it compute. window: [low, high] in the unit of the config, both
    ends excluded. Steps outside the window compute.
    """

    range: int
    window: tuple[float, float] = (0.15, 0.85)

    def __post_init__(self) -> None:
        check_types(self)
        if self.range < 1:
            raise ValueError(f"range is {self.range}; it must be 1 or more")
        if not self.window[0] < self.window[1]:
            raise ValueError(f"window is {list(self.window)}; it must be [low, high]")

    def is_reachable(self, unit: str) -> bool:
        """Whether a step can lie in the window: it is in fractions, or contains a whole timestep."""
        low, high = self.window
        return low >= 0 and high <= 1 if unit == "fraction" else math.floor(low) + 1 < high


@dataclass(frozen=True)
class PABConfig(Goal):
    """Settings of PAB. The defaults are the paper's for any model: in the middle 70 % of the steps, spatial
    and joint attention is computed in every second step, temporal in every fourth and cross-attention in
    every sixth.

    spatial, temporal, joint: self-attention within frames, over frames, or over both. cross: cross-attention
        to the text, in all blocks. null: compute in every step.
    mlp_spatial, mlp_temporal, mlp_joint: lists of [position, count, blocks]. At the step nearest to the
        position, these blocks compute their MLP and reuse it in the next `count` steps. A position within the
        reuse steps of an earlier one is ignored, so that a list also works with few steps.
    unit: of windows and positions: `timestep` (1000 is noise, 0 the video), or `fraction` of the steps (0 is
        the first, 1 the last). For a config that overrides the unit of a preset see `adapted`.
    """

    spatial: Broadcast | None = Broadcast(2)
    temporal: Broadcast | None = Broadcast(4)
    joint: Broadcast | None = Broadcast(2)
    cross: Broadcast | None = Broadcast(6)
    mlp_spatial: MLPRules = ()
    mlp_temporal: MLPRules = ()
    mlp_joint: MLPRules = ()
    unit: Literal["timestep", "fraction"] = "fraction"

    def __post_init__(self) -> None:
        check_types(self)
        check_least(self, "cache")
        self.check_goal(replaces_fields=True)  # a preset sets the model's own fields
        for name in MLPS:
            for position, count, blocks in getattr(self, name):
                if count < 1 or not blocks or min(blocks) < 0:
                    raise ValueError(
                        f"cache.{name} holds [{position:g}, {count}, {list(blocks)}]; it must be [position, "
                        "count of 1 or more, block numbers of 0 or more]"
                    )
        self._check_unit()

    def _check_unit(self) -> None:
        """ValueError for a window or position that no step can reach in the unit."""
        rules = [(f"{name}.window", getattr(self, name)) for name in ATTENTIONS]
        wrong = {name: list(rule.window) for name, rule in rules if rule and not rule.is_reachable(self.unit)}
        if self.unit == "fraction":
            starts = [(name, position) for name in MLPS for position, *_ in getattr(self, name)]
            wrong |= {name: position for name, position in starts if not 0 <= position <= 1}
        for name, value in wrong.items():
            raise ValueError(
                f"cache.{name} has {value}, and cache.unit is {self.unit} ({UNITS[self.unit]}): no "
                "step reaches it"
            )

    def adapted(self, changes: Mapping[str, Any]) -> PABConfig:
        """These settings as the base of a config with overrides. If the unit changes, ranges stay, windows
        are reset to the defaults, and MLPs always compute: windows and positions depend on the unit.
        """
        unit = changes.get("unit", self.unit)
        if unit == self.unit or unit not in (*UNITS,):
            return self
        own = replace(self, mlp_spatial=(), mlp_temporal=(), mlp_joint=())
        if unit == "timestep":  # windows depend on the model: the config must set them
            return own
        rules = ((name, getattr(self, name)) for name in ATTENTIONS)
        fresh: dict[str, Any] = {name: rule and Broadcast(rule.range) for name, rule in rules}
        return replace(own, unit=unit, **fresh)

    def start(self, times: Sequence[float], gather_rows: GatherRows, request_id: int = 0) -> Cache:
        return PAB(self, times)

    @classmethod
    def pyramid(
        cls, ranges: tuple[int, int, int], window: tuple[float, float], mlp: MLPRules = ()
    ) -> PABConfig:
        """Settings with one window of timesteps for all attentions.

        ranges: of (spatial and joint, temporal, cross). mlp: of spatial and temporal blocks.
        """
        spatial, temporal, cross = (Broadcast(each, window) for each in ranges)
        return cls(spatial, temporal, spatial, cross, mlp_spatial=mlp, mlp_temporal=mlp, unit="timestep")


class PAB(RecordedCache):
    """Runs all blocks in every step, but computes only the branches selected by the rules.

    The rules depend only on the step, so ranks do not communicate. A branch's result is kept until its last
    reuse. The first and the last step compute all branches.

    times: the sampler's time at each model evaluation.
    """

    def __init__(self, config: PABConfig, times: Sequence[float]):
        super().__init__()
        self.config, self.positions = config, step_positions(times, config.unit)
        self.results: dict[tuple[str, int, str], torch.Tensor] = {}
        self.model_device: torch.device | None = None
        self.reused: Counter[int] = Counter()
        self._reuse: dict[tuple[str, int, str], frozenset[int]] = {}

    @property
    def steps(self) -> list[StepRecord]:
        return [replace(record, reused=self.reused[record.step]) for record in super().steps]

    def held(self) -> Iterable[torch.Tensor]:
        return self.results.values()

    def layer(self, stack: str, index: int) -> Branch:
        return lambda kind, compute: self._branch((stack, index, kind), compute)

    def _branch(self, key: tuple[str, int, str], compute: Compute) -> torch.Tensor:
        if key not in self._reuse:
            self._reuse[key] = reuse_steps(self.config, self.positions, *key)
        reuse = self._reuse[key]
        if self.step in reuse:
            self.reused[self.step] += 1
            stored = self.results.pop(key)
            result = stored.to(self.model_device)
        else:
            result = compute()
            self.model_device, stored = result.device, result
        if self.step + 1 in reuse:
            self.results[key] = to_cache_device(stored, self.config.device)
        return result


def step_positions(times: Sequence[float], unit: str) -> list[float]:
    """The position of each step: its timestep in 0 to 1000, or its index as a fraction of the last one.

    times: from 1 or from 1000 down to 0.
    """
    last = max(len(times) - 1, 1)
    if unit == "fraction":
        return [step / last for step in range(len(times))]
    scale = FIRST_TIMESTEP if max(times) <= 1 else 1
    return [round(time * scale, 3) for time in times]  # float32 times may be slightly off whole numbers


def reuse_steps(
    config: PABConfig, positions: Sequence[float], stack: str, block: int, kind: str
) -> frozenset[int]:
    """The steps in which a branch is reused; never the first or the last."""
    if kind == "mlp":
        steps = mlp_steps(getattr(config, f"mlp_{stack}", ()), positions, block)
    else:
        rule: Broadcast | None = getattr(config, "cross" if kind == "cross" else stack, None)
        steps = set() if rule is None else attention_steps(rule, positions, config.unit)
    return frozenset(steps & {*range(1, len(positions) - 1)})


def attention_steps(rule: Broadcast, positions: Sequence[float], unit: str) -> set[int]:
    """The steps in which an attention is reused. Timesteps are rounded down, as published."""
    low, high = rule.window
    rounded = [float(int(position)) if unit == "timestep" else position for position in positions]
    return {step for step, position in enumerate(rounded) if step % rule.range and low < position < high}


def mlp_steps(rules: MLPRules, positions: Sequence[float], block: int) -> set[int]:
    """The steps in which the MLP of a block is reused: `count` steps after each position."""
    own = [(position, count) for position, count, blocks in rules if block in blocks]
    starts = sorted((nearest_step(position, positions), count) for position, count in own)
    steps: set[int] = set()
    for start, count in starts:
        if start not in steps:
            steps.update(range(start + 1, min(start + 1 + count, len(positions))))
    return steps


def nearest_step(position: float, positions: Sequence[float]) -> int:
    """The index of the step nearest to a position; of two, the earlier one."""
    return min(range(len(positions)), key=lambda step: (abs(positions[step] - position), step))
