"""A training loop that can be killed and resumed: stages with a budget in minutes, and state on disk."""

from __future__ import annotations

import argparse
import copy
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from eval.training.factors import add_factors

WARM_UP_STEPS = 40


def save_state(path: str | Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values to `path` atomically: it contains either the old state or the new
    one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        torch.save(state, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load_state(path: str | Path) -> dict[str, Any] | None:
    """The last saved state, or None. Code in the file is not executed."""
    path = Path(path)
    return torch.load(path, map_location="cpu", weights_only=True) if path.exists() else None


def settings_of(args: argparse.Namespace) -> dict[str, str]:
    """The arguments that affect the result of a run: all except paths and durations."""
    decides = {name: value for name, value in vars(args).items() if name not in ("out", "steps")}
    return {name: str(value) for name, value in decides.items() if not name.endswith("minutes")}


def add_run_options(parser: argparse.ArgumentParser, batch_size: int) -> None:
    """Add the shared arguments of stages that train a transformer on shards of latents. batch_size:
    default.
    """
    add = parser.add_argument
    add("--latents", type=Path, required=True, help="folder of the latents stage")
    add("--text-encoder", default="bundled:opensora")
    add("--out", type=Path, required=True, help="folder for checkpoints and the export")
    add("--minutes", type=float, default=90.0)
    add("--steps", type=int, help="stop after this number of steps")
    add("--rate", type=float, default=1.0, help="factor on the default learning rate; use less to continue")
    add("--batch-size", type=int, default=batch_size)
    add_factors(parser)


def check_settings(path: Path, kept: Mapping[str, str], current: Mapping[str, str]) -> None:
    """ValueError if a state belongs to a run with other arguments."""
    others = [name for name in sorted(kept.keys() & current.keys()) if kept[name] != current[name]]
    if others:
        differences = ", ".join(f"{name} {kept[name]} (now {current[name]})" for name in others)
        raise ValueError(f"{path} is from a run with {differences}; use the same arguments or another --out")


@dataclass
class Timer:
    """Is due once every `seconds`, for logs, checkpoints and evaluations."""

    seconds: float
    last: float = field(default_factory=time.monotonic)

    def due(self) -> bool:
        now = time.monotonic()
        if now - self.last < self.seconds:
            return False
        self.last = now
        return True


def learning_rate(peak: float, progress: float, step: int) -> float:
    """The learning rate: a short warm-up, then cosine decay from `peak` to a fiftieth of it."""
    low = peak / 50
    cosine = low + (peak - low) * 0.5 * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))
    return cosine * min(1.0, (step + 1) / WARM_UP_STEPS)


@dataclass(frozen=True)
class Stage:
    """One part of a training: trainable parameters, duration (minutes, or `steps` if set) and loss.

    loss(model, step): a scalar whose randomness depends only on `step`, so that a resumed run draws nothing
    twice. evaluate(model): a figure to maximize, on the averaged weights. improved(model, figure): called for
    a new best.
    """

    name: str
    minutes: float
    peak: float
    parameters: Callable[[nn.Module], Iterable[nn.Parameter]]
    loss: Callable[[nn.Module, int], Tensor]
    evaluate: Callable[[nn.Module], float]
    improved: Callable[[nn.Module, float], None] = lambda model, figure: None
    optimizer: Callable[[nn.Module], Any] | None = (
        None  # for parameters that require gradients; AdamW if None
    )
    steps: int | None = None

    def progress(self, step: int, seconds: float) -> float:
        """The completed share; 1 at the end."""
        done, whole = (seconds, 60 * self.minutes) if self.steps is None else (step, self.steps)
        return done / whole if whole > 0 else 1.0


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.99), weight_decay=1e-4)


class Trainer:
    """Runs stages on `model`. `folder` has one file per finished stage and one for the running stage.

    settings: as in `settings_of`; ValueError if those of the folder differ.
    """

    def __init__(
        self,
        model: nn.Module,
        folder: str | Path,
        decay: float = 0.995,
        every: float = 60.0,
        settings: Mapping[str, str] | None = None,
    ):
        self.model = model
        self.folder = Path(folder)
        self.decay = decay
        self.every = every  # seconds between checkpoints, and between evaluations
        self.settings = dict(settings or {})

    def run(self, stage: Stage) -> None:
        """Train the stage, or load its result if finished. The model then has the averaged weights."""
        path = self.folder / f"{stage.name}.pt"
        finished = self.load(path)
        if finished is not None:
            say(f"{stage.name}: already finished, using {path}; choose another --out to train again")
            self.model.load_state_dict(finished["model"])
            return
        average = StageRun(self, stage).train()
        self.model.load_state_dict(average.state_dict())
        self.save(path, {"model": self.model.state_dict()})

    def load(self, path: Path) -> dict[str, Any] | None:
        state = load_state(path)
        if state is not None:
            check_settings(path, state.get("settings", {}), self.settings)
        return state

    def save(self, path: Path, state: dict[str, Any]) -> None:
        save_state(path, {**state, "settings": self.settings})


class StageRun:
    """The state of one stage: weights, their running average, optimizer, step, seconds and best figure."""

    def __init__(self, trainer: Trainer, stage: Stage):
        self.trainer, self.stage, self.model = trainer, stage, trainer.model
        self.path = trainer.folder / "running.pt"
        self.parameters = list(stage.parameters(self.model))
        self.model.requires_grad_(False)
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.optimizer = (stage.optimizer or adamw)(self.model)
        self.step, self.seconds, self.best = 0, 0.0, -math.inf
        self.resume()

    def resume(self) -> None:
        state = self.trainer.load(self.path)
        if state is None or state["stage"] != self.stage.name:
            return
        for name in ("model", "average", "optimizer"):
            getattr(self, name).load_state_dict(state[name])
        self.step, self.seconds, self.best = state["step"], state["seconds"], state["best"]
        self.say("resumed")

    def save(self) -> None:
        state = {name: getattr(self, name).state_dict() for name in ("model", "average", "optimizer")}
        state |= {"stage": self.stage.name, "step": self.step, "seconds": self.seconds, "best": self.best}
        self.trainer.save(self.path, state)

    def train(self) -> nn.Module:
        """Train for the stage's minutes or steps; return the model with averaged weights."""
        if self.step == 0:
            self.evaluate()  # the initial best figure
        log, check = Timer(20.0), Timer(self.trainer.every)
        losses: list[float] = []
        while self.progress < 1:
            start = time.monotonic()
            losses.append(self.advance())
            self.seconds += time.monotonic() - start
            if log.due():
                self.say(f"loss {sum(losses) / len(losses):.4f}")
                losses.clear()
            if check.due():
                self.evaluate()
                self.save()
        self.evaluate()
        return self.average

    @property
    def progress(self) -> float:
        return self.stage.progress(self.step, self.seconds)

    def advance(self) -> float:
        rate = learning_rate(self.stage.peak, self.progress, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("scale", 1.0)
        loss = self.stage.loss(self.model, self.step)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.step += 1
        self.update_average()
        return loss.item()

    def update_average(self) -> None:
        weight = 1 - min(self.trainer.decay, self.step / (self.step + 10))  # short memory at first
        with torch.no_grad():
            for mean, value in zip(self.average.parameters(), self.model.parameters(), strict=True):
                if value.requires_grad:
                    mean.lerp_(value, weight)

    def evaluate(self) -> None:
        figure = self.stage.evaluate(self.average)
        self.say(f"held-out {figure:.2f} (best {self.best:.2f})")
        if figure > self.best:
            self.best = figure
            self.stage.improved(self.average, figure)

    def say(self, text: str) -> None:
        say(f"{self.stage.name}: step {self.step} {self.seconds:.0f} s {text}")


def say(text: str) -> None:
    """Print a log line without buffering."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)
