"""Records full runs of a pipeline: the changes of inputs, predictions and residuals per step."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from videosys.cache.record import SignalRecorder, relative_change
from videosys.calibration.collect import SAMPLES, WINDOW, ChangeObserver, Trace, rms
from videosys.diffusers.blocks import Tensors, tensors_of
from videosys.diffusers.cached import CachedRun
from videosys.diffusers.loop import Slot


class LoopWatch:
    """Records one denoising loop.

    times: of its evaluations. gains: for each step, the error of the latents per error of the prediction.
    """

    def __init__(self, times: tuple[float, ...]):
        self.times = times
        self.gains: list[float] = []
        self._timesteps: list[float] = []
        self._changes = ChangeObserver()
        self._recorders: list[SignalRecorder] = []  # of each model's first call in a step
        self._rows: dict[int, list[Tensor]] = {}

    def called(self, slot: Slot, place: Any, forward: Any, output: Any) -> None:
        """Records a call of a model: its prediction, and those with the residuals of earlier steps."""
        recorders = [cache for cache in slot.caches if isinstance(cache, SignalRecorder)]
        if slot.number == 0 and recorders[0] not in self._recorders:
            self._recorders.append(recorders[0])

        def predicted(back: int) -> Tensor:
            def reuse(tensors: Tensors) -> Tensors:
                return [x + recorder.residuals[back][1] for x, recorder in zip(tensors, recorders)]

            return sampled(tensors_of(output if back == 0 else place.reused(forward, slot, reuse)))

        rows = [predicted(back) for back in range(len(recorders[0].residuals))]
        self._rows.setdefault(slot.loop.step, []).append(torch.stack(rows))

    def stepped(self, timestep: float, arguments: Mapping[str, Any], result: Any) -> None:
        """Records a step of the scheduler."""
        # As copies: pipelines may write the result into the sample.
        sample, noise_pred = (arguments[name].detach().clone() for name in ("sample", "model_output"))
        after = result[0] if isinstance(result, tuple) else result.prev_sample
        self._changes(len(self.gains), timestep, sample, noise_pred)
        gain = rms((after - sample)[None]) / rms(noise_pred[None]).clamp(min=1e-12)
        self.gains.append(float(gain.clamp(min=1e-6)))
        self._timesteps.append(timestep)

    def end(self) -> None:
        """Releases the residuals of the loop. ValueError if the loop cannot be calibrated."""
        for recorder in self._recorders:
            recorder.residuals.clear()
        steps, expected = len(self.gains), len(self.times)
        if not len(self._rows) == steps == expected:
            raise ValueError(
                f"the pipeline makes {steps} steps for {expected} timesteps of the scheduler; a calibration "
                "needs one for each (a cache without calibration works)"
            )

    def trace(self, latents: Tensor) -> Trace:
        """The trace of the loop. latents: of the whole run."""
        width = max(sum(row.shape[1] for row in rows) for rows in self._rows.values())
        table = torch.full((len(self._rows), WINDOW + 1, width), float("nan"), device="cpu")
        for step, rows in self._rows.items():
            known = min(len(row) for row in rows)
            joined = torch.cat([row[:known] for row in rows], dim=1)
            table[step, :known, : joined.shape[1]] = joined
        times = [torch.tensor(timestep, device="cpu") for timestep in self._timesteps]
        distances = {
            "timestep_embedding": [relative_change(y, x) for x, y in itertools.pairwise(times)],
            "modulated_input": self._joined(lambda recorder: recorder.distances["modulated"], math.nan),
            "residual": self._joined(lambda recorder: recorder.distances["residual"], math.nan),
            **self._changes.distances,
        }
        ratios = self._joined(lambda recorder: recorder.ratios, 1.0)
        return Trace(distances, table, latents, ratios)

    def _joined(self, values: Callable[[SignalRecorder], list[float]], between: float) -> list[float]:
        """The values of all models in order, with `between` inserted at each switch of models."""
        joined: list[float] = []
        for number, recorder in enumerate(self._recorders):
            joined += [*([between] if number else []), *values(recorder)]
        return joined


class Watcher:
    """Records one full run. loops: of the scheduler; all must have the same times.

    check: called with the number of evaluations of each loop, in the loop's first call of the model.
    """

    def __init__(self, check: Callable[[int], object] = lambda steps: None):
        self._check = check
        self.loops: list[LoopWatch] = []
        self._run: Any = None
        self._calls = 0

    def watch(self, run: CachedRun) -> None:
        """Records the generations of a context."""
        self._run, run.watch, run.observe = run, self._called, self._stepped

    def _called(self, slot: Slot, place: Any, forward: Any, output: Any) -> None:
        if len(self.loops) < self._run.num_loops:
            self._begin(self._run.times)
        self.loops[-1].called(slot, place, forward, output)

    def _begin(self, times: tuple[float, ...]) -> None:
        """Starts to record a loop. ValueError if its times differ from those of the first loop."""
        if self.loops:
            self.loops[-1].end()
        if self.loops and times != self.loops[0].times:
            raise ValueError(
                f"loop {len(self.loops) + 1} of the scheduler has other timesteps than loop 1; a calibration "
                "needs the same in all loops of a video (a cache without calibration works)"
            )
        self._check(len(times))
        self.loops.append(LoopWatch(times))

    def _stepped(self, arguments: Mapping[str, Any], result: Any) -> None:
        if len(self._run.steps) == self._calls:
            return  # a further step for the same evaluation: for sound, or another frame
        self._calls = len(self._run.steps)
        self.loops[-1].stepped(self._run.steps[-1].timestep, arguments, result)

    def traces(self, latents: Tensor) -> list[Trace]:
        """The traces of all loops. latents: of the run."""
        self.loops[-1].end()
        return [loop.trace(latents) for loop in self.loops]


def sampled(tensors: Tensors) -> Tensor:
    """A sample of the values of a prediction."""
    flat = torch.cat([x.flatten() for x in tensors])
    places = torch.linspace(0, flat.numel() - 1, min(SAMPLES, flat.numel()), device="cpu").long()
    return flat[places.to(flat.device)].float().cpu()


def equally_long(tables: list[Tensor]) -> list[Tensor]:
    """Tables [steps, WINDOW + 1, samples] of several loops, reduced to the smallest number of samples."""
    width = min(table.shape[2] for table in tables)
    places = [torch.linspace(0, table.shape[2] - 1, width, device="cpu").round().long() for table in tables]
    return [table[:, :, kept] for table, kept in zip(tables, places)]
