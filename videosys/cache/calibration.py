"""Calibration files: measured speed-up and quality of cache settings for one model."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from videosys.cache.config import CacheConfig, Goal
from videosys.cache.registry import CACHES, PUBLISHED, NoCacheConfig, Reference
from videosys.cache.run_spec import RunSpec
from videosys.cache.sencache import Sensitivities
from videosys.utils.plain import from_mapping, read_json, to_plain, unchanged
from videosys.utils.typed import check_types, listing

SAMPLER_KEYS = ("scheduler", "num_inference_steps")
REQUIRED_KEYS = ("model", "scheduler", "num_inference_steps", "evaluations", "settings")


@dataclass(frozen=True)
class Setting:
    """The settings of one policy with measurements on held-out prompts, or predictions.

    computed: number of computed steps, averaged over prompts. speedup: factor relative to the full run.
    psnr (dB), ssim: against the frames of the full run. psnr is None if no frame differs, ssim is None if it
        was not measured.
    psnr_converged: PSNR against the converged run; None if it was not measured.
    config: `scheduler` and `num_inference_steps` of the sampler that the policy was measured with, if it is
        not the sampler of the file; else empty.
    ValueError for settings with a goal, for numbers that are not above 0, and for other fields in `config`.
    """

    policy: CacheConfig = field(metadata={"registry": CACHES})
    computed: float
    speedup: float
    psnr: float | None
    ssim: float | None
    psnr_converged: float | None = None
    config: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_types(self)
        if self.config and self.config.keys() != {*SAMPLER_KEYS}:
            keys = listing(SAMPLER_KEYS)
            raise ValueError(f"config has {listing(self.config)}; it must have {keys}, or nothing")
        if isinstance(self.policy, Goal) and self.policy.has_goal:
            raise ValueError("policy has a goal; a calibration needs settings")
        if not (self.computed > 0 and self.speedup > 0):
            raise ValueError(f"computed is {self.computed} and speedup {self.speedup}; both must be above 0")

    @property
    def quality(self) -> float:
        """The PSNR in dB, infinite if no frame differs."""
        return float("inf") if self.psnr is None else self.psnr

    def near(self, reference: Reference) -> float | None:
        """The PSNR in dB against a reference; None if it was not measured."""
        return self.quality if reference == PUBLISHED else self.psnr_converged

    def to_json(self) -> dict[str, Any]:
        """Plain values, without fields that are None or empty."""
        content = to_plain(self)
        return {
            key: value for key, value in content.items() if key in ("psnr", "ssim") or value not in (None, {})
        }


@dataclass(frozen=True)
class Calibration:
    """The content of a calibration file.

    scope: the run it is valid for. coefficients: of TeaCache's rescaling polynomial, highest power first.
    ratios: for MagCache, one per model evaluation. sensitivities: for SenCache, one pair per model
    evaluation. details: other findings, not used by code.
    """

    scope: RunSpec
    settings: tuple[Setting, ...]
    coefficients: tuple[float, ...] | None = None
    details: dict[str, Any] = field(default_factory=dict)
    ratios: tuple[float, ...] | None = None
    sensitivities: Sensitivities | None = None

    @property
    def choices(self) -> tuple[Setting, ...]:
        """The settings, and the full run itself if it is not one of them."""
        evaluations = self.scope.evaluations
        is_full = (isinstance(row.policy, NoCacheConfig) and not row.config for row in self.settings)
        if evaluations is None or any(is_full):
            return self.settings
        return (*self.settings, Setting(NoCacheConfig(), evaluations, 1.0, None, 1.0))

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON; `read_calibration` restores an equal calibration."""
        settings = [setting.to_json() for setting in self.settings]
        learnt = {name: getattr(self, name) for name in ("coefficients", "ratios")}
        if self.sensitivities is not None:
            learnt["sensitivities"] = self.sensitivities
        return {**asdict(self.scope), **learnt, "settings": settings, "details": self.details}


def calibration_text(calibration: Calibration) -> str:
    """The calibration as JSON text, one line per setting, with numbers of ten digits."""
    # Ten digits are sufficient for thresholds and weights.
    content = to_plain(calibration.to_json(), number=lambda x: float(f"{x:.10g}"), other=unchanged)
    settings = ",\n  ".join(json.dumps(row, allow_nan=False) for row in content.pop("settings"))
    lines = [f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in content.items()]
    inner = ",\n ".join([*lines, f'"settings": [\n  {settings}\n ]'])
    return f"{{\n {inner}\n}}\n"


@dataclass(frozen=True)
class CalibrationFile(RunSpec):
    """The keys of the JSON file: those of `RunSpec` and the other fields of a calibration."""

    settings: tuple[dict[str, Any], ...] = ()
    coefficients: tuple[float, ...] | None = None
    ratios: tuple[float, ...] | None = None
    sensitivities: Sensitivities | None = None
    details: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        missing = [name for name in REQUIRED_KEYS if getattr(self, name) in (None, ())]
        if missing:
            raise ValueError(f"{', '.join(missing)} is missing")


def read_calibration(path: str | Path) -> Calibration:
    """Read a calibration from a JSON file. A ValueError names the file and the invalid key."""
    content = read_json(CalibrationFile, path)
    scope = RunSpec(**{item.name: getattr(content, item.name) for item in fields(RunSpec)})
    rows = enumerate(content.settings)
    settings = tuple(from_mapping(Setting, row, f"{path}: settings.{index}") for index, row in rows)
    learnt = (content.coefficients, content.details, content.ratios, content.sensitivities)
    return Calibration(scope, settings, *learnt)
