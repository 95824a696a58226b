"""Describes the run that cache settings are valid for, such as 30 steps of one model."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sized
from dataclasses import dataclass

from videosys.utils.typed import check_types

_LOG = logging.getLogger("videosys.cache")
# If one of these differs, settings are valid, but the quality may differ from the measured one.
MAY_DIFFER = ("size", "guidance_scale")
WITH = "+"  # in a hash of weights, precedes the hash of added weights such as a LoRA


@dataclass(frozen=True)
class RunSpec:
    """A model, its sampler and the size of its latents. None means unknown and is not compared.

    model: name, such as opensora or latte (see `Pipeline.scope`). scheduler: rflow, ddim, pndm or
    euler_ancestral, with settings that differ from the published ones. num_inference_steps: steps of the
    sampler. evaluations: of the model (more than the steps for PNDM). size: (frames, rows, columns) of the
    latents. weights_hash: of the transformer's files, see `videosys.utils.weights_hash`, followed by `WITH`
    and the hash of a LoRA if any.
    """

    model: str | None = None
    scheduler: str | None = None
    num_inference_steps: int | None = None
    evaluations: int | None = None
    size: tuple[int, int, int] | None = None
    guidance_scale: float | None = None
    weights_hash: str | None = None

    def __post_init__(self) -> None:
        check_types(self)

    def differences(self, other: RunSpec) -> dict[str, tuple[object, object]]:
        """The fields that are known in both and differ: name -> (value here, value in `other`)."""
        pairs = {f.name: (getattr(self, f.name), getattr(other, f.name)) for f in dataclasses.fields(RunSpec)}
        return {name: pair for name, pair in pairs.items() if None not in pair and pair[0] != pair[1]}

    def distance(self, run: RunSpec) -> tuple[int, int]:
        """(number of differences that are errors, number of differences that are warnings)."""
        differences = self.differences(run)
        warned = sum(may_differ(name, *pair) for name, pair in differences.items())
        return len(differences) - warned, warned

    def check(self, run: RunSpec, where: object) -> None:
        """Compare settings for this run, from file `where`, with `run`: ValueError or a warning for
        differences.
        """
        for name, (own, other) in self.differences(run).items():
            if may_differ(name, own, other):
                note = ": it is for another model" if name == "weights_hash" else ""
                _LOG.warning("%s was made with %s %s, this run has %s%s", where, name, own, other, note)
                continue
            raise ValueError(f"{where}: was made with {name} {own}, this run has {other}")


def check_entries(name: str, values: Sized, run: RunSpec) -> None:
    """ValueError unless there is one value for each model evaluation, if their number is known."""
    if run.evaluations is not None and len(values) != run.evaluations:
        raise ValueError(f"{name} has {len(values)} entries; there are {run.evaluations} steps")


def may_differ(name: str, own: object, other: object) -> bool:
    """Whether settings stay valid if this field differs, as for weights with another LoRA."""
    is_same = name == "weights_hash" and str(own).split(WITH)[0] == str(other).split(WITH)[0]
    return is_same or name in MAY_DIFFER
