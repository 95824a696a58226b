"""The processes of torchrun. By default each process makes its share of the videos on its own device."""

from __future__ import annotations

import os
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

# With these variables, an engine would use all processes as one group for the same video.
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK", "MASTER_ADDR")


@dataclass(frozen=True)
class Ranks:
    """This process's rank. together: all processes work on the same videos, according to `parallel`."""

    rank: int = 0
    count: int = 1
    local: int = 0
    together: bool = False

    @property
    def shares(self) -> int:
        return 1 if self.together else self.count

    @property
    def share(self) -> int:
        return 0 if self.together else self.rank

    def own(self, items: Sequence[T]) -> list[T]:
        """This process's share of a list: every n-th item."""
        return list(items[self.share :: self.shares])

    @property
    def is_first(self) -> bool:
        return self.rank == 0


def current(together: bool, environment: MutableMapping[str, str] = os.environ) -> Ranks:
    """The rank from torchrun's environment variables, which are removed unless `together`."""
    try:
        rank, local = (int(environment.get(name, 0)) for name in ("RANK", "LOCAL_RANK"))
        count = int(environment.get("WORLD_SIZE", 1))
    except ValueError as error:
        raise ValueError(f"RANK, LOCAL_RANK and WORLD_SIZE must be numbers: {error}") from None
    if not 0 <= rank < count:
        raise ValueError(f"RANK is {rank}; it must be less than WORLD_SIZE, {count}")
    for name in () if together else VARIABLES:
        environment.pop(name, None)
    return Ranks(rank, count, local, together)
