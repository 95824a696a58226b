"""The web page, and the description of the model that it shows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fastapi import FastAPI
from fastapi.responses import FileResponse

from videosys.cache import BestConfig
from videosys.cache.choice import find_calibration
from videosys.serve.requests import Checker
from videosys.tiny.words import vocabulary
from videosys.utils.hub import BUNDLED
from videosys.utils.plain import to_plain

FOLDER = Path(__file__).with_name("page")
FILES: Mapping[str, str] = MappingProxyType(
    {"/": "index.html", "/page.css": "page.css"}
    | {f"/{name}.js": f"{name}.js" for name in ("page", "stage", "parts", "api")}
)
HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "Content-Security-Policy": (
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; media-src blob:; "
            "img-src data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        ),
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-cache",
    }
)
TINY_EXAMPLES = (
    "a large red circle moves rightward on a white background",
    "a small green cross spins on a black background",
    "a large blue square grows on a cream background",
)


def add_page(app: FastAPI) -> None:
    """Add one route per file of the page. Other files of the folder are not served."""
    for address, name in FILES.items():
        app.add_api_route(address, file_route(name), include_in_schema=False)


def file_route(name: str) -> Any:
    def route() -> FileResponse:
        return FileResponse(FOLDER / name, headers=dict(HEADERS))

    return route


def describe_model(checker: Checker) -> dict[str, Any]:
    """The data of the page: config values, measured goals, vocabulary and example prompts.

    goals: from slow to fast, each with its speed-up and PSNR in dB (None: identical video).
    """
    config = checker.config
    height, width = config.size
    is_tiny = str(config.transformer).startswith(BUNDLED)
    return {
        "defaults": {
            "size": f"{width}x{height}",
            "frames": config.output_frames,
            "steps": config.steps,
            "cache": to_plain(config)["cache"]["name"],
        },
        "goals": goals(checker),
        "vocabulary": vocabulary() if is_tiny else None,
        "examples": list(TINY_EXAMPLES) if is_tiny else [],
    }


def goals(checker: Checker) -> list[dict[str, Any]]:
    """The Pareto-optimal speed-ups and PSNRs of the calibration; empty if the config has none."""
    pipeline, config = checker.pipeline, checker.config
    wanted = BestConfig(speedup=1.0, calibration=getattr(config.cache, "calibration", None))
    try:
        calibration, _ = find_calibration(wanted, pipeline.scope(config), pipeline.parts.transformer.folder)
    except ValueError:
        return []
    front: list[dict[str, Any]] = []
    best = -math.inf
    for row in sorted(calibration.settings, key=lambda row: (row.speedup, row.quality), reverse=True):
        if row.quality > best:
            best = row.quality
            quality = None if math.isinf(best) else round(best, 1)
            # Rounded down, so that a request for it succeeds.
            front.append({"speedup": math.floor(100 * row.speedup) / 100, "psnr": quality})
    return front[::-1]
