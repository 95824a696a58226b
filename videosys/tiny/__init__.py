"""Small trained checkpoints of the published classes, and the words that their prompts may use."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from videosys.generation.base import PipelineConfig
from videosys.models.latte.pipeline import LatteConfig
from videosys.models.open_sora_plan.pipeline import OpenSoraPlanConfig
from videosys.models.opensora.config import OpenSoraConfig
from videosys.utils.hub import BUNDLED, BUNDLED_FOLDER
from videosys.utils.typed import listing, suggest

__all__ = ["bundled", "config"]

SIZE = 64
FULL_FRAMES, FPS = 34, 12  # of the clips that they were trained on
COMMON = {"text_encoder": f"{BUNDLED}opensora", "height": SIZE, "width": SIZE}
# Where a model predicts noise, strong guidance drives flat colours out of range in the first steps.
NOISE = {**COMMON, "guidance_scale": 1.5}
PLAN = {
    **NOISE,
    "vae": f"{BUNDLED}open_sora_plan/vae",
    "num_frames": 33,
    "fps": float(FPS),
    "prompt_template": "{prompt}",
    "negative_prompt": "",
}
# Class and settings of each; whatever is left out is as published.
SETTINGS: Mapping[str, tuple[type[PipelineConfig], Mapping[str, Any]]] = MappingProxyType(
    {
        "opensora": (
            OpenSoraConfig,
            {
                **COMMON,
                "transformer": f"{BUNDLED}opensora/transformer",
                "vae": f"{BUNDLED}opensora/vae",
                "num_frames": FULL_FRAMES,
                "fps": float(FPS),
                "guidance_scale": 4.0,
            },
        ),
        "latte": (
            LatteConfig,
            {
                **NOISE,
                "transformer": f"{BUNDLED}latte/transformer",
                "vae": f"{BUNDLED}latte/vae",
                "enable_vae_temporal_decoder": False,
            },
        ),
        "open_sora_plan_v110": (
            OpenSoraPlanConfig,
            {**PLAN, "version": "v110", "transformer": f"{BUNDLED}open_sora_plan/v110"},
        ),
        "open_sora_plan_v120": (
            OpenSoraPlanConfig,
            {**PLAN, "version": "v120", "transformer": f"{BUNDLED}open_sora_plan/v120"},
        ),
    }
)


def bundled() -> list[str]:
    """The names of the checkpoints that come with the package."""
    return [
        name
        for name, (_, settings) in SETTINGS.items()
        if (BUNDLED_FOLDER / settings["transformer"].removeprefix(BUNDLED)).is_dir()
    ]


def config(model: str = "opensora", **changes: Any) -> Any:
    """The config of a bundled checkpoint, without a cache. ValueError for a name that is not bundled."""
    if model not in bundled():
        raise ValueError(
            f"no tiny checkpoint {model!r}{suggest(model, bundled())}; allowed: {listing(bundled())}"
        )
    config_cls, settings = SETTINGS[model]
    return config_cls(**{**settings, **changes})
