"""Alternatives to a cache: fewer steps of the pipeline's own scheduler, or of another solver."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterator, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import torch

from videosys.cache import NoCacheConfig
from videosys.diffusers.checks import current_shift
from videosys.diffusers.study import PipelineBench, quality
from videosys.utils.lazy import imported
from videosys.utils.logging import get_logger

_LOG = get_logger("diffusers")
OWN = "the scheduler itself"
SOLVERS: Mapping[str, tuple[str, dict[str, Any]]] = MappingProxyType(
    {
        "DPM-Solver++ (2M)": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
        "UniPC": ("UniPCMultistepScheduler", {"predict_x0": True}),
    }
)
ORDER = 2
NOISE_PREDICTIONS = ("epsilon", "v_prediction", "sample")
TRIES = 4  # numbers of steps to try, to find one with the allowed number of evaluations


def rivals(scheduler: Any) -> dict[str, Any]:
    """The pipeline's own scheduler and other solvers for the same model, by name."""
    found = {OWN: scheduler}
    fitting = options_for(scheduler)
    for name, (cls, own) in SOLVERS.items():
        if fitting is None or type(scheduler).__name__ == cls:
            continue
        options = {**fitting, **own, "solver_order": ORDER}
        with torch.device("cpu"):  # of its tables, even with another default device
            solver = imported("diffusers", cls).from_config(scheduler.config, **options)
        if has_same_noise(scheduler, solver):
            found[name] = solver
    return found


def options_for(scheduler: Any) -> dict[str, Any] | None:
    """The options of a solver for the model of a scheduler; None if the solvers do not support it.

    Supported are flow matching on the straight path and noise schedules of training, not distilled models.
    """
    config, name = scheduler.config, type(scheduler).__name__
    if name == "FlowMatchEulerDiscreteScheduler" or config.get("use_flow_sigmas"):
        shift = {"shift": config.get("flow_shift", 1.0), **config, **current_shift(scheduler)}["shift"]
        return {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": shift}
    is_noise = config.get("prediction_type") in NOISE_PREDICTIONS and hasattr(scheduler, "alphas_cumprod")
    return {} if is_noise else None


def has_same_noise(scheduler: Any, solver: Any) -> bool:
    """Whether both have the same noise at each training timestep; always true for flow models."""
    if solver.config.use_flow_sigmas:
        return True
    one, other = (item.alphas_cumprod.double() for item in (scheduler, solver))
    return torch.allclose(one, other, rtol=1e-3, atol=1e-6)


@contextlib.contextmanager
def replaced(pipe: Any, scheduler: Any) -> Iterator[None]:
    """Within the context, the pipeline has another scheduler."""
    own = pipe.scheduler
    pipe.scheduler = scheduler
    try:
        yield
    finally:
        pipe.scheduler = own


def best_rival(bench: PipelineBench, budget: int) -> tuple[str, float] | None:
    """(name with its number of steps, mean PSNR in dB) of the alternative with at most `budget` evaluations
    that is closest to the full run; None if no alternative runs with so few.
    """
    found = {}
    for name, scheduler in rivals(bench.videos[0].pipe.scheduler).items():
        try:
            result = bench.journal.result(f"rival {name} {budget}", partial(judged, bench, scheduler, budget))
        except (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
            problem = " ".join(str(error).split())
            text = "%s with %d evaluations is not compared, because the pipeline fails with it: %s"
            _LOG.info(text, name, budget, problem)
            continue
        found[f"{result['steps']} steps of {name}"] = result["psnr"]
    return max(found.items(), key=lambda item: item[1], default=None)


def judged(bench: PipelineBench, scheduler: Any, budget: int) -> dict[str, Any]:
    """The number of steps with at most `budget` evaluations, and the mean PSNR of runs with it.

    ValueError if there is no such number.
    """
    first, steps = bench.videos[0], bench.num_inference_steps
    assert steps is not None
    with replaced(first.pipe, scheduler):
        steps = max(budget * max(steps, bench.num_steps) // bench.num_steps, 1)
        for _ in range(TRIES):
            _, run, _ = first.video(NoCacheConfig(), num_inference_steps=steps)
            evaluations = 1 + max(step.step for step in run.steps)
            if evaluations <= budget or steps == 1:
                break
            steps = max(steps * budget // evaluations, 1)
        if evaluations > budget:
            raise ValueError(f"{steps} steps are {evaluations} evaluations")
        videos = [one.video(NoCacheConfig(), num_inference_steps=steps)[0] for one in bench.videos]
    values = [quality(video, bench.full(i)[0])[0] for i, video in enumerate(videos)]
    return {"steps": steps, "psnr": statistics.fmean(values)}
