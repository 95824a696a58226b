"""Latte-1 (arXiv 2401.03048)."""

from videosys.models.family import Family
from videosys.models.latte.config import LatteConfig
from videosys.models.latte.pipeline import LattePipeline, condition, guidance_pair, parts, scheduler
from videosys.models.latte.presets import PRESETS, TINY

FAMILY = Family(
    name="latte",
    config=LatteConfig,
    parts=parts,
    scheduler=scheduler,
    condition=condition,
    guidance_pair=guidance_pair,
    pipeline=LattePipeline,
    presets=PRESETS,
    tiny=TINY,
    published={"latte_1": "base.yaml"},
)
