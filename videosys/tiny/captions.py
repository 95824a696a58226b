"""The captions of the procedural clips, and the closed list of words they are made of."""

from __future__ import annotations

import numpy as np

from videosys.tiny.clips import BACKGROUNDS, COLOURS, SHAPES, SIZES, TRANSLATIONS, ClipSpec

# Every motion has its own word: a small text encoder cannot tell captions apart by word order.
PHRASES: dict[str, str] = {
    **{motion: f"moves {motion}" for motion in TRANSLATIONS},
    "bounce": "bounces",
    "spin": "spins",
    "grow": "grows",
    "shrink": "shrinks",
    "still": "stays still",
}
TEMPLATES = (
    "a {size} {colour} {shape} {phrase} on {ground} background",
    "a {size} {colour} {shape} {phrase} on {ground} background.",
    "on {ground} background a {size} {colour} {shape} {phrase}",
    "a {size} {colour} {shape} on {ground} background {phrase}",
)
WORDS: tuple[str, ...] = tuple(
    dict.fromkeys(
        [
            "a",
            "an",
            "on",
            "background",
            *SHAPES,
            *COLOURS,
            *BACKGROUNDS,
            *SIZES,
            *" ".join(PHRASES.values()).split(),
        ]
    )
)


def caption(spec: ClipSpec, rng: np.random.Generator | None = None) -> str:
    """What the clip shows, in words of `WORDS`; the first template, or with `rng` any of them."""
    return caption_of(spec, 0 if rng is None else int(rng.integers(len(TEMPLATES))))


def caption_of(spec: ClipSpec, template: int) -> str:
    """What the clip shows, said by one of the `TEMPLATES`."""
    return TEMPLATES[template].format(
        size=spec.size,
        colour=spec.colour,
        shape=spec.shape,
        ground=f"an {spec.background}" if spec.background[0] in "aeiou" else f"a {spec.background}",
        phrase=PHRASES[spec.motion],
    )
