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
from videosys.cache.record import SignalRecorder
from videosys.calibration.collect import WINDOW, Trace
from videosys.calibration.journal import Journal, policy_key
from videosys.calibration.measure import FULL, UNCHANGED, Bench, Measured
from videosys.calibration.runs import Clips, Clock, DenoiseRun, error_db
from videosys.calibration.search import Segments
from videosys.calibration.study import LEAST_STEPS, Study
from videosys.diffusers.cached import CachedRun, arguments_of, cached
from videosys.diffusers.checks import check_pipeline, digest, run_spec
from videosys.diffusers.watch import Watcher, equally_long
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
        # A pipeline without latents as its output is given as `output_type="pt"`.
        self.latent_type = "pt" if call.get("output_type") == "pt" else "latent"

    def generate(
        self,
        cache: CacheConfig,
        output_type: str,
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
        latents, run, seconds = self.generate(cache, self.latent_type)
        return DenoiseRun(as_tensor(latents), run.steps, seconds)

    def video(self, cache: CacheConfig, **changes: Any) -> tuple[Tensor, CachedRun, float]:
        """Frames [T, H, W, 3] in [0, 1], or latents or tensors if the call requests them."""
        given = self.call.get("output_type")
        kind = given if given in ("latent", "pt") else "np"
        result, run, seconds = self.generate(cache, kind, **changes)
        return as_tensor(result)[0] if kind == "np" else as_tensor(result), run, seconds


class PipelineStudy(Study):
    """The prompts of a calibration and their runs.

    call: arguments of the pipeline's call that all videos share. place: of the cache, output or stack.
    check: called with the number of evaluations in the first call of the model.
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
        self.traces: list[Trace] = []
        self._latents: list[Tensor] = []
        self._check = check
        self.gains, self.times, self._seconds = self._watched()
        arguments = arguments_of(pipe.__call__, (), {**call, **clips[0].job.arguments})
        self.scope: RunSpec = replace(run_spec(pipe, arguments), evaluations=self.num_steps)
        jobs = [digest([one.job.seed, one.job.arguments]) for one in (*clips, *held_out)]
        about = [asdict(self.scope), self.place, len(self.learnt), jobs, digest(call)]
        self.journal = Journal(folder, about)

    def _check_steps(self, steps: int) -> None:
        """ValueError for a number of evaluations that cannot be calibrated."""
        if steps < LEAST_STEPS:
            raise ValueError(f"there are {steps} evaluations; a calibration needs {LEAST_STEPS}")
        self._check(steps)

    def _watched(self) -> tuple[list[float], tuple[float, ...], float]:
        """(gains of the steps, times, seconds of a run) of the full runs for fitting.

        Sets `traces`, one for each loop of each video, and `_latents`, one for each video.
        """
        loops, seconds = [], math.nan
        for one in self.clips:
            watcher = Watcher(self._check_steps)
            latents, _, seconds = one.generate(Recording(), one.latent_type, watch=watcher.watch)
            self._latents.append(as_tensor(latents))
            self.traces += watcher.traces(self._latents[-1])
            loops += watcher.loops
        gains = [statistics.fmean(column) for column in zip(*(loop.gains for loop in loops))]
        return gains, loops[0].times, seconds

    @property
    def full_seconds(self) -> float:
        return self._seconds

    @functools.cached_property
    def segments(self) -> Segments:
        return Segments(equally_long([item.tried for item in self.traces]), self.gains, self.times)

    @functools.cached_property
    def searched(self) -> list[tuple[Clips, Tensor]]:
        """The videos for the search, with the latents of their full runs."""
        return list(zip(self.clips[: self.search_size], self._latents))

    @functools.cached_property
    def trial(self) -> PipelineBench:
        return PipelineBench(self.clips[: self.search_size], self.journal, self.num_steps)

    def bench(self, *unused: Any, **options: Any) -> PipelineBench:
        return PipelineBench(self.judged, self.journal, self.num_steps, self.scope.num_inference_steps)

    def place_error(self, policy: CacheConfig) -> float:
        """PSNR in dB of the first video's latents with a policy, against the full run."""
        run, reference = self.clips[0].run(policy), self._latents[0]
        return statistics.fmean(error_db(run.latents, reference))


class PipelineBench(Bench):
    """Videos with their full runs.

    num_steps: evaluations of the model in a loop. num_inference_steps: None if the call lists its timesteps.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        journal: Journal,
        num_steps: int,
        num_inference_steps: int | None = None,
    ):
        self.videos, self.journal, self.num_steps = list(clips), journal, num_steps
        self.num_inference_steps = num_inference_steps
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
    """A pipeline's output on the CPU. Tensors of different shapes are joined as one row."""
    if isinstance(values, (list, tuple)):
        shapes = {getattr(value, "shape", None) for value in values}
        if len(shapes) > 1:
            return torch.cat([as_tensor(value).flatten() for value in values])[None]
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


def videos_of(pipe: Any, call: Mapping[str, Any], jobs: Sequence[Job], place: str) -> list[Clip]:
    """The clips of some jobs. ValueError for a pipeline that cannot be cached."""
    check_pipeline(pipe)
    return [Clip(pipe, call, job, place) for job in jobs]
