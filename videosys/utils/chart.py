"""Line charts drawn with Pillow, which the package needs anyway: curves, points, marks under the axis."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from videosys.utils.files import replacing

SIZE = (960, 420)
LEFT, RIGHT, TOP, BOTTOM = 84, 24, 80, 64
MOST_DOTS = 45  # points of a curve beyond which only its line is drawn
COLORS = ("#1f5fa8", "#c4432b", "#2f8f4e", "#8a4fa3", "#b07a13", "#4d4d4d", "#17a2b8", "#d6498f")
INK, GRID, PAPER = "#222222", "#e2e2e2", "#ffffff"
TICKS = 5

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Chart:
    """A picture of curves.

    curves: points (x, y) by name; a point whose y is not finite breaks its curve. marks: x values that get a
    bar at the axis. levels: horizontal lines by name.
    """

    title: str
    x_label: str
    y_label: str
    curves: Mapping[str, Points]
    marks: Sequence[float] = ()
    levels: Mapping[str, float] = field(default_factory=dict)

    def save(self, path: str | Path) -> Path:
        """The path of the PNG file, whole or not at all. ValueError where there is nothing to draw."""
        image = Image.new("RGB", SIZE, PAPER)
        self._draw(ImageDraw.Draw(image))
        with replacing(path) as temporary:
            image.save(temporary, format="PNG", optimize=True)
        return Path(path)

    def _draw(self, draw: ImageDraw.ImageDraw) -> None:
        points = [point for curve in self.curves.values() for point in curve if math.isfinite(point[1])]
        if not points:
            raise ValueError(f"{self.title}: there is no point to draw")
        xs, ys = zip(*points)
        x_axis = Axis(LEFT, SIZE[0] - RIGHT, *padded([*xs, *self.marks]))
        y_axis = Axis(SIZE[1] - BOTTOM, TOP, *padded([*ys, *self.levels.values()]))
        font = ImageFont.load_default(size=14)
        _axes(draw, font, x_axis, y_axis)
        draw.text((LEFT, 8), self.title, fill=INK, font=ImageFont.load_default(size=17))
        draw.text((SIZE[0] // 2, SIZE[1] - 22), self.x_label, fill=INK, font=font, anchor="mm")
        draw.text((8, TOP - 8), self.y_label, fill=INK, font=font, anchor="lb")
        for x in self.marks:
            draw.line([(x_axis(x), y_axis.start - 10), (x_axis(x), y_axis.start)], fill=INK, width=4)
        self._curves(draw, font, x_axis, y_axis)

    def _curves(self, draw: ImageDraw.ImageDraw, font: Font, x: Axis, y: Axis) -> None:
        at = LEFT
        lines = {**self.curves, **{name: [(x.low, v), (x.high, v)] for name, v in self.levels.items()}}
        for index, (name, points) in enumerate(lines.items()):
            color = COLORS[index % len(COLORS)]
            for one, other in pairwise(points):
                if math.isfinite(one[1]) and math.isfinite(other[1]):
                    draw.line([(x(one[0]), y(one[1])), (x(other[0]), y(other[1]))], fill=color, width=2)
            for px, py in points if name in self.curves and is_dotted(points) else ():
                if math.isfinite(py):
                    draw.ellipse([x(px) - 3, y(py) - 3, x(px) + 3, y(py) + 3], fill=color)
            draw.text((at, 34), name, fill=color, font=font)
            at += int(font.getlength(name)) + 22


def is_dotted(points: Points) -> bool:
    """Whether points are to be seen: those of a short curve, and those that no line joins."""
    return len(points) <= MOST_DOTS or not all(math.isfinite(y) for _, y in points)


@dataclass(frozen=True)
class Axis:
    """Values low..high at pixels start..end."""

    start: float
    end: float
    low: float
    high: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values within the axis, about TICKS of them."""
        rough = (self.high - self.low) / TICKS
        power = 10 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
        first = math.ceil(self.low / step)
        return [number * step for number in range(first, math.floor(self.high / step) + 1)]


def padded(values: Sequence[float]) -> tuple[float, float]:
    """The range of values with a little room around it."""
    low, high = min(values), max(values)
    room = 0.04 * (high - low) or max(abs(high), 1.0) * 0.1
    return low - room, high + room


def _axes(draw: ImageDraw.ImageDraw, font: Font, x: Axis, y: Axis) -> None:
    for value in x.ticks():
        draw.line([(x(value), y.start), (x(value), y.end)], fill=GRID)
        draw.text((x(value), y.start + 8), f"{value:g}", fill=INK, font=font, anchor="ma")
    for value in y.ticks():
        draw.line([(x.start, y(value)), (x.end, y(value))], fill=GRID)
        draw.text((x.start - 8, y(value)), f"{value:.6g}", fill=INK, font=font, anchor="rm")
    draw.line([(x.start, y.end), (x.start, y.start), (x.end, y.start)], fill=INK)
