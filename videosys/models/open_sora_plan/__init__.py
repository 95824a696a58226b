"""Open-Sora-Plan v1.1.0 and v1.2.0."""

from videosys.models.family import Family
from videosys.models.open_sora_plan.config import OpenSoraPlanConfig
from videosys.models.open_sora_plan.pipeline import (
    OpenSoraPlanPipeline,
    condition,
    guidance_pair,
    parts,
    scheduler,
)
from videosys.models.open_sora_plan.presets import PRESETS, TINY

FAMILY = Family(
    name="open_sora_plan",
    config=OpenSoraPlanConfig,
    parts=parts,
    scheduler=scheduler,
    condition=condition,
    guidance_pair=guidance_pair,
    pipeline=OpenSoraPlanPipeline,
    presets=PRESETS,
    tiny=TINY,
    published={"v120": "v120_29x480p.yaml", "v110": "base.yaml"},
)
