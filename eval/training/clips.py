"""Procedural clips of one moving shape, used to train and score the tiny checkpoints.

A clip is fully described by a `ClipSpec`. Motion is a function of time at `FPS` frames per second, so a clip
of 17 frames is the first half of the clip of 34 frames.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from videosys.tiny.words import PHRASES, SHAPES

FPS = 12
FULL_FRAMES = 34  # two 17-frame chunks; the duration of a complete motion

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (215, 15, 30),
    "green": (20, 165, 40),
    "blue": (40, 80, 250),
    "yellow": (255, 235, 0),
    "purple": (135, 30, 190),
    "orange": (255, 125, 0),
    "cyan": (0, 220, 235),
    "pink": (255, 125, 205),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (250, 250, 250),
    "black": (8, 8, 8),
    "grey": (128, 128, 128),
    "navy": (15, 20, 95),
    "cream": (240, 215, 165),
    "olive": (90, 90, 20),
}
SIZES: dict[str, float] = {"small": 9.0, "large": 13.5}  # radius in pixels of a 64-pixel frame
TRANSLATIONS: dict[str, tuple[int, int]] = {  # direction (x, y), y downwards
    "rightward": (1, 0),
    "leftward": (-1, 0),
    "upward": (0, -1),
    "downward": (0, 1),
}
MOTIONS = tuple(PHRASES)
ROUND_SHAPES = ("circle", "ring")  # a spin of these is invisible, so it is not used
HELD_OUT_PAIRS = frozenset({("red", "triangle"), ("blue", "cross"), ("green", "ring"), ("yellow", "square")})

# Extent and proportions of the shapes, in units of the radius.
EXTENTS = {"circle": 1.0, "square": 0.89, "triangle": 1.25, "ring": 1.15, "cross": 1.1}
SPIN_EXTENTS = {"square": 1.26, "triangle": 1.25, "cross": 1.16}
SYMMETRIES = {"square": math.pi / 2, "triangle": 2 * math.pi / 3, "cross": math.pi / 2}

BOUNCE_FRAMES = 17.0  # one fall and rise
SPIN_RATE = math.radians(6.0)  # a frame, clockwise
GROWTH = (0.72, 1.3)  # factor on the radius at the start and at the end
TRAVEL = 0.86  # share of the available distance that a translation uses; the rest is jitter of its start
_CENTRE = 31.5
_ALLOWED = {"shape": SHAPES, "colour": COLOURS, "background": BACKGROUNDS, "size": SIZES, "motion": MOTIONS}


@dataclass(frozen=True)
class ClipSpec:
    """One clip. The first five fields are in its caption; the others vary between clips with equal captions.

    phase: start within the motion, 0 to 1. x, y: position within the area that the motion allows, -1 to 1.
    """

    shape: str
    colour: str
    background: str
    size: str
    motion: str
    phase: float = 0.5
    x: float = 0.0
    y: float = 0.0

    def __post_init__(self) -> None:
        for name, values in _ALLOWED.items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name}={getattr(self, name)!r} is not one of {', '.join(values)}")
        if self.motion == "spin" and self.shape in ROUND_SHAPES:
            raise ValueError(f"motion='spin' is not visible with shape={self.shape!r}")

    @property
    def attributes(self) -> tuple[str, str, str, str, str]:
        """(shape, colour, background, size, motion): the attributes in a caption."""
        return self.shape, self.colour, self.background, self.size, self.motion

    @property
    def is_held_out(self) -> bool:
        """Whether the colour-shape pair is excluded from training."""
        return (self.colour, self.shape) in HELD_OUT_PAIRS


ATTRIBUTES = tuple(field.name for field in fields(ClipSpec))[:5]


def sample_spec(rng: np.random.Generator, held_out: bool | None = False) -> ClipSpec:
    """A random spec: of training pairs only (False), held-out pairs only (True), or any pair (None)."""
    pairs = [
        (colour, shape)
        for colour in COLOURS
        for shape in SHAPES
        if held_out is None or ((colour, shape) in HELD_OUT_PAIRS) == held_out
    ]
    colour, shape = pairs[rng.integers(len(pairs))]
    motions = [motion for motion in MOTIONS if motion != "spin" or shape not in ROUND_SHAPES]
    return ClipSpec(
        shape=shape,
        colour=colour,
        background=_choose(rng, BACKGROUNDS),
        size=_choose(rng, SIZES),
        motion=_choose(rng, motions),
        phase=float(rng.uniform()),
        x=float(rng.uniform(-1, 1)),
        y=float(rng.uniform(-1, 1)),
    )


def path(spec: ClipSpec, num_frames: int = FULL_FRAMES) -> np.ndarray:
    """float32 [T, 4]: centre x, centre y, radius in pixels of a 64-pixel frame; clockwise angle in radians.

    Translations and changes of size stop after `FULL_FRAMES` frames; bounce and spin continue.
    """
    frame = np.arange(num_frames, dtype=np.float64)
    progress = np.minimum(frame / (FULL_FRAMES - 1), 1.0)
    factor, angle = np.ones(num_frames), np.zeros(num_frames)
    if spec.motion in ("grow", "shrink"):
        first, last = GROWTH if spec.motion == "grow" else GROWTH[::-1]
        factor = first + (last - first) * progress
    if spec.motion == "spin":
        angle = spec.phase * SYMMETRIES[spec.shape] + SPIN_RATE * frame
    room = _room(spec)
    # Half of the area, so that an object without translation is not placed in a corner.
    x, y = (np.full(num_frames, 0.5 * place * room) for place in (spec.x, spec.y))
    if spec.motion in TRANSLATIONS:
        along = room * (2 * TRAVEL * progress + 2 * (1 - TRAVEL) * spec.phase - 1)
        dx, dy = TRANSLATIONS[spec.motion]
        x, y = (dx * along, y) if dx else (x, dy * along)
    if spec.motion == "bounce":
        beat = (frame / BOUNCE_FRAMES + spec.phase) % 1.0
        y = room * (0.6 + 0.4 * spec.y - 4 * beat * (1 - beat))  # parabolas above a floor that `spec.y` sets
    radius = SIZES[spec.size] * factor
    return np.stack([_CENTRE + x, _CENTRE + y, radius, angle], axis=-1).astype(np.float32)


def render(spec: ClipSpec, num_frames: int = FULL_FRAMES, size: int = 64) -> Tensor:
    """float32 [3, T, size, size] in [-1, 1], anti-aliased."""
    return render_batch([spec], num_frames, size)[0]


def render_batch(
    specs: Sequence[ClipSpec],
    num_frames: int = FULL_FRAMES,
    size: int = 64,
    device: str | torch.device = "cpu",
) -> Tensor:
    """float32 [B, 3, T, size, size] in [-1, 1] on `device`: the clips of `render`, drawn together.

    For a GPU. A CPU is faster clip by clip, because one clip fits into its cache.
    """
    paths = torch.from_numpy(np.stack([path(spec, num_frames) for spec in specs])).to(device)
    alpha = coverage([spec.shape for spec in specs], paths, size)[:, None]
    ground = _rgb([BACKGROUNDS[spec.background] for spec in specs], device)
    paint = _rgb([COLOURS[spec.colour] for spec in specs], device)
    # One object per clip. For more objects, blend each one's coverage over the previous result.
    return ground + alpha * (paint - ground)


def coverage(shapes: Sequence[str], paths: Tensor, size: int = 64) -> Tensor:
    """float32 [B, T, size, size] in [0, 1]: the share of each pixel that shape b covers on its `path` [B,
    T, 4].
    """
    scale = size / 64
    x, y, radius, angle = (paths[..., i, None, None] for i in range(4))
    pixel = (torch.arange(size, device=paths.device) + 0.5) / scale - 0.5
    right, down = pixel - x, pixel[:, None] - y  # [B, T, 1, size], [B, T, size, 1]
    sin, cos = torch.sin(angle), torch.cos(angle)
    distance = torch.empty(*paths.shape[:2], size, size, device=paths.device)
    for shape in set(shapes):
        rows = torch.tensor([i for i, name in enumerate(shapes) if name == shape], device=paths.device)
        u = cos[rows] * right[rows] + sin[rows] * down[rows]
        v = cos[rows] * down[rows] - sin[rows] * right[rows]
        distance[rows] = _DISTANCES[shape](u, v, radius[rows])
    return (0.5 - distance * scale).clamp_(0.0, 1.0)


def to_uint8(clip: Tensor) -> Tensor:
    """uint8 [..., T, H, W, 3] of float frames [..., 3, T, H, W] in [-1, 1], rounded to the nearest."""
    return ((clip.clamp(-1, 1) + 1) * 127.5 + 0.5).to(torch.uint8).movedim(-4, -1)


def _circle(u: Tensor, v: Tensor, radius: Tensor) -> Tensor:
    return torch.sqrt(u * u + v * v) - radius


def _square(u: Tensor, v: Tensor, radius: Tensor) -> Tensor:
    return _box(u.abs(), v.abs(), 0.89 * radius, 0.89 * radius)


def _triangle(u: Tensor, v: Tensor, radius: Tensor) -> Tensor:
    # Equilateral, one corner up: its three sides are half the circumradius (1.25) from the centre.
    sides = torch.maximum(math.sqrt(0.75) * u.abs() - 0.5 * v, v)
    return sides - 0.625 * radius


def _ring(u: Tensor, v: Tensor, radius: Tensor) -> Tensor:
    return (torch.sqrt(u * u + v * v) - 0.9 * radius).abs() - 0.24 * radius


def _cross(u: Tensor, v: Tensor, radius: Tensor) -> Tensor:
    u, v, arm, half = u.abs(), v.abs(), 1.1 * radius, 0.36 * radius
    return torch.minimum(_box(u, v, arm, half), _box(u, v, half, arm))


def _box(u: Tensor, v: Tensor, half_width: Tensor, half_height: Tensor) -> Tensor:
    return torch.maximum(u - half_width, v - half_height)


_DISTANCES = {"circle": _circle, "square": _square, "triangle": _triangle, "ring": _ring, "cross": _cross}


def _room(spec: ClipSpec) -> float:
    """Maximum distance in pixels of the centre from the middle, so that the largest object stays inside."""
    reach = SPIN_EXTENTS[spec.shape] if spec.motion == "spin" else EXTENTS[spec.shape]
    if spec.motion in ("grow", "shrink"):
        reach *= max(GROWTH)
    return _CENTRE - 1.0 - reach * SIZES[spec.size]


def _rgb(colours: Sequence[tuple[int, int, int]], device: str | torch.device) -> Tensor:
    return torch.tensor(colours, dtype=torch.float32, device=device)[..., None, None, None] / 127.5 - 1


def _choose(rng: np.random.Generator, values: Sequence[str] | dict) -> str:
    return list(values)[rng.integers(len(values))]
