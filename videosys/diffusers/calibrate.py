"""`calibrate`: finds the best cache settings of a pipeline, for goals such as `speedup=2.0`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from videosys.cache import Calibration, IntervalConfig
from videosys.cache.base import OUTPUT, STACK
from videosys.calibration.budgets import budgets as check_budgets
from videosys.calibration.budgets import split
from videosys.calibration.calibrate import CalibrationReport, PolicyResult
from videosys.calibration.calibrate import calibrate as measured
from videosys.calibration.measure import FULL, Pace
from videosys.calibration.output import announce_missing_plots, check_place, write_report
from videosys.diffusers.checks import check_call, check_pipeline
from videosys.diffusers.places import AUTO
from videosys.diffusers.rivals import best_rival
from videosys.diffusers.settings import check_place_name
from videosys.diffusers.study import Job, PipelineStudy, Prompt, videos_of
from videosys.utils.logging import get_logger
from videosys.utils.reading import expanded
from videosys.utils.typed import listing

_LOG = get_logger("diffusers")
SHARES = (1 / 3, 0.5, 2 / 3)  # of all steps
OWN = ("generator",)  # argument of the pipeline's call that `seed` sets
OUTPUT_TYPES = ("pil", "np", "pt", "latent")


@dataclasses.dataclass(frozen=True)
class PipelineReport(CalibrationReport):
    """The results of a calibration of a pipeline. Its speed-ups count calls, which is exact."""

    @property
    def pace(self) -> Pace:
        return Pace(self.study.num_steps, skipped=0.0, decode=0.0)

    @property
    def about_speedup(self) -> str:
        return "The speed-up is the number of the model's calls divided by that of the computed ones."


def calibrate(
    pipe: Any,
    prompts: Sequence[Prompt],
    *,
    out: str | Path = "calibration.json",
    place: str = AUTO,
    budgets: Sequence[int] | None = None,
    search: float = 0.0,
    seed: int = 0,
    **call: Any,
) -> Calibration:
    """The calibration of a video pipeline of diffusers, for `cached`. It is written to `out`, with plots next
    to it.

    prompts: texts, or mappings of arguments of the pipeline's call (embeddings, an image). The last third is
        held out for measurements, the others are for fitting. A single prompt serves both, with two seeds.
    call: all other arguments of the pipeline's call; the calibration is for its number of steps.
    place: output, stack, or auto: the one whose latents are closer to those of the full run.
    budgets: numbers of computed steps to calibrate for; default: a third, a half and two thirds of the steps.
    search: maximum number of full runs for improving the schedule of each budget.
    ValueError for a pipeline or arguments that cannot be calibrated.
    """
    check_options(out, place, budgets, search, seed)
    out, (learnt, judged) = expanded(out), jobs_of(prompts, seed)
    check_place(out)
    check_pipeline(pipe)
    check_arguments(pipe, call, [job.arguments for job in (*learnt, *judged)])
    announce_missing_plots()
    folder = out.with_suffix(".work")
    chosen = partial(check_budgets, budgets, shares=SHARES)

    def study_at(where: str) -> PipelineStudy:
        clips, others = (videos_of(pipe, call, some, where) for some in (learnt, judged))
        return PipelineStudy(clips, others, folder / where, seed, chosen)

    study = nearest(study_at) if place == AUTO else study_at(place)
    report = report_of(measured(study, chosen(study.num_steps), search), study.place)
    compare_fewer_steps(study, report)
    write_report(report, out)
    return report.calibration()


def check_options(out: Any, place: Any, budgets: Any, search: Any, seed: Any) -> None:
    """ValueError for invalid arguments of `calibrate` itself."""
    if not isinstance(out, (str, Path)) or Path(out).suffix != ".json":
        raise ValueError(f"out is {str(out)!r}; it must end in .json")
    check_place_name(place)
    whole = isinstance(budgets, Sequence) and all(type(each) is int and each > 1 for each in budgets)
    if budgets is not None and not whole:
        raise ValueError(f"budgets are {budgets!r}; they must be a list of whole numbers, 2 or more")
    if type(search) not in (int, float) or not 0 <= search < math.inf:
        raise ValueError(f"search is {search!r}; it must be a number, 0 or more, and finite")
    if type(seed) is not int:
        raise ValueError(f"seed is {seed!r}; it must be a whole number")


def check_arguments(pipe: Any, call: Mapping[str, Any], prompts: Sequence[Mapping[str, Any]]) -> None:
    """ValueError for invalid arguments of the pipeline's call. prompts: those of each video."""
    for arguments in ({**call, **prompt} for prompt in prompts):
        steps, kind = arguments.get("num_inference_steps", 1), arguments.get("output_type")
        if type(steps) is not int or steps < 1:
            raise ValueError(f"num_inference_steps is {steps!r}; it must be a whole number, 1 or more")
        check_call(pipe, arguments, OWN)
        if kind is not None and kind not in OUTPUT_TYPES:
            raise ValueError(f"output_type is {kind!r}; allowed: {listing(OUTPUT_TYPES)}")


def jobs_of(prompts: Sequence[Prompt], seed: int) -> tuple[Sequence[Job], Sequence[Job]]:
    """Training videos and held-out videos. ValueError if there are none."""
    if isinstance(prompts, (str, Mapping)) or not isinstance(prompts, Sequence) or not prompts:
        raise ValueError(f"prompts are {prompts!r}; they must be a list of one or more, preferably three")
    for number, prompt in enumerate(prompts):
        if not isinstance(prompt, (str, Mapping)):
            raise ValueError(
                f"prompts[{number}] is {prompt!r}; it must be a text, or arguments of the pipeline's call"
            )
    jobs = [Job.of(prompt, seed + number) for number, prompt in enumerate(prompts)]
    return split(jobs, None) if len(jobs) > 1 else (jobs, [Job.of(prompts[0], seed + 1)])


def nearest(study_at: Any) -> PipelineStudy:
    """The study at the possible place where a run with every second step is closer to the full run."""
    output = study_at(OUTPUT)
    try:
        stack = study_at(STACK)
    except ValueError as problem:
        _LOG.info("the calibration is for the model's output: %s", problem)
        return output
    errors = [study.place_error(IntervalConfig(every=2)) for study in (output, stack)]
    _LOG.info("computing every second step: %.1f dB at the model's output, %.1f dB at its blocks", *errors)
    return stack if errors[1] > errors[0] else output


def report_of(result: CalibrationReport, place: str) -> PipelineReport:
    """The results, with the measured place in each policy."""
    fields = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    return PipelineReport(**{**fields, "rows": tuple(with_place(row, place) for row in result.rows)})


def with_place(row: PolicyResult, place: str) -> PolicyResult:
    """The result, with the measured place in its policy."""
    has_place = any(field.name == "place" for field in dataclasses.fields(row.policy))
    changes: dict[str, Any] = {"place": place} if has_place else {}
    return dataclasses.replace(row, policy=dataclasses.replace(row.policy, **changes))


def compare_fewer_steps(study: PipelineStudy, report: PipelineReport) -> None:
    """Log a warning if fewer steps, of the scheduler or another solver, are closer to the full run than any
    cache with the same number of evaluations.
    """
    if study.scope.num_inference_steps is None:
        _LOG.info("fewer steps are not compared, because the call does not set num_inference_steps")
        return
    bench, nearer = study.bench(), []
    for budget in sorted({row.budget for row in report.rows}):
        best = max(row.result.psnr[FULL] for row in report.rows if row.budget == budget)
        rival = best_rival(bench, budget)
        if rival is not None and rival[1] > best:
            nearer.append(f"{rival[0]} {rival[1]:.1f} dB, the best cache {best:.1f}")
    if nearer:
        _LOG.warning("fewer steps are closer to the full run than any cache: %s", "; ".join(nearer))
