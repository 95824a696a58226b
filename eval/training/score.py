"""Score how well a tiny checkpoint follows prompts: `python -m eval.training.score [--model opensora] [...]`.

Generates a clip for each of the 60 fixed captions through the public API, detects its attributes and prints
the share of correct ones, separately for seen and for held-out colour-shape pairs.
"""

from __future__ import annotations

from videosys import leave_at_interrupt

if __name__ == "__main__":
    leave_at_interrupt()

import argparse
import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eval.training.clips import ATTRIBUTES, FPS, ClipSpec
from eval.training.detect import Detection, detect
from eval.training.recipes import RECIPES
from eval.training.scored import scored
from eval.training.sheet import contact_sheet, save_gif
from videosys import CommandParser, VideoSysEngine, config_to_dict, load_config, replacing, run_command, tiny
from videosys.diffusers import TINY_WAN_CALL, tiny_wan

WAN = "wan"  # a diffusers pipeline; the others are bundled checkpoints of this package's models
NEEDED = ("background", "colour", "shape", "motion")  # required for "all"; size has a separate column
GIF_CLIPS = 4
COLUMNS = (*NEEDED, "all", "size")


def score_videos(videos: Iterable[Tensor], specs: Sequence[ClipSpec], stride: int = 1) -> dict[str, Any]:
    """Shares of correct attributes of uint8 videos [T, H, W, 3], with `specs` as ground truth. stride: as in
    `detect`.

    {"seen": {"count", "background", "colour", "shape", "motion", "all", "size"}, "held_out": the same,
    "clips": [{"expected", "detected", "right"}]}. A group without clips has count 0 and no shares.
    """
    clips = []
    for video, spec in zip(videos, specs, strict=True):
        detection = detect(video, stride)
        expected = {name: getattr(spec, name) for name in ATTRIBUTES}
        right = verdicts(spec, detection)
        clips.append({"expected": expected, "detected": asdict(detection), "right": right})
    held = [clip["right"] for clip, spec in zip(clips, specs, strict=True) if spec.is_held_out]
    seen = [clip["right"] for clip, spec in zip(clips, specs, strict=True) if not spec.is_held_out]
    return {"seen": _shares(seen), "held_out": _shares(held), "clips": clips}


def verdicts(spec: ClipSpec, detection: Detection) -> dict[str, bool]:
    """Whether each column is correct; "all" requires background, colour, shape and motion."""
    right = {name: getattr(detection, name) == getattr(spec, name) for name in (*NEEDED, "size")}
    right["all"] = all(right[name] for name in NEEDED)
    return {name: right[name] for name in COLUMNS}


def table(report: dict[str, Any]) -> str:
    """The shares as text, with one line for seen and one for held-out pairs."""
    lines = ["pairs".ljust(10) + "clips".rjust(6) + "".join(name.rjust(12) for name in COLUMNS)]
    for group in ("seen", "held_out"):
        shares = report[group]
        cells = (f"{shares[name]:.2f}" if name in shares else "-" for name in COLUMNS)
        label = group.replace("_", "-").ljust(10)
        lines.append(label + f"{shares['count']:6d}" + "".join(cell.rjust(12) for cell in cells))
    return "\n".join(lines)


def tiny_config(model: str, overrides: Sequence[str] = ()) -> Any:
    """The config of a bundled checkpoint, with key=value overrides as in `load_config`."""
    base = tiny.config(model)
    return load_config(type(base), config_to_dict(base), overrides) if overrides else base


def generate(config: Any, captions: Sequence[str]) -> Iterator[Tensor]:
    """Yield the uint8 video [T, H, W, 3] of each caption; caption i uses the config's seed (or 0) plus i."""
    first = config.seed or 0
    with VideoSysEngine(config, quiet=True) as engine:
        for i, caption in enumerate(captions):
            yield engine.generate(caption, seed=first + i).video[0]
            print(f"\r{i + 1} of {len(captions)} clips", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)


def generate_wan(overrides: Sequence[str], captions: Sequence[str]) -> Iterator[Tensor]:
    """Like `generate`, for the tiny Wan. overrides: transformer=FOLDER, and arguments of the pipeline's
    call.
    """
    changes = dict(text.split("=", 1) for text in overrides)
    folder = {name: changes.pop(name) for name in ("transformer",) if name in changes}
    call = {**TINY_WAN_CALL, **{name: json.loads(value) for name, value in changes.items()}}
    pipe = tiny_wan(**folder)
    for i, caption in enumerate(captions):
        frames = pipe(caption, **call, generator=torch.Generator().manual_seed(i)).frames[0]
        yield torch.from_numpy(frames).mul(255).round().to(torch.uint8)
        print(f"\r{i + 1} of {len(captions)} clips", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Generate, score and print the table. Exit status 2 for wrong arguments."""
    return run_command(_parser(), run, argv)


def run(args: argparse.Namespace) -> int:
    """Generate, score and print the table. ValueError for wrong arguments."""
    captions, specs = zip(*scored()[: args.limit], strict=True)
    config = None if args.model == WAN else tiny_config(args.model, args.overrides)
    start = time.perf_counter()
    made = generate_wan(args.overrides, captions) if config is None else generate(config, captions)
    videos = list(made)
    seconds = round(time.perf_counter() - start, 1)
    stride = 1 if config is None else RECIPES[args.model].stride
    report = {**score_videos(videos, specs, stride), "seconds": seconds}
    for caption, clip in zip(captions, report["clips"], strict=True):
        clip["caption"] = caption
    print(table(report))
    print(f"{len(captions)} clips in {seconds} s")
    if args.sheet:
        contact_sheet(videos, captions, args.sheet)
    if args.gif:
        save_gif(videos[:GIF_CLIPS], args.gif, fps=config.fps if config else FPS)
    if args.out:
        _write({"model": args.model, "overrides": args.overrides, **report}, args.out)
    return 0


def _parser() -> CommandParser:
    parser = CommandParser(prog="python -m eval.training.score", description=__doc__)
    parser.add_argument(
        "--model", default=tiny.bundled()[0], help=f"name of the bundled checkpoint, or {WAN}"
    )
    parser.add_argument("--limit", type=_positive, help="score the first N captions; every fifth is held out")
    parser.add_argument("--sheet", type=Path, help="write a PNG file with frames of all clips")
    parser.add_argument("--gif", type=Path, help=f"write a GIF of the first {GIF_CLIPS} clips side by side")
    parser.add_argument(
        "--set", dest="overrides", nargs="+", default=[], metavar="KEY=VALUE", help="config overrides"
    )
    parser.add_argument(
        "--out", type=Path, help="write a JSON file with the shares and the verdict of each clip"
    )
    return parser


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def _shares(rows: Sequence[dict[str, bool]]) -> dict[str, float]:
    if not rows:
        return {"count": 0}
    return {"count": len(rows), **{name: sum(row[name] for row in rows) / len(rows) for name in COLUMNS}}


def _write(report: dict[str, Any], path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
