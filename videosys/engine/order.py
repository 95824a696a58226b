"""Outputs in the order in which their videos were asked for, whoever made them first."""

from __future__ import annotations

from collections.abc import Sequence

from videosys.generation.config import PipelineConfig
from videosys.generation.request import VideoJob, VideoOutput, batches, make_jobs


class Order:
    """Holds the output of a micro-batch back until those before it are there."""

    def __init__(self, made: Sequence[Sequence[VideoJob]]):
        """made: the micro-batches in order; the same one may stand at several places."""
        self._open: list[list[VideoJob] | None] = [list(jobs) for jobs in made]  # None: it is there
        self._next = 0
        self._held: dict[int, VideoOutput] = {}

    @classmethod
    def of(cls, prompts: Sequence[str], config: PipelineConfig) -> Order:
        """The order of a request, whose seed is set."""
        assert config.seed is not None, "the engine draws the seed"
        jobs = make_jobs(prompts, config.seed, config.num_videos_per_prompt)
        return cls(list(batches(jobs, config.batch_size)))

    def add(self, output: VideoOutput) -> None:
        place = self._open.index([VideoJob(*pair) for pair in zip(output.prompts, output.seeds)])
        self._open[place] = None
        self._held[place] = output

    def next(self, anyway: bool = False) -> VideoOutput | None:
        """The next output if it is there; `anyway`: the first of those that are."""
        first = min(self._held, default=None)
        if first is None or not (anyway or first == self._next):
            return None
        self._next = first + 1
        return self._held.pop(first)
