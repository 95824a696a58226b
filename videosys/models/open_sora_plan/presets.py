"""Published settings of each version of Open-Sora-Plan, and the settings of its bundled checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from videosys.cache import PABConfig, TeaCacheConfig
from videosys.schedulers.build import PNDM_MIN_STEPS

Version = Literal["v110", "v120"]
PLACEHOLDER = "{prompt}"


@dataclass(frozen=True)
class Release:
    """The published settings of a version.

    types: frames, height and width by checkpoint; the first is the default. coefficients: of TeaCache,
    highest power first.
    """

    repository: str
    text_encoder: str
    max_tokens: int
    types: Mapping[str, tuple[int, int, int]]
    steps: int
    least_steps: int
    template: str
    negative: str
    keeps_chinese: bool
    coefficients: tuple[float, ...] | None


RELEASES: Mapping[Version, Release] = MappingProxyType(
    {
        "v110": Release(
            repository="LanguageBind/Open-Sora-Plan-v1.1.0",
            text_encoder="DeepFloyd/t5-v1_1-xxl",
            max_tokens=300,
            types=MappingProxyType({"65x512x512": (65, 512, 512), "221x512x512": (221, 512, 512)}),
            steps=150,
            least_steps=PNDM_MIN_STEPS,
            template=PLACEHOLDER,
            negative="",
            keeps_chinese=False,
            coefficients=(2.05943668e05, -1.48759286e04, 3.06085986e02, 1.31418080e00, 2.39658469e-03),
        ),
        "v120": Release(
            repository="LanguageBind/Open-Sora-Plan-v1.2.0",
            text_encoder="google/mt5-xxl",
            max_tokens=512,
            types=MappingProxyType(
                {
                    "29x480p": (29, 480, 640),
                    "93x480p": (93, 480, 640),
                    "29x720p": (29, 720, 1280),
                    "93x720p": (93, 720, 1280),
                }
            ),
            steps=100,
            least_steps=1,
            template=f"(masterpiece), (best quality), (ultra-detailed), {PLACEHOLDER}.",
            negative=(
                "nsfw, lowres, bad anatomy, bad hands, text, error, missing fingers, extra digit, fewer "
                "digits, cropped, worst quality, low quality, normal quality, jpeg artifacts, signature, "
                "watermark, username, blurry."
            ),
            keeps_chinese=True,
            coefficients=None,
        ),
    }
)
# Published with PAB; v1.2.0 has joint blocks only, and reuses no MLP. The timesteps are for 150 steps.
PAB_WINDOW = (100.0, 850.0)
PAB_MLP = tuple((738.0 - 24 * i, 2, (0, 1, 2, 3, 4, 5, 6)) for i in range(14))
PRESETS = MappingProxyType(
    {
        # Coefficients are those of the version.
        "teacache_slow": TeaCacheConfig(threshold=0.1),
        "teacache_fast": TeaCacheConfig(threshold=0.2),
        "teacache_naive": TeaCacheConfig(threshold=0.1, coefficients=(1.0, 0.0)),
        "pab": PABConfig.pyramid((2, 4, 6), PAB_WINDOW, PAB_MLP),
        "pab_slow": PABConfig.pyramid((2, 4, 6), PAB_WINDOW, PAB_MLP),
        "pab_fast": PABConfig.pyramid((5, 7, 9), PAB_WINDOW, PAB_MLP),
    }
)


def tiny(version: Version, guidance_scale: float) -> Mapping[str, Any]:
    """The settings of the bundled checkpoint of a version. Its guidance is weaker than published, because
    strong guidance moves flat colours out of range in the first steps.
    """
    return MappingProxyType(
        {
            "version": version,
            "transformer": f"bundled:open_sora_plan/{version}",
            "vae": "bundled:open_sora_plan/vae",
            "text_encoder": "bundled:opensora",
            "height": 64,
            "width": 64,
            "num_frames": 33,
            "fps": 12.0,
            "guidance_scale": guidance_scale,
            "prompt_template": PLACEHOLDER,
            "negative_prompt": "",
        }
    )


TINY = MappingProxyType({"open_sora_plan_v110": tiny("v110", 3.0), "open_sora_plan_v120": tiny("v120", 2.5)})
