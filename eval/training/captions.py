"""The captions of the procedural clips."""

from __future__ import annotations

import numpy as np

from eval.training.clips import ClipSpec
from videosys.tiny.words import PHRASES, TEMPLATES


def caption(spec: ClipSpec, rng: np.random.Generator | None = None) -> str:
    """The caption of a clip with the first of the `TEMPLATES`, or with `rng` a random one."""
    return caption_of(spec, 0 if rng is None else int(rng.integers(len(TEMPLATES))))


def caption_of(spec: ClipSpec, template: int) -> str:
    """The caption of a clip with one of the `TEMPLATES`."""
    return TEMPLATES[template].format(
        size=spec.size,
        colour=spec.colour,
        shape=spec.shape,
        ground=f"an {spec.background}" if spec.background[0] in "aeiou" else f"a {spec.background}",
        phrase=PHRASES[spec.motion],
    )
