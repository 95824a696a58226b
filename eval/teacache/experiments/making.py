"""Who makes the videos of a run: this process, loaded and warm, or replicas on a Ray cluster."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from videosys import VideoSysEngine
from videosys.serve import Executor, LocalExecutor, Task, ray_executor

WARM_UP_STEPS = 4  # the fewest that every sampler takes


@contextlib.contextmanager
def naming_tiny(run: Any) -> Iterator[None]:
    """Logs a hint about the tiny checkpoint if a published one is not available and there is no GPU."""
    try:
        yield
    except (ValueError, OSError) as error:
        if run.arguments.tiny or not run.is_local or torch.cuda.is_available():
            raise
        raise ValueError(
            f"{error}; the published checkpoints need a GPU and their weights: --tiny takes the checkpoint "
            "that the package brings, on a CPU"
        ) from error


def groups(jobs: Mapping[str, Any]) -> list[list[Task]]:
    """Every method of a video together, so that their seconds are of the same device."""
    videos: dict[tuple[str, int], list[Task]] = {}
    for name, job in jobs.items():
        task = Task(name, job.prompt, {**job.method.request, "seed": job.seed})
        videos.setdefault((job.prompt, job.index), []).append(task)
    return list(videos.values())


@contextlib.contextmanager
def executor(run: Any, engine: VideoSysEngine, prompt: str, known: dict[str, Any]) -> Iterator[Executor]:
    """Who makes the videos, loaded and warm. Seconds that this took are added to what is known."""
    request = {"num_inference_steps": WARM_UP_STEPS, "cache": "none", "seed": 0}
    if run.is_local:
        begin = time.perf_counter()
        engine.generate(prompt, **request)
        known["loading_and_warm_up_seconds"] = round(time.perf_counter() - begin, 3)
        yield LocalExecutor(engine, is_timed=True)
    else:
        with ray_executor(run.config, run.arguments.address, Task("warm-up", prompt, request)) as makers:
            yield makers
