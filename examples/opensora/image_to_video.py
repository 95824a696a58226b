"""Continues an image: python examples/opensora/image_to_video.py [image=FILE] [at=first|last] [key=value ...]

The image becomes the first (at=first) or last (at=last) latent frame of the clip and is not changed. A last
latent frame is four video frames. All other arguments are those of sample.py.
"""

from __future__ import annotations

from videosys import leave_at_interrupt

if __name__ == "__main__":
    leave_at_interrupt()

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import sample

from videosys import FAMILIES

common = sample.common
IMAGE = Path(__file__).resolve().parent / "first_frame.png"
PROMPT = "a large blue square moves rightward on a white background"
# Mask strategies: loop, reference, start in the reference, target in the clip, length, strength.
STRATEGIES = {"first": "0,0,0,0,1,0", "last": "0,0,0,-1,1,0"}


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    image, at = take(arguments, "image", str(IMAGE)), take(arguments, "at", "first")
    if at not in STRATEGIES:
        print(f"error: at={at}: must be one of {', '.join(STRATEGIES)}", file=sys.stderr)
        return 2
    if not image.strip():
        print("error: image= is empty; it must be an image file", file=sys.stderr)
        return 2
    if not any(argument.startswith(("prompt=", "prompts=")) for argument in arguments):
        arguments.append(f"prompt={PROMPT}")
    paths, strategy = json.dumps([image]), STRATEGIES[at]
    # align=null: the last frame does not start a chunk of the VAE, and must not be moved to one that does.
    more = [f"reference_paths={paths}", f"mask_strategy={strategy}", "align=null"]
    return common.main(common.Example(FAMILIES["opensora"], sample.HERE, __doc__), [*arguments, *more])


def take(arguments: list[str], name: str, default: str) -> str:
    """The value of `name=value`, removed from the arguments."""
    found = [argument for argument in arguments if argument.startswith(f"{name}=")]
    for argument in found:
        arguments.remove(argument)
    return found[-1].partition("=")[2] if found else default


if __name__ == "__main__":
    sys.exit(main())
