"""What settings were found on. A schedule for 30 steps of one model says nothing about another."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass

from videosys.utils.typed import check_types

_LOG = logging.getLogger("videosys.cache")
# With another one of these, settings are still meaningful, though not as good as promised.
MAY_DIFFER = ("size", "guidance_scale")


@dataclass(frozen=True)
class Scope:
    """A model with its sampler; what is None is not known, and not compared.

    model: its name, such as opensora or latte (see `Pipeline.scope`). scheduler: rflow, ddim, pndm or
    euler_ancestral, with its settings that are not the published ones. num_inference_steps: as the user says
    it; evaluations: of the model, which PNDM has more of. size: of the latents (frames, rows, columns).
    weights_hash: of the transformer's files, see `videosys.utils.weights_hash`.
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

    def differences(self, other: Scope) -> dict[str, tuple[object, object]]:
        """The fields that both know and that differ: name -> (own value, the other's)."""
        pairs = {f.name: (getattr(self, f.name), getattr(other, f.name)) for f in dataclasses.fields(Scope)}
        return {name: pair for name, pair in pairs.items() if None not in pair and pair[0] != pair[1]}

    def distance(self, run: Scope) -> tuple[int, int]:
        """How far this is from a run: the differences that forbid its settings, then those that do not."""
        names = self.differences(run).keys()
        return len(names - {*MAY_DIFFER}), len(names & {*MAY_DIFFER})

    def check(self, run: Scope, where: object) -> None:
        """ValueError where settings with this scope, read from `where`, do not hold for a run."""
        for name, (own, other) in self.differences(run).items():
            if name in MAY_DIFFER:
                _LOG.warning("%s was made with %s %s, this run has %s", where, name, own, other)
                continue
            raise ValueError(f"{where}: was made with {name} {own}, this run has {other}")
