"""Small trained checkpoints of the published classes, and the code that trains and scores them."""

from __future__ import annotations

from typing import Any

from videosys.pipelines.opensora_config import OpenSoraConfig
from videosys.tiny.clips import FPS, FULL_FRAMES

SIZE = 64


def config(model: str = "opensora", **changes: Any) -> OpenSoraConfig:
    """The config of a bundled checkpoint, without a cache. ValueError for a name that is not bundled."""
    if model != "opensora":
        raise ValueError(f"no tiny checkpoint {model!r}; allowed: opensora")
    settings = {
        "transformer": "bundled:opensora/transformer",
        "vae": "bundled:opensora/vae",
        "text_encoder": "bundled:opensora",
        "height": SIZE,
        "width": SIZE,
        "num_frames": FULL_FRAMES,
        "fps": float(FPS),
        "guidance_scale": 4.0,
    }
    return OpenSoraConfig(**{**settings, **changes})
