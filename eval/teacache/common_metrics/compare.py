"""Compares two folders of videos: matches files, computes their similarity and averages it."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from tqdm import tqdm

from videosys import is_frame_folder, load_lpips, psnr, read_video, ssim

Metric = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # two videos to one value per frame

SUFFIXES = frozenset({".mp4", ".gif", ".mkv", ".mov", ".webm", ".avi"})
SHOWN = 10  # maximum number of list items in a message
PUBLIC_BATCH = 8
UNITS = MappingProxyType({"psnr": " dB", "ssim": "", "lpips": ""})
METRICS = tuple(UNITS)


@dataclass(frozen=True)
class Pair:
    """A video and its reference."""

    name: str
    generated: Path
    reference: Path

    def read(self) -> tuple[torch.Tensor, torch.Tensor]:
        return read_video(self.generated)[0], read_video(self.reference)[0]


def find_pairs(reference: Path, generated: Path) -> list[Pair]:
    """Match the videos of two folders by name. ValueError if a video exists in only one of them."""
    folders = {folder: videos(folder) for folder in (reference, generated)}
    messages = []
    for folder, other in ((reference, generated), (generated, reference)):
        lost = [name for name in folders[folder] if name not in folders[other]]
        messages += [f"{len(lost)} videos of {folder} are missing in {other}: {listed(lost)}"] if lost else []
    if messages:
        raise ValueError("; ".join(messages))
    return [Pair(name, generated / name, reference / name) for name in folders[reference]]


def videos(folder: Path) -> list[str]:
    """The sorted names of the videos in a folder. ValueError if there are none."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    names = sorted(path.name for path in folder.iterdir() if is_video(path))
    if not names:
        raise ValueError(f"{folder}: contains no videos ({', '.join(sorted(SUFFIXES))} or folders of frames)")
    return names


def is_video(path: Path) -> bool:
    """Whether a path is a finished video file, or a folder with the frames of a video."""
    is_known = path.suffix.lower() in SUFFIXES or is_frame_folder(path)
    return is_known and not path.name.startswith(".")


def listed(items: Iterable[str], separator: str = ", ") -> str:
    items = list(items)
    more = f"{separator}and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return separator.join(items[:SHOWN]) + more


def make_metrics(
    names: Sequence[str], device: str, batch_size: int, alexnet_weights: Path | None = None
) -> dict[str, Metric]:
    """The metrics by name. ValueError if the weights of LPIPS are missing."""
    known: dict[str, Metric] = {
        "psnr": lambda video, reference: psnr(video, reference, device),
        "ssim": lambda video, reference: ssim(video, reference, device),
    }
    if "lpips" in names:
        model = load_lpips(alexnet_weights, device=device)
        known["lpips"] = lambda video, reference: model(video, reference, batch_size)
    return {name: known[name] for name in names}


def choose_metrics(
    names: Sequence[str] | None, device: str, batch_size: int, alexnet_weights: Path | None
) -> dict[str, Metric]:
    """The requested metrics. By default all, without LPIPS if its weights are missing."""
    device = choose_device(device)
    try:
        return make_metrics(names or METRICS, device, batch_size, alexnet_weights)
    except ValueError as error:
        if names or alexnet_weights:
            raise
        print(f"skipping LPIPS: {error}; set --alexnet-weights", file=sys.stderr)
        return make_metrics(("psnr", "ssim"), device, batch_size)


def choose_device(name: str) -> str:
    """`name`, or for auto the GPU if there is one. ValueError for an unavailable device."""
    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    apples = ["mps"] if torch.backends.mps.is_available() else []
    allowed = ["cpu", *(["cuda"] if gpus else []), *gpus, *apples]
    if name not in ("auto", *allowed):
        raise ValueError(f"--device is {name!r}; allowed here: auto, {', '.join(allowed)}")
    return ("cuda" if gpus else "cpu") if name == "auto" else name


def measure(pairs: Sequence[Pair], metrics: Mapping[str, Metric], quiet: bool = False) -> list[dict]:
    """Compute the metrics of each pair: its name, and per metric the values of its frames and their mean.

    Each video is read once. Raises a ValueError that lists all pairs whose videos differ in length or size or
    cannot be read. After the first such pair, the others are only checked.
    """
    rows, wrong = [], []
    for pair in tqdm(pairs, desc="compare", unit="video", disable=quiet):
        try:
            video, reference = pair.read()
        except ValueError as error:
            wrong.append(str(error))
            continue
        ours, theirs = ("{} frames of {} x {}".format(*each.shape[:3]) for each in (video, reference))
        if ours != theirs:
            wrong.append(f"{pair.name}: {ours} against {theirs}")
        elif not wrong:
            rows.append(measured(pair.name, video, reference, metrics))
    if wrong:
        raise ValueError(f"{len(wrong)} of {len(pairs)} pairs cannot be compared: {listed(wrong, '; ')}")
    return rows


def measured(
    name: str, video: torch.Tensor, reference: torch.Tensor, metrics: Mapping[str, Metric]
) -> dict[str, Any]:
    row: dict[str, Any] = {"name": name, "frames": len(video)}
    for metric, function in metrics.items():
        values = function(video, reference)
        row[metric] = float(values.mean())
        row[f"{metric}_per_frame"] = values.tolist()
    return row


def summary(
    rows: Sequence[Mapping], names: Iterable[str], public_batch: int = PUBLIC_BATCH
) -> dict[str, dict]:
    """Per metric: the mean over videos, the mean as in public scripts, and the standard error.

    public: the mean over batches of `public_batch` videos of each batch's mean, so videos of a shorter last
    batch have more weight. error: the standard error of the mean over videos.
    """
    return {name: _summary([row[name] for row in rows], public_batch) for name in names}


def _summary(values: Sequence[float], public_batch: int) -> dict[str, float | None]:
    batches = [values[start : start + public_batch] for start in range(0, len(values), public_batch)]
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / max(len(values) - 1, 1)
    return {
        "per_video": mean,
        "public": math.fsum(math.fsum(batch) / len(batch) for batch in batches) / len(batches),
        "error": math.sqrt(variance / len(values)) if len(values) > 1 else None,
        "least": min(values),
        "most": max(values),
    }


def table(summaries: Mapping[str, Mapping[str, float | None]]) -> str:
    """The summary as text."""
    head = ("metric", "per video", "+-", "public way", "least", "most")
    rows = [
        (
            f"{name}{UNITS[name]}",
            *(_number(row[key]) for key in ("per_video", "error", "public", "least", "most")),
        )
        for name, row in summaries.items()
    ]
    widths = [max(len(line[column]) for line in (head, *rows)) for column in range(len(head))]
    lines = ("  ".join(cell.rjust(width) for cell, width in zip(line, widths)) for line in (head, *rows))
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
