"""What the examples with diffusers share: calibrate a pipeline once, then generate with a cache."""

from __future__ import annotations

import argparse
import inspect
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from videosys import CommandParser, run_command, save_video
from videosys.diffusers import cached, calibrate

PROMPTS = (
    "a cat plays the piano in a sunny room",
    "waves break on a rocky shore at dusk",
    "a train crosses a bridge in the fog",
)
TINY_CALL = MappingProxyType(
    {"num_inference_steps": 10, "height": 32, "width": 32, "num_frames": 9, "output_type": "latent"}
)


@dataclass(frozen=True)
class Tiny:
    """A pipeline with a tiny random transformer and nothing else: classes of diffusers, and their settings.

    texts: the embeddings that stand for a prompt, as name -> shape. call: what differs from TINY_CALL.
    """

    pipeline: str
    transformer: str
    sizes: Mapping[str, Any]
    scheduler: str
    texts: Mapping[str, tuple[int, ...]]
    settings: Mapping[str, Any] = field(default_factory=dict)  # of the scheduler
    call: Mapping[str, Any] = field(default_factory=dict)
    prompts: Sequence[str] = PROMPTS
    calibration: Path | None = None

    def built(self) -> Any:
        """The pipeline, with the same weights each time."""
        import diffusers

        torch.manual_seed(0)
        cls = getattr(diffusers, self.pipeline)
        parts = dict.fromkeys(name for name in inspect.signature(cls.__init__).parameters if name != "self")
        parts["transformer"] = getattr(diffusers, self.transformer)(**self.sizes).eval()
        parts["scheduler"] = getattr(diffusers, self.scheduler)(**self.settings)
        pipe = cls(**parts)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def generation(self) -> dict[str, Any]:
        """Arguments of all generations."""
        return {**TINY_CALL, **self.call}

    def arguments(self, prompt: str) -> dict[str, Any]:
        """Random embeddings, the same for the same prompt; masks show all of them."""
        source = torch.Generator().manual_seed(sum(prompt.encode()))
        return {
            name: torch.ones(shape) if "mask" in name else torch.randn(shape, generator=source)
            for name, shape in self.texts.items()
        }


@dataclass(frozen=True)
class Trained:
    """A tiny trained pipeline that comes with the package.

    calibration: its file, which is made where it is missing.
    """

    built: Callable[[], Any]
    call: Mapping[str, Any]
    prompts: Sequence[str]
    calibration: Path

    def generation(self) -> dict[str, Any]:
        """Arguments of all generations."""
        return dict(self.call)

    def arguments(self, prompt: str) -> dict[str, Any]:
        """Those of one."""
        return {"prompt": prompt}


@dataclass(frozen=True)
class Example:
    """A pipeline with its published weights, and the tiny one that runs on a CPU.

    call: arguments of all generations with the published weights; fps: of their videos.
    """

    name: str
    published: Callable[[], Any]
    call: Mapping[str, Any]
    tiny: Tiny | Trained
    fps: int


def main(example: Example, argv: Sequence[str] | None = None) -> int:
    """The exit status: 0, or 2 with one line where something cannot be."""
    arguments = CommandParser(description=f"{example.name} with a cache of videosys")
    add = arguments.add_argument
    add("--tiny", action="store_true", help="a tiny model, in seconds on a CPU")
    add("--prompt", help=f"otherwise: {PROMPTS[0]}; with --tiny: {example.tiny.prompts[0]}")
    add("--speedup", type=float, default=2.0, help="the speedup: calls of the model divided by computed ones")
    add("--steps", type=int, help="of the scheduler")
    add("--calibration", type=Path, help="a calibration file; created if it does not exist")
    add("--output", type=Path, default=Path("outputs"), help="folder of the video and of the calibration")
    return run_command(arguments, partial(run, example), argv, "interrupted")


def run(example: Example, args: argparse.Namespace) -> int:
    """Calibrates unless a calibration is there, and generates one video."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    tiny, prompts = example.tiny, example.tiny.prompts if args.tiny else PROMPTS
    pipe = tiny.built() if args.tiny else example.published()
    call = tiny.generation() if args.tiny else dict(example.call)
    call["num_inference_steps"] = args.steps or call["num_inference_steps"]

    def arguments_of(text: str) -> Any:
        return tiny.arguments(text) if args.tiny else {"prompt": text}

    known = tiny.calibration if args.tiny and not args.steps else None
    calibration: Any = args.calibration or (known if known and known.is_file() else None)
    if calibration is None:
        out = args.output / f"{example.name}.json"
        calibration = calibrate(pipe, [arguments_of(text) for text in prompts], out=out, **call)
    with cached(pipe, calibration, speedup=args.speedup) as made:
        generator = torch.Generator().manual_seed(0)
        result = pipe(**arguments_of(args.prompt or prompts[0]), **call, generator=generator)
    print(made.report())
    save(result[0], args.output / f"{example.name}.mp4", example.fps)
    return 0


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


def device() -> str:
    """Where the published models run."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def script(example: Example) -> None:
    """Ends the process with the example's status."""
    sys.exit(main(example))
