"""VideoSysEngine: generates videos from prompts."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial, reduce
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import torch

from videosys.engine.build import seeded
from videosys.engine.pool import Pool, closed
from videosys.engine.running import Running
from videosys.engine.submit import Handle, Submissions
from videosys.engine.torchrun import TorchrunRunner, is_main_process, world_size
from videosys.estimate.memory import MemoryCheck
from videosys.generation.config import PipelineConfig, loading_fields
from videosys.generation.given import NAMES as GIVEN
from videosys.generation.given import Given, check_tensor, converted, take_given
from videosys.generation.lora import Lora, as_loras
from videosys.generation.pipeline import Pipeline
from videosys.generation.request import (
    VideoOutput,
    check_count,
    check_prompts,
    generators,
    make_jobs,
    with_full_batches,
)
from videosys.generation.watch import StepProgress, Watch
from videosys.models import family_of
from videosys.tiny import warn_of_unknown_words
from videosys.utils.foreign import foreign_name
from videosys.utils.logging import get_logger, log
from videosys.utils.settled import settle, settled, settled_steps
from videosys.utils.typed import convert, listing, shown, suggest
from videosys.utils.video import save_video

_LOG = get_logger("engine")
Callback = Callable[[StepProgress], object]


class Runner(Protocol):
    """Where videos are generated: in this process, in processes that it starts, or in those of torchrun."""

    @property
    def pipeline(self) -> Pipeline:
        """The pipeline of this process."""

    def stream(
        self, prompts: Sequence[str], config: PipelineConfig, inputs: dict[str, Any], watch: Watch | None
    ) -> Iterator[VideoOutput]:
        """Yield each micro-batch in order as soon as it is done; draws a seed if none is set.

        watch: for progress and cancellation.
        """

    def changed(self, config: PipelineConfig) -> Runner:
        """A runner for another transformer; it reuses this one's other parts if possible."""

    def close(self) -> None:
        """Frees the weights."""


class VideoSysEngine:
    """Generates videos for a config; weights are loaded on first use and kept until `close()`.

    with VideoSysEngine(OpenSoraConfig()) as engine:
        output = engine.generate("a red circle")
        engine.save_video(output.video[0], "circle.mp4")

    With `parallel.num_gpus` above 1, this many processes do the work. The first request starts them,
    and `close()` ends them. Under torchrun each process is a rank: all must send the same requests, all get
    the videos, and `save_video` writes only on the first rank.
    """

    @settle
    def __init__(self, config: PipelineConfig, quiet: bool = False):
        """ValueError for a config without a pipeline, for folders that are not checkpoints, and for more
        devices than available.
        """
        self.family = family_of(config)
        self.config, self.quiet = config.anchored(), quiet
        self.runner = runner_of(self.config, quiet)
        self._submissions = Submissions()
        self._unknown_words: set[str] = set()

    @property
    def pipeline(self) -> Pipeline:
        """The pipeline of this process; without weights if other processes do the work."""
        return self.runner.pipeline

    def generate(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        callback: Callback | None = None,
        **request: Any,
    ) -> VideoOutput:
        """All videos of one prompt or a list of prompts.

        `request` overrides fields of the config for this call, and has inputs: `latents`, `prompt_embeds`
        instead of a prompt, the other fields of `Given` with `output_type`, and those of the model family,
        such as Open-Sora's `references`: images and videos to contain. ValueError for a blank prompt, for
        tensors of other shapes and for invalid fields, before any weight is loaded.

        `callback` is called with a `StepProgress` after each step. Its result is ignored. An error in it
        ends the request before the next step, in all processes, and is raised here; `videosys.Cancelled` is
        meant for this. The next request is not affected. `close()` in another thread ends a request with
        `Cancelled` as well. Under torchrun the callback is called in each process, for its own steps.
        """
        return reduce(VideoOutput.joined, self.stream(prompt, callback=callback, **request))

    def stream(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        callback: Callback | None = None,
        **request: Any,
    ) -> Iterator[VideoOutput]:
        """Like `generate`, but yields each micro-batch as soon as it is done."""
        return self._watched(prompt, request, None if callback is None else Watch(callback))

    def submit(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        callback: Callback | None = None,
        **request: Any,
    ) -> Handle:
        """Like `generate`, but returns at once. The handle has `progress`, `cancel()` and
        `result(timeout)`. Submitted requests are computed in order by one thread, which also calls
        the callback. ValueError for an invalid request, at once if possible.
        """
        watch = Watch(callback)
        outputs = self._watched(prompt, request, watch)
        return self._submissions.add(partial(reduce, VideoOutput.joined, outputs), watch)

    def _watched(
        self, prompt: str | Sequence[str] | None, request: dict[str, Any], watch: Watch | None
    ) -> Iterator[VideoOutput]:
        with settled():
            given = take_given(request)
            inputs = {name: request.pop(name) for name in self.family.inputs if name in request}
            config = self.requested(request)
            prompts = given.labels() if prompt is None else check_prompts(prompt)
            given.check_prompt(prompt)
            check_count(prompts, config)
            self.pipeline.check_given(given, prompts, config)
            if prompt is not None:
                warn_of_unknown_words(config, prompts, self._unknown_words)
            config = with_full_batches(prompts, config)
            outputs = self.runner.stream(prompts, config, inputs | given.inputs(), watch)
        return log_outputs(settled_steps(outputs), given.output_type)

    def requested(self, request: dict[str, Any]) -> PipelineConfig:
        """The config with a request's fields."""
        fields = {field.name for field in dataclasses.fields(self.config)}
        allowed = sorted(fields - loading_fields(type(self.config)))
        for name in request:
            if name not in allowed:
                known = [*allowed, *GIVEN, *self.family.inputs, "callback"]
                fixed = " (a setting of the config, which a request cannot change)" if name in fields else ""
                hint = fixed or foreign_name(name, known) or suggest(name, known)
                raise ValueError(f"unknown request {name!r}{hint}; allowed: {listing(sorted(known))}")
        return dataclasses.replace(self.config, **request).anchored()

    @settle
    def encode_prompt(self, prompt: str | Sequence[str], **request: Any) -> dict[str, torch.Tensor]:
        """The embeddings of prompts as arguments of `generate`, which then gives the same bits as with the
        prompts: `engine.generate(**engine.encode_prompt("a red circle"))`

        prompt_embeds [P, L, D] and prompt_mask [P, L]; if the request is guided by a negative prompt, also
        negative_prompt_embeds [1, L, D] and negative_prompt_mask. They are computed in this process. For
        several clips, the text of the first one is used.
        """
        config, prompts = self.requested(request), check_prompts(prompt)
        return self.pipeline.embeddings(prompts, config, self.quiet)

    @settle
    def prepare_latents(self, num_prompts: int = 1, **request: Any) -> torch.Tensor:
        """The noise [N, C, T, H, W] that `generate` draws for this many prompts, float32 on the CPU.

        ValueError without a seed, in the config or in the request, and for an invalid number.
        """
        config = self.requested(request)
        count = prompt_count(num_prompts)
        check_count(range(count), config)
        if config.seed is None:
            raise ValueError("seed is None; latents are drawn from a seed")
        jobs = make_jobs([""] * count, config.seed, config.num_videos_per_prompt)
        return self.pipeline.initial_noise(generators(jobs), config)

    @settle
    def decode_latents(self, latents: torch.Tensor, **request: Any) -> list[torch.Tensor]:
        """Videos, uint8 [T, H, W, 3], of latents [N, C, T, H, W] from `output_type="latent"`, for the same
        request. They are decoded in this process.
        """
        config = self.requested(request)
        check_tensor("latents", latents, [("N", "C", "T", "H", "W")])
        self.pipeline.check_given(
            Given(latents=latents), [""] * len(latents), replace(config, num_videos_per_prompt=1)
        )
        parts = latents.to(self.pipeline.vae.device).split(config.batch_size)
        return [video for part in parts for video in self.pipeline.decode(part, config, self.quiet)[0]]

    @settle
    def set_lora(self, *loras: str | Path | Lora | Mapping[str, Any]) -> None:
        """Replaces the LoRAs of the transformer for later requests. Without arguments it removes all, which
        restores the bits of the plain weights.

        The transformer is reloaded with the next request; running requests keep their LoRAs. With `num_gpus`
        above 1 the processes are restarted, and running requests end with `Cancelled`. ValueError for files
        that do not fit; the current LoRAs are then kept.
        """
        config = replace(self.config, lora=as_loras(loras)).anchored()
        self.runner = self.runner.changed(config)
        self.config = config

    def save_video(
        self, video: torch.Tensor, path: str | Path, *, fps: float | None = None, **options: Any
    ) -> Path:
        """Save a video and return its path. Options as in `videosys.save_video`; fps is the config's.

        Under torchrun, the first process saves it.
        """
        if not is_main_process():
            return Path(path)
        return save_video(video, path, fps=self.config.fps if fps is None else fps, **options)

    def close(self) -> None:
        """Frees the weights and ends other processes; the next `generate` starts again.

        Running requests, also of other threads, end with `Cancelled`.
        """
        self._submissions.close()
        self.runner.close()

    def __enter__(self) -> VideoSysEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class SingleProcessRunner:
    """Runs in this process only."""

    def __init__(self, config: PipelineConfig, quiet: bool):
        self.pipeline, self.quiet = family_of(config).build(config, quiet), quiet
        self.memory_check, self.running = MemoryCheck(), Running()

    def stream(
        self,
        prompts: Sequence[str],
        config: PipelineConfig,
        inputs: dict[str, Any],
        watch: Watch | None = None,
    ) -> Iterator[VideoOutput]:
        self.memory_check.look(config)
        watch = watch or Watch()
        pipeline = self.pipeline.watched(watch)
        outputs = pipeline.generate(prompts, seeded(config), quiet=self.quiet, **inputs)
        return self.running.outputs(outputs, watch)

    def changed(self, config: PipelineConfig) -> SingleProcessRunner:
        runner = SingleProcessRunner(config, self.quiet)
        runner.pipeline.keep_parts(self.pipeline)
        runner.running = self.running
        return runner

    def close(self) -> None:
        self.running.stop(closed())
        self.pipeline.close()


def runner_of(config: PipelineConfig, quiet: bool) -> Runner:
    """The runner for a config in this environment."""
    if world_size() > 1:
        return TorchrunRunner(config, quiet)
    if config.parallel.num_gpus > 1:
        return Pool(config, quiet)
    return SingleProcessRunner(config, quiet)


def prompt_count(value: object) -> int:
    """A number of prompts. ValueError for anything but a whole number of 1 or more."""
    with contextlib.suppress(ValueError):
        count: int = convert(value, int)
        if count > 0:
            return count
    raise ValueError(f"num_prompts is {shown(value)}; it must be a whole number of 1 or more")


def log_outputs(outputs: Iterator[VideoOutput], output_type: str | None) -> Iterator[VideoOutput]:
    """The outputs, converted to the output type; each is logged at level debug with its seconds."""
    begin = time.perf_counter()
    for output in outputs:
        log(
            _LOG,
            "generated",
            level=logging.DEBUG,
            seeds=output.seeds,
            frames=len(output.video[0]),
            computed=sum(step.computed for step in output.steps),
            steps=len(output.steps),
            seconds=round(time.perf_counter() - begin, 3),
        )
        yield replace(output, video=[converted(video, output_type) for video in output.video])
        begin = time.perf_counter()
