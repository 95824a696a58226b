"""Detects the background, colour, shape, motion and size in a clip from its pixels.

It tolerates the output of small models: blurred edges, inexact colours and distorted shapes. Nothing is
learned; it uses palettes, the area and centre over time, and the overlap with rendered templates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from eval.training.clips import (
    BACKGROUNDS,
    BOUNCE_FRAMES,
    COLOURS,
    FULL_FRAMES,
    GROWTH,
    SHAPES,
    SIZES,
    SYMMETRIES,
    TRANSLATIONS,
    coverage,
)

NONE = "none"  # the result if no object is detected
LEAST_CONTRAST = 40.0  # RGB distance between object and background
LEAST_AREA = 30.0  # pixels of a 64-pixel frame
AREAS = {"circle": 3.14, "square": 3.17, "triangle": 2.03, "ring": 2.71, "cross": 2.65}  # of radius 1

# Minimum change of a motion over 34 frames; half of it counts as that motion.
TRAVELLED = 26.0  # pixels of a 64-pixel frame
SWELLED = 1.1  # difference of the area's logarithm
BOUNCED = 13.0  # pixels, back and forth, in any 17 frames
SPIN_RATES = (-7.5, -6.0, -4.5, 4.5, 6.0, 7.5)  # degrees per frame
SPIN_MARGIN = 0.02  # required advantage in overlap of a rotating template over an upright one
ANGLE_STEP = 6.0  # degrees between templates
TEMPLATE_SIZE = 32  # pixels per side, corresponding to twice the square root of the object's area


@dataclass(frozen=True)
class Detection:
    """The detected attributes, as named in `clips`; "none" if nothing is detected."""

    background: str
    colour: str = NONE
    shape: str = NONE
    motion: str = NONE
    size: str = NONE


def detect(video: Tensor | np.ndarray, stride: int = 1) -> Detection:
    """Detect the attributes of one clip, uint8 frames [T, H, W, 3]: every `stride`-th frame at `FPS`."""
    frames = torch.as_tensor(video)
    if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        raise ValueError(f"expected uint8 frames [T, H, W, 3], got {frames.dtype} {list(frames.shape)}")
    frames = frames.float()
    ground = _border(frames)
    distance = (frames - ground).norm(dim=-1)
    contrast = float(distance.flatten().sort().values[int(0.985 * (distance.numel() - 1))])
    background = nearest(ground, BACKGROUNDS)
    if contrast < LEAST_CONTRAST:
        return Detection(background)
    paint = frames[distance > 0.7 * contrast].median(dim=0).values
    colour = nearest(paint, COLOURS)
    # Position of a pixel between background (0) and object (1); the steep slope removes noise, sharpens
    # edges.
    way = (frames - ground) @ (paint - ground) / (paint - ground).square().sum()
    mask = ((way - 0.3) / 0.4).clamp(0, 1)
    scale = 64 / frames.shape[2]
    area = mask.sum(dim=(1, 2)) * scale**2
    seen = area > max(LEAST_AREA, 0.2 * float(area.max()))
    if not seen.any():
        return Detection(background, colour)
    mask, area = mask[seen], area[seen]
    centre = centres(mask)
    shape, turning = match_shape(mask, centre, stride)
    motion = classify_motion(area, centre * scale, turning, stride)
    return Detection(background, colour, shape, motion, _size(area, shape, motion, stride))


def nearest(colour: Tensor, palette: Mapping[str, tuple[int, int, int]]) -> str:
    """The name of the palette's colour with the least RGB distance to `colour` [3]."""
    return min(palette, key=lambda name: math.dist(colour.tolist(), palette[name]))


def centres(mask: Tensor) -> Tensor:
    """Centre of mass (x, y) [T, 2] of masks [T, H, W], in pixels."""
    x = torch.arange(mask.shape[2], dtype=mask.dtype)
    y = torch.arange(mask.shape[1], dtype=mask.dtype)
    moments = torch.stack([mask.sum(dim=1) @ x, mask.sum(dim=2) @ y], dim=-1)
    return moments / mask.sum(dim=(1, 2))[:, None]


def classify_motion(area: Tensor, centre: Tensor, turning: bool, stride: int = 1) -> str:
    """The motion with the largest share of its expected change; still or spin if all shares are below a half.

    `area` [T] and `centre` [T, 2] are in pixels of a 64-pixel frame. `turning`: whether a rotating template
    fits better.
    """
    num_frames = len(area)
    edge = max(1, min(3, num_frames // 4))
    # The part of the 34-frame motion between the averaged first and last frames.
    course = min(1.0, stride * max(1, num_frames - edge) / (FULL_FRAMES - 1))
    moved = centre[-edge:].mean(dim=0) - centre[:edge].mean(dim=0)
    swelled = float((area[-edge:].mean() / area[:edge].mean()).log())
    bounced = _bounced(centre[:, 1], stride)
    direction = max(TRANSLATIONS, key=lambda name: float(moved @ moved.new_tensor(TRANSLATIONS[name])))
    reached = {
        direction: float(moved.abs().max()) / (TRAVELLED * course),
        "grow": swelled / (SWELLED * course),
        "shrink": -swelled / (SWELLED * course),
        "bounce": bounced / BOUNCED,
    }
    motion = max(reached, key=lambda name: reached[name])
    if reached[motion] > 0.5:
        return motion
    return "spin" if turning else "still"


def _bounced(height: Tensor, stride: int) -> float:
    """The longest way back and forth within the duration of one bounce, in the units of `height` [T]."""
    beats = height.unfold(0, min(len(height), round(BOUNCE_FRAMES / stride) + 1), 1)
    return float((beats.amax(dim=1) - beats.amin(dim=1) - (beats[:, -1] - beats[:, 0]).abs()).max())


def match_shape(mask: Tensor, centre: Tensor, stride: int = 1) -> tuple[str, bool]:
    """(shape, whether it rotates) of the template with the best overlap with masks [T, H, W]."""
    overlap = _overlaps(_normalise(mask, centre), _templates())
    upright = {shape: float(rows[:, 0].mean()) for shape, rows in overlap.items()}
    turning = {shape: _best_turn(rows, stride) for shape, rows in overlap.items() if rows.shape[1] > 1}
    shape = max(SHAPES, key=lambda name: max(upright[name], turning.get(name, 0.0)))
    return shape, turning.get(shape, 0.0) > upright[shape] + SPIN_MARGIN


def _border(frames: Tensor) -> Tensor:
    """The median colour [3] of the outer two pixels of all frames."""
    parts = frames[:, :2], frames[:, -2:], frames[:, :, :2], frames[:, :, -2:]
    return torch.cat([part.reshape(-1, 3) for part in parts]).median(dim=0).values


def _normalise(mask: Tensor, centre: Tensor) -> Tensor:
    """Centre masks and scale them to a common area: [T, S, S], where S is twice the square root of the
    area.
    """
    _, height, width = mask.shape
    reach = mask.sum(dim=(1, 2)).sqrt()
    line = (torch.arange(TEMPLATE_SIZE) + 0.5) * 2 / TEMPLATE_SIZE - 1
    steps = line * reach[:, None]  # [T, S] pixels from the centre
    x = (centre[:, :1] + steps + 0.5) * 2 / width - 1
    y = (centre[:, 1:] + steps + 0.5) * 2 / height - 1
    grid = torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), dim=-1)
    return torch.nn.functional.grid_sample(mask[:, None], grid, align_corners=False)[:, 0]


def _templates() -> dict[str, Tensor]:
    """Per shape [angles, S, S]: the shape upright, then rotated in steps up to its symmetry."""
    templates = {}
    for shape in SHAPES:
        count = round(math.degrees(SYMMETRIES.get(shape, 0.0)) / ANGLE_STEP) or 1
        paths = torch.zeros(1, count, 4)
        paths[..., :2] = 31.5
        paths[..., 2] = 32 / math.sqrt(AREAS[shape])
        paths[..., 3] = torch.arange(count) * math.radians(ANGLE_STEP)
        drawn = coverage([shape], paths, TEMPLATE_SIZE)
        templates[shape] = _normalise(drawn[0], centres(drawn[0]))  # normalized like the masks
    return templates


def _overlaps(masks: Tensor, templates: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Per shape [T, angles]: soft intersection over union of masks [T, S, S] with the templates."""
    result = {}
    for shape, drawn in templates.items():
        both = torch.minimum(masks[:, None], drawn).sum(dim=(2, 3))
        either = masks.sum(dim=(1, 2))[:, None] + drawn.sum(dim=(1, 2)) - both
        result[shape] = both / either
    return result


def _best_turn(overlap: Tensor, stride: int) -> float:
    """The mean overlap of the best uniform rotation in a table [T, angles]."""
    frames, angles = overlap.shape
    frame = torch.arange(frames)
    start = torch.arange(angles)[:, None]
    best = 0.0
    for rate in SPIN_RATES:
        angle = (start + (frame * stride * rate / ANGLE_STEP).round().long()) % angles
        best = max(best, float(overlap[frame, angle].mean(dim=1).max()))
    return best


def _size(area: Tensor, shape: str, motion: str, stride: int) -> str:
    """The size whose mean radius over this motion has the nearest ratio."""
    first, last = {"grow": GROWTH, "shrink": GROWTH[::-1]}.get(motion, (1.0, 1.0))
    course = min(1.0, stride * (len(area) - 1) / (FULL_FRAMES - 1))
    factor = first + 0.5 * (last - first) * course
    radius = float((area / AREAS[shape]).sqrt().mean()) / factor
    return min(SIZES, key=lambda name: abs(math.log(radius / SIZES[name])))
