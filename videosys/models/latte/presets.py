"""Published settings of Latte-1, and the settings of its bundled checkpoint."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from videosys.cache import PABConfig, TeaCacheConfig

REPOSITORY = "maxin-cn/Latte-1"
MAX_TOKENS = 120
# Published with TeaCache, highest power first.
COEFFICIENTS = (-2.46434137e03, 3.08044764e02, 8.07447667e01, -4.11385132e00, 1.11001402e-01)
# Published with PAB for 50 steps: which blocks reuse their MLP for two steps.
PAB_WINDOW = (100.0, 800.0)
PAB_MLP = tuple((timestep, 2, (0, 1, 2, 3, 4)) for timestep in (720.0, 640.0, 560.0, 480.0, 400.0))
PRESETS = MappingProxyType(
    {
        "teacache_slow": TeaCacheConfig(threshold=0.1, coefficients=COEFFICIENTS),
        "teacache_fast": TeaCacheConfig(threshold=0.2, coefficients=COEFFICIENTS),
        "pab": PABConfig.pyramid((2, 3, 6), PAB_WINDOW, PAB_MLP),
        "pab_slow": PABConfig.pyramid((2, 3, 6), PAB_WINDOW, PAB_MLP),
        "pab_fast": PABConfig.pyramid((4, 6, 9), PAB_WINDOW, PAB_MLP),
    }
)
TINY: MappingProxyType[str, MappingProxyType[str, Any]] = MappingProxyType(
    {
        "latte": MappingProxyType(
            {
                "transformer": "bundled:latte/transformer",
                "vae": "bundled:latte/vae",
                "text_encoder": "bundled:opensora",
                "height": 64,
                "width": 64,
                # Strong guidance moves flat colours out of range in the first steps.
                "guidance_scale": 1.5,
                "enable_vae_temporal_decoder": False,
            }
        )
    }
)
