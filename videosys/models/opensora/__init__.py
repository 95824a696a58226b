"""Open-Sora v1.2."""

from videosys.models.family import Family
from videosys.models.opensora.conditioning import Reference
from videosys.models.opensora.config import OpenSoraConfig
from videosys.models.opensora.pipeline import OpenSoraPipeline, condition, guidance_pair, parts, scheduler
from videosys.models.opensora.presets import PRESETS, TINY

FAMILY = Family(
    name="opensora",
    config=OpenSoraConfig,
    parts=parts,
    scheduler=scheduler,
    condition=condition,
    guidance_pair=guidance_pair,
    pipeline=OpenSoraPipeline,
    presets=PRESETS,
    tiny=TINY,
    published={"v1_2": "base.yaml"},
    inputs={"references": Reference},
)
