"""The number of devices per axis: videos (dp), the guidance pair (cfg), tokens (sp)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from videosys.utils.logging import get_logger, log
from videosys.utils.typed import check_types, limited

MOST_DEVICES = 4096

_LOG = get_logger("parallel")


@dataclass(frozen=True)
class ParallelConfig:
    """How dp * cfg * sp devices share the work. Invalid values are a ValueError.

    num_gpus: devices, or processes on a CPU. dp: replicas that generate different videos.
    cfg: 2 splits the guidance pair over two devices, 1 does not. sp: devices that share the tokens
        of one video. For an axis that is None: cfg is 2 with guidance and an even number of remaining
        devices. The rest goes to sp, or to dp if sp is set and dp is not.
    mesh_backend: the builder of the process groups: torch, or colossalai if installed.
    timeout: seconds after which a device stops waiting for the others.
    """

    num_gpus: int = limited(1, most=MOST_DEVICES)
    dp: int | None = limited(None, most=MOST_DEVICES)
    cfg: int | None = None
    sp: int | None = limited(None, most=MOST_DEVICES)
    mesh_backend: Literal["torch", "colossalai"] = "torch"
    timeout: float = limited(1800.0, most=10_000_000)

    def __post_init__(self) -> None:
        try:
            check_types(self)
        except ValueError as error:
            raise ValueError(f"parallel.{error}") from error
        for name in ("num_gpus", "dp", "cfg", "sp"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"parallel.{name} is {value}; it must be 1 or more")
        if self.cfg not in (None, 1, 2):
            raise ValueError(f"parallel.cfg is {self.cfg}; it must be 1 or 2: guidance is a pair")
        if not 0 < self.timeout < math.inf:
            raise ValueError(f"parallel.timeout is {self.timeout}; it must be a number of seconds above 0")
        if self.num_gpus > 1:  # 1 may be replaced later by `num_gpus` of a config or by torchrun
            self._check_product()

    def _check_product(self) -> None:
        product = math.prod(axis or 1 for axis in (self.dp, self.cfg, self.sp))
        if self.num_gpus % product or (self.is_resolved and product != self.num_gpus):
            raise ValueError(
                f"parallel: dp {self.dp}, cfg {self.cfg} and sp {self.sp} do not multiply to num_gpus "
                f"{self.num_gpus}"
            )

    @property
    def is_resolved(self) -> bool:
        """Whether all three axes have a size."""
        return None not in (self.dp, self.cfg, self.sp)

    @property
    def replica_size(self) -> int:
        """Devices that share one video."""
        return self.num_gpus // (self.dp or 1)

    def resolved(self, is_guided: bool) -> ParallelConfig:
        """The config with all axes set. ValueError if their product is not num_gpus, or if cfg is 2
        without guidance.
        """
        self._check_product()
        if self.cfg == 2 and not is_guided:
            raise ValueError(
                "parallel.cfg is 2, but guidance_scale is 1 (no guidance), so there is no pair to split; set "
                "parallel.cfg to 1 or guidance_scale above 1"
            )
        if self.is_resolved:
            return self
        left = self.num_gpus // math.prod(axis or 1 for axis in (self.dp, self.cfg, self.sp))
        cfg = self.cfg or (2 if is_guided and left % 2 == 0 else 1)
        left //= 1 if self.cfg else cfg
        sp, dp = (self.sp, left) if self.sp and not self.dp else (self.sp or left, self.dp or 1)
        config = replace(self, dp=dp, cfg=cfg, sp=sp)  # checks the product
        if self.num_gpus > 1:
            log(_LOG, "devices are shared", num_gpus=self.num_gpus, dp=dp, cfg=cfg, sp=sp)
        return config
