"""Record full runs: how signals and output change per step, and what reuse would have predicted."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from videosys.cache.base import STACK, Place
from videosys.cache.record import PrecomputedResidual, SignalRecorder, relative_change
from videosys.calibration.runs import Clips, Model
from videosys.generation.denoise import Observer, Sampling, guide
from videosys.utils.devices import in_float64
from videosys.utils.files import replacing

# Signals to plot and fit, named as in the paper; the first three are available before the blocks run.
SIGNALS = ("timestep_embedding", "noisy_input", "modulated_input")
SIGNAL_NAMES = {
    "timestep": "timestep_embedding",
    "modulated": "modulated_input",
}  # model's name -> paper's name
WATCHED = "modulated_input"  # the signal that TeaCache uses
WINDOW = 20  # how many steps back residuals are tried
SAMPLES = 1024  # elements of each prediction that are kept
PATH = ("samples", "predictions")  # optional tensors of a trace


@dataclass(frozen=True)
class Trace:
    """The full run of one prompt.

    distances: relative L1 change from the previous step, starting at step 1, of SIGNALS, `residual` and
        `output` (the prediction of the guidance pair). ratios: of residual norms, see `SignalRecorder`.
    reused [steps, WINDOW + 1, SAMPLES]: elements of the guided prediction with the residual of 0, 1, ...
        WINDOW steps ago; nan if no such step exists. None if residuals were not tried.
    samples, predictions [steps, C, T, H, W]: the model's inputs and guided predictions; None if residuals
        were tried.
    """

    distances: dict[str, list[float]]
    reused: torch.Tensor | None
    latents: torch.Tensor
    ratios: list[float]
    samples: torch.Tensor | None = None
    predictions: torch.Tensor | None = None

    @property
    def tried(self) -> torch.Tensor:
        """`reused`; only valid if residuals were tried."""
        assert self.reused is not None
        return self.reused

    def save(self, path: Path) -> None:
        """Writes the trace to a safetensors file, atomically."""
        named = {name: getattr(self, name) for name in ("reused", "latents", *PATH)}
        tensors = {name: value.cpu().contiguous() for name, value in named.items() if value is not None}
        with replacing(path) as temporary:
            about = {name: json.dumps(getattr(self, name)) for name in ("distances", "ratios")}
            save_file(tensors, temporary, about)

    @classmethod
    def load(cls, path: Path) -> Trace:
        """The trace in a file written by `save`; OSError if it does not exist."""
        with safe_open(path, framework="pt") as file:
            distances, ratios = (json.loads(file.metadata()[name]) for name in ("distances", "ratios"))
            names = set(file.keys())
            reused, *steps = (file.get_tensor(name) if name in names else None for name in ("reused", *PATH))
            return cls(distances, reused, file.get_tensor("latents"), ratios, *steps)


def mean_columns(rows: Iterable[Sequence[float]]) -> list[float]:
    """The mean of each column, such as of each step over the prompts."""
    return [statistics.fmean(values) for values in zip(*rows)]


def trace(clip: Clips, kept: Place = STACK) -> Trace:
    """The trace of one prompt, a full run.

    kept: "stack" also evaluates each step with earlier residuals. "output" needs only the predictions, so the
    run costs no more than a normal one.
    """
    changes = ChangeObserver()
    request = clip.pipeline.denoising(clip.jobs, clip.texts, clip.config)
    is_probed = kept == STACK
    recorder = SignalRecorder(tuple(SIGNAL_NAMES), window=WINDOW if is_probed else 1)
    probe = ReuseProbe(recorder, request.sampling, request.latents.shape[1])
    path = PathObserver(changes, request.sampling, request.scheduler)
    if is_probed:
        run = clip.run(lambda times: recorder, observer=changes, around=probe.around)
    else:
        run = clip.run(lambda times: recorder, observer=path, sampler=request.scheduler)
    distances = {SIGNAL_NAMES.get(kind, kind): values for kind, values in recorder.distances.items()}
    distances.update(changes.distances)
    if is_probed:
        return Trace(distances, probe.stacked(), run.latents, recorder.ratios)
    samples, predictions = (torch.cat(rows) for rows in (path.samples, path.predictions))
    return Trace(distances, None, run.latents, recorder.ratios, samples, predictions)


class PathObserver:
    """An observer of `denoise` that keeps the model's inputs and the guided predictions.

    changes: another observer, which is called first.
    """

    def __init__(self, changes: Observer, sampling: Sampling, scheduler: Any):
        self.changes, self.sampling, self.scheduler = changes, sampling, scheduler
        self.samples: list[torch.Tensor] = []
        self.predictions: list[torch.Tensor] = []

    def __call__(self, step: int, timestep: float, latents: torch.Tensor, noise_pred: torch.Tensor) -> None:
        self.changes(step, timestep, latents, noise_pred)
        at = self.scheduler.timesteps[step]
        # To the host at once: all steps of a large video would not fit on a device.
        self.samples.append(self.scheduler.scale_model_input(latents, at).to("cpu", copy=True))
        self.predictions.append(guide(noise_pred, self.sampling).to("cpu", copy=True))


class ChangeObserver:
    """An observer of `denoise` that records the relative L1 change per step of the latents and of the pair's
    prediction.
    """

    def __init__(self) -> None:
        self.distances: dict[str, list[float]] = {"noisy_input": [], "output": []}
        self._previous: dict[str, torch.Tensor] = {}

    def __call__(self, step: int, timestep: float, latents: torch.Tensor, noise_pred: torch.Tensor) -> None:
        for name, current in (("noisy_input", latents), ("output", noise_pred)):
            previous, self._previous[name] = self._previous.get(name), current
            if previous is not None:
                self.distances[name].append(relative_change(current, previous))


class ReuseProbe:
    """Wraps a model so that each step is also evaluated with the residuals of earlier steps."""

    def __init__(self, recorder: SignalRecorder, sampling: Sampling, channels: int):
        self.recorder, self.sampling, self.channels = recorder, sampling, channels
        self.rows: list[torch.Tensor] = []

    def around(self, model: Model) -> Model:
        """Wrap the model: it also predicts from each kept residual and records samples of all predictions."""

        def probed(pair: torch.Tensor, timesteps: torch.Tensor, condition: Any, cache: Any) -> torch.Tensor:
            caches = [cache, *(PrecomputedResidual(residual) for _, residual in self.recorder.residuals)]
            predictions = [model(pair, timesteps, condition, each) for each in caches]
            self.rows.append(torch.stack([self._sampled(item) for item in predictions]))
            return predictions[0]

        return probed

    def _sampled(self, output: torch.Tensor) -> torch.Tensor:
        guided = guide(output[:, : self.channels], self.sampling).float().flatten()
        places = torch.linspace(0, guided.numel() - 1, min(SAMPLES, guided.numel()), device="cpu").long()
        return guided[places.to(guided.device)].cpu()

    def stacked(self) -> torch.Tensor:
        """[steps, WINDOW + 1, samples]; nan where a step has no earlier step that far back."""
        table = torch.full((len(self.rows), WINDOW + 1, self.rows[0].shape[1]), float("nan"), device="cpu")
        for step, row in enumerate(self.rows):
            table[step, : len(row)] = row
        return table


def sensitivity(clips: Clips, traces: Sequence[Trace], step: int) -> float:
    """The ratio of the error of the final latents to the error of one step's prediction.

    Only this step reuses the previous residual. The value is the RMS change of the final latents divided by
    the RMS change of the prediction, as the geometric mean over the prompts.
    """
    cache = SkipOne(step)
    run = clips.run(lambda times: cache)
    latent_error = rms(run.latents.cpu() - torch.cat([item.latents for item in traces]))
    prediction_error = torch.cat([rms((item.tried[step, 1] - item.tried[step, 0])[None]) for item in traces])
    return float((latent_error / prediction_error.clamp(min=1e-12)).clamp(min=1e-12).log().mean().exp())


class SkipOne(SignalRecorder):
    """Computes all steps except one, which reuses the residual of the previous step."""

    def __init__(self, skipped: int):
        super().__init__(kinds=())
        self.skipped = skipped

    def should_compute(self, signal: Any) -> bool:
        return super().should_compute(signal) and self.step != self.skipped

    def reuse(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.residuals[0][1]


def rms(values: torch.Tensor) -> torch.Tensor:
    """Root mean square of each sample."""
    return in_float64(values).square().flatten(1).mean(dim=1).sqrt()
