"""The files of finished jobs: the video, two preview images, and a JSON file with the settings."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Set
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from videosys.cache import cache_statistics
from videosys.generation.config import PipelineConfig, loading_fields
from videosys.generation.request import VideoOutput
from videosys.serve.store import Job
from videosys.utils.files import remove
from videosys.utils.plain import to_plain
from videosys.utils.sidecar import write_sidecar
from videosys.utils.video import save_video

SHEET_FRAMES = 8
# Variant -> (suffix, media type)
VARIANTS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "video": (".mp4", "video/mp4"),
        "thumbnail": (".thumbnail.png", "image/png"),
        "spritesheet": (".sheet.png", "image/png"),
        "sidecar": (".mp4.json", "application/json"),
    }
)
# Stem of the files of one attempt: the job's id and the attempt's number; the variant's suffix follows.
ATTEMPT = re.compile(r"(video_[0-9a-f]{32}-\d+)\..+")


def path_of(folder: Path, job: Job, variant: str) -> Path:
    """The path of a variant of a finished job."""
    return folder / f"{job.files}{VARIANTS[variant][0]}"


def write_files(folder: Path, job: Job, output: VideoOutput, config: PipelineConfig) -> str:
    """Write a job's files and return the cache's statistics as text. OSError if one cannot be written."""
    frames, steps = output.video[0], output.steps_per_video[0]
    statistics = str(cache_statistics(steps))
    pictures = {
        "video": frames,
        "thumbnail": frames[len(frames) // 2][None],
        "spritesheet": contact_sheet(frames)[None],
    }
    try:
        for variant, picture in pictures.items():
            write_picture(picture, path_of(folder, job, variant), output.fps)
        path, content = path_of(folder, job, "video"), public(config)
        write_sidecar(
            path, prompt=job.prompt, seed=job.seed, config=content, steps=steps, statistics=statistics
        )
    except OSError:
        remove_files(folder, job.files)
        raise
    return statistics


def write_picture(frames: torch.Tensor, path: Path, fps: float) -> None:
    """Saves a video or an image. OSError if it cannot be written there; no fallback location is used."""
    written = save_video(frames, path, fps=fps)
    if written != path:
        remove(written if written.parent == path.parent else written.parent)  # a new temporary folder
        raise OSError(f"{path.name} cannot be written: the disk is full or not working")


def public(config: PipelineConfig) -> dict[str, Any]:
    """A config without paths on this computer."""
    hidden = loading_fields(type(config)) - {"fps"}
    return {name: value for name, value in without_files(to_plain(config)).items() if name not in hidden}


def without_files(value: Any) -> Any:
    """Plain values without entries that name files."""
    if not isinstance(value, dict):
        return value
    local = ("calibration", "file", "reference_paths")
    return {name: without_files(item) for name, item in value.items() if name not in local}


def contact_sheet(frames: torch.Tensor) -> torch.Tensor:
    """Evenly spaced frames of [T, H, W, 3], side by side in one image."""
    count = min(SHEET_FRAMES, len(frames))
    chosen = torch.linspace(0, len(frames) - 1, count).round().long()
    return torch.cat(list(frames[chosen]), dim=1).contiguous()


def remove_files(folder: Path, name: str) -> None:
    """Remove all files of an attempt, if they exist."""
    for suffix, _ in VARIANTS.values():
        with contextlib.suppress(OSError):
            (folder / f"{name}{suffix}").unlink()


def remove_leftovers(folder: Path, finished: Set[str]) -> None:
    """Remove files of attempts without a finished job, which a killed worker leaves behind. Files with other
    names are kept.
    """
    for path in folder.iterdir():
        attempt = ATTEMPT.fullmatch(path.name)
        if attempt and attempt[1] not in finished and path.is_file():
            path.unlink(missing_ok=True)
