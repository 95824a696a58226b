"""The runs of a pipeline of diffusers for a calibration: recorded full runs, and runs with each cache."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from videosys.cache import Cache, CacheConfig, GatherRows, NoCacheConfig, RunSpec
from videosys.cache.record import SignalRecorder, relative_change
from videosys.calibration.collect import SAMPLES, WINDOW, ChangeObserver, Trace, rms
from videosys.calibration.journal import Journal, policy_key
from videosys.calibration.measure import FULL, UNCHANGED, Bench, Measured
from videosys.calibration.runs import Clips, Clock, DenoiseRun, error_db
from videosys.calibration.search import Segments
from videosys.calibration.study import LEAST_STEPS, Study
from videosys.diffusers.blocks import Tensors, tensors_of
from videosys.diffusers.cached import CachedRun, cached
from videosys.diffusers.checks import check_pipeline, digest, run_spec
from videosys.diffusers.loop import Slot
from videosys.generation.request import VideoJob
from videosys.metrics import psnr, ssim
from videosys.metrics.ssim import WINDOW as SSIM_WINDOW

Prompt = str | Mapping[str, Any]


@dataclass(frozen=True)
class Job(VideoJob):
    """One video: the prompt's name in the report, its seed, and arguments of the pipeline's call."""

    arguments: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, prompt: Prompt, seed: int) -> Job:
        """prompt: a text, or arguments of the call, such as embeddings or an image."""
        arguments = {"prompt": prompt} if isinstance(prompt, str) else dict(prompt)
        return cls(str(arguments.get("prompt", ", ".join(arguments))), seed, arguments=arguments)


@dataclass(frozen=True)
class Recording(CacheConfig):
    """A policy that computes every step, and records the changes of signals and residuals."""

    def start(self, times: Sequence[float], gather_rows: GatherRows, request_id: int = 0) -> Cache:
        return SignalRecorder(("modulated",), window=WINDOW)


class Clip(Clips):
    """One video. Each call generates it again."""

    def __init__(self, pipe: Any, call: Mapping[str, Any], job: Job, place: str):
        self.pipe, self.call, self.job, self.place = pipe, call, job, place

    def generate(
        self,
        cache: CacheConfig,
        output_type: str = "latent",
        watch: Callable[[CachedRun], object] = lambda run: None,
        **changes: Any,
    ) -> tuple[Any, CachedRun, float]:
        """(first output of the pipeline, the cached run, seconds). watch: called before the run starts."""
        generator = torch.Generator().manual_seed(self.job.seed)
        arguments = {**self.call, **self.job.arguments, **changes, "generator": generator}
        clock = Clock(self.pipe._execution_device)
        with cached(self.pipe, cache=cache, place=self.place) as run:
            watch(run)
            result = self.pipe(**{**arguments, "output_type": output_type})
        return result[0], run, clock.seconds()

    def run(self, cache: Any, **unused: Any) -> DenoiseRun:
        """The latents of one generation. Its steps are all calls of the model."""
        latents, run, seconds = self.generate(cache)
        return DenoiseRun(as_tensor(latents), run.steps, seconds)

    def video(self, cache: CacheConfig, **changes: Any) -> tuple[Tensor, CachedRun, float]:
        """Frames [T, H, W, 3] in [0, 1], or latents if the call requests them."""
        kind = "latent" if self.call.get("output_type") == "latent" else "np"
        result, run, seconds = self.generate(cache, kind, **changes)
        return as_tensor(result)[0] if kind == "np" else as_tensor(result), run, seconds


class Watcher:
    """Records one full run. gains: for each step, the error of the latents per error of the prediction."""

    def __init__(self) -> None:
        self.changes = ChangeObserver()
        self.gains: list[float] = []
        self.timesteps: list[float] = []
        self.recorders: list[SignalRecorder] = []  # of each model's first call in a step
        self._rows: dict[int, list[Tensor]] = {}
        self._run: Any = None
        self._calls = 0

    def watch(self, run: CachedRun) -> None:
        """Records the generations of a context."""
        self._run, run.watch, run.observe = run, self._called, self._stepped

    def _called(self, slot: Slot, place: Any, forward: Any, output: Any) -> None:
        recorders = [cache for cache in slot.caches if isinstance(cache, SignalRecorder)]
        if slot.number == 0 and recorders[0] not in self.recorders:
            self.recorders.append(recorders[0])

        def predicted(back: int) -> Tensor:
            def reuse(tensors: Tensors) -> Tensors:
                return [x + recorder.residuals[back][1] for x, recorder in zip(tensors, recorders)]

            return sampled(tensors_of(output if back == 0 else place.reused(forward, slot, reuse)))

        rows = [predicted(back) for back in range(len(recorders[0].residuals))]
        self._rows.setdefault(slot.loop.step, []).append(torch.stack(rows))

    def _stepped(self, arguments: Mapping[str, Any], result: Any) -> None:
        if len(self._run.steps) == self._calls:
            return  # a second step of the scheduler for the same evaluation
        self._calls = len(self._run.steps)
        sample, noise_pred = arguments["sample"], arguments["model_output"]
        after = result[0] if isinstance(result, tuple) else result.prev_sample
        self.changes(len(self.gains), self._run.steps[-1].timestep, sample, noise_pred)
        gain = rms((after - sample)[None]) / rms(noise_pred[None]).clamp(min=1e-12)
        self.gains.append(float(gain.clamp(min=1e-6)))
        self.timesteps.append(self._run.steps[-1].timestep)

    def trace(self, latents: Tensor) -> Trace:
        """The trace of the run with these final latents."""
        width = max(sum(row.shape[1] for row in rows) for rows in self._rows.values())
        table = torch.full((len(self._rows), WINDOW + 1, width), float("nan"))
        for step, rows in self._rows.items():
            known = min(len(row) for row in rows)
            joined = torch.cat([row[:known] for row in rows], dim=1)
            table[step, :known, : joined.shape[1]] = joined
        pairs = zip(self.timesteps, self.timesteps[1:])
        distances = {
            "timestep_embedding": [relative_change(torch.tensor(y), torch.tensor(x)) for x, y in pairs],
            "modulated_input": self._joined(lambda recorder: recorder.distances["modulated"], math.nan),
            "residual": self._joined(lambda recorder: recorder.distances["residual"], math.nan),
            **self.changes.distances,
        }
        ratios = self._joined(lambda recorder: recorder.ratios, 1.0)
        return Trace(distances, table, latents, ratios)

    def _joined(self, values: Callable[[SignalRecorder], list[float]], between: float) -> list[float]:
        """The values of all models in order, with `between` inserted at each switch of models."""
        joined: list[float] = []
        for number, recorder in enumerate(self.recorders):
            joined += [*([between] if number else []), *values(recorder)]
        return joined


class PipelineStudy(Study):
    """The prompts of a calibration and their runs.

    call: arguments of the pipeline's call that all videos share. place: of the cache, output or stack.
    check: called with the number of evaluations before anything is written.
    """

    tries_thresholds = True

    def __init__(
        self,
        clips: Sequence[Clip],
        held_out: Sequence[Clip],
        folder: Path,
        seed: int,
        check: Callable[[int], object],
    ):
        self.clips, self.judged, self.folder, self.quiet = list(clips), list(held_out), folder, True
        self.config = SimpleNamespace(batch_size=1, seed=seed)
        self.learnt, self.held_out = [one.job for one in clips], [one.job for one in held_out]
        self.search_size = 1
        pipe, call, self.place = clips[0].pipe, clips[0].call, clips[0].place
        self.traces, self.gains, self.times, self._seconds = self._watched()
        if self.num_steps < LEAST_STEPS:
            raise ValueError(f"there are {self.num_steps} evaluations; a calibration needs {LEAST_STEPS}")
        check(self.num_steps)
        steps, scale = call.get("num_inference_steps", self.num_steps), call.get("guidance_scale")
        known = run_spec(pipe, {"num_inference_steps": steps, "guidance_scale": scale})
        self.scope: RunSpec = replace(known, evaluations=self.num_steps)
        about = [asdict(self.scope), self.place, [job.prompt for job in self.learnt], digest(dict(call))]
        self.journal = Journal(folder, about)

    def _watched(self) -> tuple[list[Trace], list[float], tuple[float, ...], float]:
        """(traces, gains of the steps, times, seconds of a run) of the full runs for fitting."""
        watchers = [Watcher() for _ in self.clips]
        runs = [one.generate(Recording(), watch=watcher.watch) for one, watcher in zip(self.clips, watchers)]
        loops = {run.num_loops for _, run, _ in runs}
        if loops != {1}:
            raise ValueError(f"a video needs {max(loops)} loops of the scheduler; a calibration supports one")
        traces = [watcher.trace(as_tensor(latents)) for watcher, (latents, _, _) in zip(watchers, runs)]
        gains = [statistics.fmean(column) for column in zip(*(watcher.gains for watcher in watchers))]
        return traces, gains, runs[0][1].times, runs[0][2]

    @property
    def full_seconds(self) -> float:
        return self._seconds

    @functools.cached_property
    def segments(self) -> Segments:
        return Segments([item.tried for item in self.traces], self.gains, self.times)

    @functools.cached_property
    def searched(self) -> list[tuple[Clips, Tensor]]:
        """The videos for the search, with the latents of their full runs."""
        return [(one, item.latents) for one, item in zip(self.clips[: self.search_size], self.traces)]

    @functools.cached_property
    def trial(self) -> PipelineBench:
        return PipelineBench(self.clips[: self.search_size], self.journal, self.num_steps)

    def bench(self, *unused: Any, **options: Any) -> PipelineBench:
        return PipelineBench(self.judged, self.journal, self.num_steps)

    def place_error(self, policy: CacheConfig) -> float:
        """PSNR in dB of the first video's latents with a policy, against the full run."""
        run, reference = self.clips[0].run(policy), self.traces[0].latents
        return statistics.fmean(error_db(run.latents, reference))


class PipelineBench(Bench):
    """Videos with their full runs."""

    def __init__(self, clips: Sequence[Clip], journal: Journal, num_steps: int):
        self.videos, self.journal, self.num_steps = list(clips), journal, num_steps
        self._full: dict[int, tuple[Tensor, float]] = {}

    def measure(
        self, name: str, policy: CacheConfig, changes: Mapping[str, Any] = UNCHANGED
    ) -> list[Measured]:
        """One result per video. changes: must be empty, because a pipeline keeps its scheduler."""

        def result(number: int) -> dict[str, Any]:
            key = f"measure {self.videos[number].job.seed} {policy_key(policy)}"
            return self.journal.result(key, lambda: self._judged(number, policy))

        return [Measured(**result(number)) for number in range(len(self.videos))]

    def _judged(self, number: int, policy: CacheConfig) -> dict[str, Any]:
        reference, full_seconds = self.full(number)
        video, run, seconds = self.videos[number].video(policy)
        # The computed share of the calls, in evaluations.
        computed: Any = self.num_steps * sum(step.computed for step in run.steps) / len(run.steps)
        values = [{FULL: value} for value in quality(video, reference)]
        return asdict(Measured(computed, seconds, full_seconds, 0.0, *values))

    def full(self, number: int) -> tuple[Tensor, float]:
        """(frames, seconds) of a video's full run."""
        if number not in self._full:
            frames, _, seconds = self.videos[number].video(NoCacheConfig())
            self._full[number] = frames, seconds
        return self._full[number]


def as_tensor(values: Any) -> Tensor:
    """A pipeline's output on the CPU."""
    if isinstance(values, (list, tuple)):
        values = np.stack([np.asarray(as_tensor(value)) for value in values])
    return torch.as_tensor(values).detach().cpu()


def quality(video: Tensor, reference: Tensor) -> tuple[float, float]:
    """(PSNR in dB, SSIM) of frames; for latents, the PSNR relative to the reference's range, and SSIM 0."""
    if video.ndim == 4 and video.shape[-1] == 3:
        is_large = min(video.shape[1:3]) >= SSIM_WINDOW
        return float(psnr(video, reference).mean()), float(ssim(video, reference).mean()) if is_large else 0.0
    low, high = float(reference.min()), float(reference.max())
    one, other = (((x.float() - low) / max(high - low, 1e-12)).clamp(0, 1) for x in (video, reference))
    return float(psnr(one.reshape(1, 1, -1, 1), other.reshape(1, 1, -1, 1)).mean()), 0.0


def sampled(tensors: Sequence[Tensor]) -> Tensor:
    """A sample of the values of a prediction."""
    flat = torch.cat([x.flatten() for x in tensors])
    places = torch.linspace(0, flat.numel() - 1, min(SAMPLES, flat.numel())).long()
    return flat[places.to(flat.device)].float().cpu()


def videos_of(pipe: Any, call: Mapping[str, Any], jobs: Sequence[Job], place: str) -> list[Clip]:
    """The clips of some jobs. ValueError for a pipeline that cannot be cached."""
    check_pipeline(pipe)
    return [Clip(pipe, call, job, place) for job in jobs]
