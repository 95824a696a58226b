"""Published settings of Open-Sora v1.2, and the settings of its bundled checkpoint."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from videosys.cache import PABConfig, TeaCacheConfig

# Published with TeaCache, highest power first.
COEFFICIENTS = (2.17546007e02, -1.18329252e02, 2.68662585e01, -4.59364272e-02, 4.84426240e-02)
# Published with PAB for 480p, 51 frames and 30 steps: which blocks reuse their MLP for two steps.
PAB_WINDOW = (450.0, 930.0)
PAB_MLP = tuple((timestep, 2, (0, 1, 2, 3, 4)) for timestep in (864.0, 788.0, 676.0))
PRESETS = MappingProxyType(
    {
        "teacache_slow": TeaCacheConfig(threshold=0.1, coefficients=COEFFICIENTS),
        "teacache_fast": TeaCacheConfig(threshold=0.2, coefficients=COEFFICIENTS),
        "pab": PABConfig.pyramid((2, 4, 6), PAB_WINDOW, PAB_MLP),
        "pab_slow": PABConfig.pyramid((2, 4, 6), PAB_WINDOW, PAB_MLP),
        "pab_fast": PABConfig.pyramid((5, 7, 9), PAB_WINDOW, PAB_MLP),
    }
)
TINY: MappingProxyType[str, MappingProxyType[str, Any]] = MappingProxyType(
    {
        "opensora": MappingProxyType(
            {
                "transformer": "bundled:opensora/transformer",
                "vae": "bundled:opensora/vae",
                "text_encoder": "bundled:opensora",
                "height": 64,
                "width": 64,
                "num_frames": 34,
                "fps": 12.0,
                "guidance_scale": 4.0,
            }
        )
    }
)
