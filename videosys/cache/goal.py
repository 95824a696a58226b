"""A policy that is asked for by what it shall reach; a calibration file then says with which settings."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from videosys.cache.place import WITH_MODEL, check_place

BESIDE = "beside"  # as `calibration`: the file that lies beside the weights


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What every policy may be told: where to keep things, and what to reach instead of its own settings.

    calibration: the file that `python -m videosys.calibration` wrote; None and `beside` look for
        calibration*.json beside the transformer's weights. Without a goal TeaCache takes its coefficients
        from there if it is named, or `beside`, and MagCache its ratios.
    speedup: at least so many times faster than without a cache, with the best picture there is for it.
    min_psnr: at least so many dB against the full run, as fast as that can be had.
    device: where that lies which is kept from step to step: auto is where the model is; cpu takes nothing of
        an accelerator's memory, and each use costs a copy.
    """

    calibration: str | None = None
    speedup: float | None = None
    min_psnr: float | None = None
    device: str = WITH_MODEL

    @property
    def has_goal(self) -> bool:
        return self.speedup is not None or self.min_psnr is not None

    def check_goal(self, replaces_fields: bool = False) -> None:
        """ValueError for a goal that means nothing, or that stands beside settings it would replace (unless
        that is meant), and for a device that is none.
        """
        check_place(self.device)
        if self.speedup is not None and not self.speedup >= 1:
            raise ValueError(f"cache.speedup is {self.speedup}; it must be 1 or more")
        if self.min_psnr is not None and not self.min_psnr > 0:
            raise ValueError(f"cache.min_psnr is {self.min_psnr}; it must be above 0")
        names = [field.name for field in dataclasses.fields(Goal)]
        own = [field for field in dataclasses.fields(self) if field.name not in names]
        changed = [field.name for field in own if getattr(self, field.name) != _default(field)]
        if self.has_goal and changed and not replaces_fields:
            raise ValueError(
                f"cache.{changed[0]} is given, and so is a goal (speedup, min_psnr): the calibration file "
                "says the settings then; leave one of the two out"
            )


def _default(field: dataclasses.Field) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
