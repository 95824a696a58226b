"""Measures policies on held-out prompts against the full run with the same seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from videosys.cache import CacheConfig, NoCacheConfig
from videosys.calibration.journal import Journal, fingerprint, policy_key
from videosys.calibration.runs import Clips, Clock, DenoiseRun
from videosys.generation.pipeline import Pipeline
from videosys.generation.request import VideoJob
from videosys.metrics import psnr, ssim
from videosys.metrics.psnr import CAP
from videosys.utils.files import replacing
from videosys.utils.progress import progress

Judge = Callable[[str, torch.Tensor], dict[str, float]]
FULL = "full"
CONVERGED = "converged"  # the name of a run with enough steps that more change nothing
TIMED = 3  # prompts whose full run is timed
SHARED = 6  # policies for which one timing of it serves
# Two-sided 95 % of Student's t for 1 to 10 degrees of freedom; from there on by its series.
T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
NORMAL95 = 1.95996


@dataclass(frozen=True)
class Measured:
    """The result of a policy for one prompt.

    seconds: of the loop; full_seconds: of the full run's, which was timed not long before, for some of the
    prompts; decode_seconds: of the autoencoder. psnr (dB) and ssim by reference: means over the frames,
    before these are rounded to bytes. scores: what a judge says of the frames.
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
    """Means over prompts, and half the width of the 95 % confidence interval of some.

    speedup: of loop and autoencoder together, as timed; loop_speedup: of the loop alone. decode: seconds of
    the autoencoder, as a share of the full run's loop.
    """

    computed: float
    speedup: float
    loop_speedup: float
    decode: float
    psnr: dict[str, float]
    psnr_margin: dict[str, float]
    ssim: dict[str, float]  # empty where frames were not made


class Bench:
    """Held-out prompts with their full runs, which are kept in a folder.

    references: name -> changes of the config, for other runs to compare with, such as one with more steps.
    timed: prompts whose full run is timed, again after this many policies (`shared`): with 1 beside each of
        them, so that other programs slow both alike.
    judge: if set, returns scores of a prompt's frames [T, H, W, 3] in [0, 1].
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
        self.clips = [Clips(pipeline, config, [job]) for job in jobs]
        self._full_seconds: dict[int, list[float]] = {}  # one for each use

    def measure(self, name: str, policy: CacheConfig) -> list[Measured]:
        """One result per prompt."""
        return self.measure_runs(name, policy_key(policy), lambda clip: clip.run(policy))

    def measure_sampler(self, name: str, policy: CacheConfig, changes: Mapping[str, Any]) -> list[Measured]:
        """The same with changes of the config's sampler."""
        key = f"{policy_key(policy)} {fingerprint(repr(sorted(changes.items())))}"
        return self.measure_runs(name, key, lambda clip: clip.with_sampler(changes).run(policy))

    def measure_runs(self, name: str, key: str, run: Callable[[Clips], DenoiseRun]) -> list[Measured]:
        """The same for any function that generates latents for a prompt."""

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
        """The frames [T, H, W, 3] in [0, 1] of a prompt's full run, or of another of the references."""
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
    """The time of a run by the steps it computes, in loops of the full run: a line through that one.

    steps: of the full run. skipped: time of a skipped step, as a share of a computed one. decode: time of the
    autoencoder.
    """

    steps: int
    skipped: float
    decode: float

    def speedup(self, computed: float, evaluations: float | None = None) -> float:
        """Of loop and autoencoder together, for a number of computed steps; the same for the same number.

        evaluations: computed or skipped, where these are not all steps of the full run.
        """
        skipped = (self.steps if evaluations is None else evaluations) - computed
        share = (computed + skipped * self.skipped) / self.steps
        return (1 + self.decode) / (share + self.decode)


def pace(results: Sequence[Summary], steps: int) -> Pace:
    """The line by least squares through the times of all policies that were measured.

    One run alone says little: other programs change its time by more than some steps do.
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
    """The factor of a 95 % interval for degrees of freedom, right to three digits."""
    if freedom <= len(T95):
        return T95[freedom - 1]
    z = NORMAL95
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def quality_of(value: float) -> float | None:
    """A PSNR for a calibration file: None for equal frames."""
    return None if value >= CAP else value
