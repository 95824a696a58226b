"""Measures policies on held-out prompts against the full run with the same seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from videosys.cache import CacheConfig, NoCacheConfig
from videosys.calibration.journal import Journal, fingerprint, run_key
from videosys.calibration.runs import Clips, Clock, DenoiseRun
from videosys.generation.pipeline import Pipeline
from videosys.generation.request import VideoJob
from videosys.metrics import psnr, ssim
from videosys.metrics.psnr import CAP
from videosys.utils.files import replacing
from videosys.utils.progress import progress

Judge = Callable[[str, torch.Tensor], dict[str, float]]
FULL = "full"
UNCHANGED: Mapping[str, Any] = MappingProxyType({})  # no overrides of the sampler
CONVERGED = "converged"  # name of the run with enough steps to converge
TIMED = 3  # number of prompts whose full run is timed
SHARED = 12  # number of policies that share one timing of the full run
# Two-sided 95 % quantiles of Student's t for 1 to 10 degrees of freedom; a series is used beyond.
T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
NORMAL95 = 1.95996


@dataclass(frozen=True)
class Measured:
    """The result of a policy for one prompt.

    seconds: of the loop. full_seconds: of the full run's loop, timed shortly before; None for prompts that
    are not timed. decode_seconds: of the autoencoder. psnr (dB) and ssim by reference: means over the float
    frames, before rounding to bytes. scores: the judge's scores of the frames.
    """

    computed: int
    seconds: float
    full_seconds: float | None
    decode_seconds: float
    psnr: dict[str, float]
    ssim: dict[str, float]
    scores: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Summary:
    """Means over prompts; a margin is half the width of the 95 % confidence interval.

    speedup: measured, of loop and autoencoder together. loop_speedup: of the loop alone. decode: time of the
    autoencoder as a share of the full run's loop.
    """

    computed: float
    speedup: float
    loop_speedup: float
    decode: float
    psnr: dict[str, float]
    psnr_margin: dict[str, float]
    ssim: dict[str, float]  # empty if no frames were decoded


class Bench:
    """Measures policies on held-out prompts. The frames of their full runs are kept in a folder.

    references: name -> config overrides of further reference runs, such as one with more steps.
    timed: number of prompts whose full run is timed. shared: number of policies that share one timing; with 1
        the full run is timed next to every policy, so that other load on the machine affects both.
    judge: if set, called with a prompt and its frames [T, H, W, 3] in [0, 1]; returns scores.
    """

    judge: Judge | None = None

    def __init__(
        self,
        pipeline: Pipeline,
        config: Any,
        jobs: Sequence[VideoJob],
        journal: Journal,
        references: dict[str, dict[str, Any]] | None = None,
        quiet: bool = False,
        timed: int = TIMED,
        shared: int = SHARED,
    ):
        self.timed, self.shared, self.journal, self.quiet = timed, shared, journal, quiet
        self.references = {FULL: {}, **(references or {})}
        for name, changes in (references or {}).items():  # the keys of results do not name them
            text = ", ".join(f"{key} {value}" for key, value in sorted(changes.items()))
            journal.check(f"reference {name}", text, f"its {name} run has another sampler than {text}")
        self.clips = [Clips(pipeline, config, [job]) for job in jobs]
        self._full_seconds: dict[int, list[float]] = {}  # one entry per use

    def measure(
        self, name: str, policy: CacheConfig, changes: Mapping[str, Any] = UNCHANGED
    ) -> list[Measured]:
        """Measure a policy: one result per prompt. changes: overrides of the config's sampler."""
        key = run_key(policy, changes)
        return self.measure_runs(name, key, lambda clip: clip.with_sampler(changes).run(policy))

    def measure_runs(self, name: str, key: str, run: Callable[[Clips], DenoiseRun]) -> list[Measured]:
        """Like `measure`, for any function that generates latents for a prompt. key: identifies the
        function.
        """

        def result(place: int) -> dict[str, Any]:
            return self.journal.result(
                f"measure {self._name(place)} {key}", lambda: self._measure(place, run)
            )

        places = progress(range(len(self.clips)), name, quiet=self.quiet)
        return [Measured(**result(place)) for place in places]

    def _name(self, place: int) -> str:
        return fingerprint([asdict(job) for job in self.clips[place].jobs])

    def _measure(self, place: int, denoised: Callable[[Clips], DenoiseRun]) -> dict[str, Any]:
        clip = self.clips[place]
        full = self._full_run_seconds(place) if place < self.timed else None
        run = denoised(clip)
        clock = Clock(clip.pipeline.vae.device)
        video = clip.frames(run.latents)
        seconds = clock.seconds()
        references = {name: self.reference(place, name) for name in self.references}
        psnrs, ssims = (
            {name: float(metric(video, frames).mean()) for name, frames in references.items()}
            for metric in (psnr, ssim)
        )
        scores = self.judge(clip.jobs[0].prompt, video) if self.judge else {}
        return asdict(Measured(run.computed, run.seconds, full, seconds, psnrs, ssims, scores))

    def _full_run_seconds(self, place: int) -> float:
        """Seconds of a prompt's full run."""
        uses = self._full_seconds.setdefault(place, [])
        is_new = len(uses) % self.shared == 0
        uses.append(self.clips[place].run(NoCacheConfig()).seconds if is_new else uses[-1])
        return uses[-1]

    def reference(self, place: int, name: str) -> torch.Tensor:
        """Frames [T, H, W, 3] in [0, 1] of a prompt's reference run, such as the full run."""
        path = self.journal.folder / f"{name}-{self._name(place)}.safetensors"
        if not path.exists():
            clip, changes = self.clips[place], self.references[name]
            clip = clip.with_config(**changes) if changes else clip
            frames = clip.frames(clip.run(NoCacheConfig()).latents)
            with replacing(path) as temporary:
                save_file({"frames": frames}, temporary)
        return load_file(path)["frames"]


def summary(rows: Sequence[Measured]) -> Summary:
    """The means of a policy over the prompts, and its speed-up against full runs of the same prompts."""
    pairs = [(row.full_seconds, row.seconds) for row in rows if row.full_seconds is not None]
    decode = statistics.median(row.decode_seconds for row in rows)
    loop, whole = (
        statistics.median((full + more) / (seconds + more) for full, seconds in pairs)
        for more in (0.0, decode)
    )
    names = rows[0].psnr
    return Summary(
        computed=statistics.fmean(row.computed for row in rows),
        speedup=whole,
        loop_speedup=loop,
        decode=decode / statistics.median(full for full, _ in pairs),
        psnr={name: statistics.fmean(row.psnr[name] for row in rows) for name in names},
        psnr_margin={name: margin([row.psnr[name] for row in rows]) for name in names},
        ssim={name: statistics.fmean(row.ssim[name] for row in rows) for name in names},
    )


@dataclass(frozen=True)
class Pace:
    """Run time as a linear function of the computed steps, in units of the full run's loop.

    steps: of the full run. skipped: time of a skipped step as a share of a computed step. decode: time of the
    autoencoder as a share of the full run's loop.
    """

    steps: int
    skipped: float
    decode: float

    def speedup(self, computed: float, evaluations: float | None = None) -> float:
        """The speed-up of loop and autoencoder together for a number of computed steps.

        evaluations: computed plus skipped steps, if these differ from the steps of the full run.
        """
        skipped = (self.steps if evaluations is None else evaluations) - computed
        share = (computed + skipped * self.skipped) / self.steps
        return (1 + self.decode) / (share + self.decode)


def pace(results: Sequence[Summary], steps: int) -> Pace:
    """Fit a line to the times of all measured policies (least squares).

    A single run is too noisy: other load on the machine can change its time by more than a few steps do.
    """
    left = [1 - one.computed / steps for one in results]
    saved = [1 - 1 / one.loop_speedup for one in results]
    square = sum(x * x for x in left)
    slope = sum(x * y for x, y in zip(left, saved)) / square if square else 1.0
    decode = statistics.median(one.decode for one in results)
    return Pace(steps, min(max(1 - slope, 0.0), 1.0), decode)


def margin(values: Sequence[float]) -> float:
    """Half the width of the 95 % confidence interval of a mean (Student's t); infinite for one value."""
    if len(values) < 2:
        return math.inf
    return student(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))


def student(freedom: int) -> float:
    """Student's t factor of a 95 % interval for these degrees of freedom, accurate to three digits."""
    if freedom <= len(T95):
        return T95[freedom - 1]
    z = NORMAL95
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def quality_of(value: float) -> float | None:
    """A PSNR for a calibration file; None for identical frames."""
    return None if value >= CAP else value
