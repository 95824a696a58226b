"""Images of the report: a plot as SVG, and frames side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

WIDTH, HEIGHT = 460, 330
LEFT, RIGHT, TOP, BOTTOM = 62, 20, 34, 48
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#7f7f7f")
TICKS = 5
LETTER, LINE = 6.2, 11  # width of a letter and height of a line in pixels


@dataclass(frozen=True)
class Panel:
    """Points by name, (x, y), with the titles of the panel and its axes."""

    title: str
    x: str
    y: str
    points: Mapping[str, tuple[float, float]]


def plot(panels: Sequence[Panel]) -> str:
    """An SVG image with the panels side by side."""
    size = f'width="{WIDTH * len(panels)}" height="{HEIGHT}" viewBox="0 0 {WIDTH * len(panels)} {HEIGHT}"'
    names = list(dict.fromkeys(name for panel in panels for name in panel.points))
    colours = {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(names)}
    parts = [
        f'<g transform="translate({number * WIDTH} 0)">{_panel(panel, colours)}</g>'
        for number, panel in enumerate(panels)
    ]
    style = 'font-family="sans-serif" font-size="11"'
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>'
        f'<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )


def _panel(panel: Panel, colours: Mapping[str, str]) -> str:
    x_low, x_high = _range([x for x, _ in panel.points.values()], zero=True)
    y_low, y_high = _range([y for _, y in panel.points.values()])
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = (x - x_low) / (x_high - x_low), (y - y_low) / (y_high - y_low)
        return round(LEFT + across * (right - LEFT), 1), round(bottom - up * (bottom - TOP), 1)

    parts = [
        _text(WIDTH / 2, 18, panel.title, "middle", "bold"),
        _text(WIDTH / 2, HEIGHT - 10, panel.x, "middle"),
    ]
    parts.append(
        f'<g transform="translate(14 {HEIGHT / 2}) rotate(-90)">{_text(0, 0, panel.y, "middle")}</g>'
    )
    for step in range(TICKS):
        x, y = (low + (high - low) * step / (TICKS - 1) for low, high in ((x_low, x_high), (y_low, y_high)))
        across, up = place(x, y)
        parts.append(f'<path d="M{LEFT} {up}H{right}M{across} {TOP}V{bottom}" stroke="#ddd"/>')
        parts += [
            _text(LEFT - 5, up + 4, f"{y:.3g}", "end"),
            _text(across, bottom + 15, f"{x:.3g}", "middle"),
        ]
    places = {name: place(*point) for name, point in panel.points.items()}
    parts += [
        f'<circle cx="{across}" cy="{up}" r="4" fill="{colours[name]}"/>'
        for name, (across, up) in places.items()
    ]
    parts += [_text(x, y, name, anchor) for name, (x, y, anchor) in labels(places).items()]
    return "\n".join(parts)


def labels(places: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float, str]]:
    """Position and anchor of each point's label: next to the point, moved up or down until it does not
    overlap earlier labels.
    """
    labels: dict[str, tuple[float, float, str]] = {}
    taken: list[tuple[float, float, float]] = []  # left, right and line of each label
    for name, (across, up) in sorted(places.items(), key=lambda item: item[1][1]):
        anchor, x = ("end", across - 7) if across > 0.6 * WIDTH else ("start", across + 7)
        left = x - (LETTER * len(name) if anchor == "end" else 0)
        right = left + LETTER * len(name)
        lines = (up + 4 + LINE * step for step in (0, *(s for n in range(1, 9) for s in (n, -n))))
        y = next(
            (
                line
                for line in lines
                if TOP < line < HEIGHT - BOTTOM
                and not any(
                    left < end and start < right and abs(line - other) < LINE for start, end, other in taken
                )
            ),
            up + 4,
        )
        labels[name] = round(x, 1), round(y, 1), anchor
        taken.append((left, right, y))
    return labels


def _text(x: float, y: float, words: str, anchor: str, weight: str = "normal") -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-weight="{weight}">{escape(words)}</text>'


def _range(values: Sequence[float], zero: bool = False) -> tuple[float, float]:
    """The range of an axis, slightly larger than that of the values."""
    low, high = (0.0 if zero else min(values)), max(values)
    margin = 0.08 * (high - low) or abs(high) * 0.1 or 1.0
    return (low if zero else low - margin), high + margin


def frames(videos: Mapping[str, torch.Tensor], path: Path, count: int = 6, side: int = 128) -> None:
    """Save an image with one row per video (uint8 [T, H, W, 3]) of `count` frames from first to last."""
    label = max(120, 8 + math.ceil(LETTER * max(map(len, videos))))
    rows = [_row(video, count, side) for video in videos.values()]
    height, width = rows[0].shape[:2]
    sheet = Image.new("RGB", (label + width, len(rows) * (height + 4)), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (name, row) in enumerate(zip(videos, rows)):
        top = number * (height + 4)
        sheet.paste(Image.fromarray(row), (label, top))
        pen.text((4, top + height // 2 - 6), name, fill="black")
    sheet.save(path)


def _row(video: torch.Tensor, count: int, side: int) -> np.ndarray:
    places = torch.linspace(0, len(video) - 1, min(count, len(video))).round().long()
    _, height, width, _ = video.shape
    scale = side / height
    size = (max(1, math.floor(width * scale)), side)
    pictures = [
        Image.fromarray(frame.numpy()).resize(size, Image.Resampling.NEAREST) for frame in video[places]
    ]
    return np.concatenate(
        [np.pad(np.asarray(picture), ((0, 0), (0, 4), (0, 0)), constant_values=255) for picture in pictures],
        axis=1,
    )
