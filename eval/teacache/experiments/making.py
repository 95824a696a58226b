"""The executor of a run: this process, or replicas on a Ray cluster, both warmed up."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from videosys import VideoSysEngine
from videosys.serve import Executor, LocalExecutor, Task, ray_executor

WARM_UP_STEPS = 4  # the minimum that every sampler supports


@contextlib.contextmanager
def naming_tiny(run: Any) -> Iterator[None]:
    """Add a hint at --tiny to errors, if there is no GPU for the published checkpoints."""
    try:
        yield
    except (ValueError, OSError) as error:
        if run.arguments.tiny or not run.is_local or torch.cuda.is_available():
            raise
        raise ValueError(
            f"{error}; the published checkpoints need a GPU and their weights. Use --tiny for the bundled "
            "checkpoint, which runs on a CPU"
        ) from error


def groups(jobs: Mapping[str, Any]) -> list[list[Task]]:
    """Group the tasks by video, so that one device makes and times all methods of a video."""
    videos: dict[tuple[str, int], list[Task]] = {}
    for name, job in jobs.items():
        task = Task(name, job.prompt, {**job.method.request, "seed": job.seed})
        videos.setdefault((job.prompt, job.index), []).append(task)
    return list(videos.values())


@contextlib.contextmanager
def executor(run: Any, engine: VideoSysEngine, prompt: str, known: dict[str, Any]) -> Iterator[Executor]:
    """The executor, loaded and warmed up. known: receives the seconds that this took."""
    request = {"num_inference_steps": WARM_UP_STEPS, "cache": "none", "seed": 0}
    if run.is_local:
        begin = time.perf_counter()
        engine.generate(prompt, **request)
        known["loading_and_warm_up_seconds"] = round(time.perf_counter() - begin, 3)
        yield LocalExecutor(engine, is_timed=True)
    else:
        with ray_executor(run.config, run.arguments.address, Task("warm-up", prompt, request)) as makers:
            yield makers
