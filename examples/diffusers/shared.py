"""Shared by the examples with diffusers: calibrates a pipeline once, then generates with a cache."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from videosys import CommandParser, run_command, save_video
from videosys.diffusers import KNOWN, Known, cached, calibrate


def main(name: str, argv: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 2 with one error line. name: of a pipeline in `KNOWN`."""
    known = KNOWN[name]
    arguments = CommandParser(description=f"{name} with a cache of videosys")
    add = arguments.add_argument
    add("--tiny", action="store_true", help="a tiny model, in seconds on a CPU")
    add("--prompt", help=f"default: {known.prompts[0]}; with --tiny: {known.tiny.prompts[0]}")
    add("--speedup", type=float, default=2.0, help="calls of the model divided by computed ones")
    add("--steps", type=int, help="of the scheduler")
    add("--calibration", type=Path, help="a calibration file; created if it does not exist")
    add("--output", type=Path, default=Path("outputs"), help="folder of the video and of the calibration")
    return run_command(arguments, partial(run, name, known), argv, "interrupted")


def run(name: str, known: Known, args: argparse.Namespace) -> int:
    """Calibrates if there is no calibration yet, and generates one video."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    source = known.tiny if args.tiny else known
    check(args)
    pipe, call = source.built(), dict(source.call)
    call["num_inference_steps"] = args.steps or call["num_inference_steps"]
    calibration: Any = args.calibration or (None if args.steps else bundled(known, args))
    if calibration is None or not calibration.exists():
        prompts = [source.arguments(text) for text in source.prompts]
        calibration = calibrate(pipe, prompts, out=calibration or args.output / f"{name}.json", **call)
    with cached(pipe, calibration, speedup=args.speedup) as made:
        prompt = source.arguments(args.prompt or source.prompts[0])
        result = pipe(**prompt, **call, generator=torch.Generator().manual_seed(0))
    print(made.report())
    save(result[0], args.output / f"{name}.mp4", known.fps)
    return 0


def check(args: argparse.Namespace) -> None:
    """ValueError for a speed-up or a number of steps that no calibration can have."""
    if not args.speedup >= 1:
        raise ValueError(f"--speedup is {args.speedup:g}; it must be 1 or more")
    if args.steps is not None and args.steps < 1:
        raise ValueError(f"--steps is {args.steps}; it must be 1 or more")


def bundled(known: Known, args: argparse.Namespace) -> Path | None:
    """The bundled calibration of a tiny model, if there is one."""
    path = known.tiny.calibration if args.tiny else None
    return path if path is not None and path.is_file() else None


def save(result: Any, path: Path, fps: int) -> None:
    """Saves the first video; for latents, prints their shape only."""
    if isinstance(result, torch.Tensor):
        print(f"latents {list(result.shape)}")
        return
    frames = np.stack([np.asarray(frame) for frame in result[0]])
    if frames.dtype != np.uint8:
        frames = (255 * frames).round().astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    print(save_video(frames, path, fps=fps))


def script(name: str) -> None:
    """Runs an example and ends the process with its exit status."""
    sys.exit(main(name))
