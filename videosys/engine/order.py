"""Outputs in the order in which their videos were asked for, whoever made them first."""

from __future__ import annotations

from collections.abc import Sequence

from videosys.pipelines.base import Job, VideoOutput


class Order:
    """Holds an output back until those before it are there."""

    def __init__(self, jobs: Sequence[Job]):
        self._open: list[Job | None] = list(jobs)  # None: made
        self._given = [False] * len(jobs)
        self._held: dict[int, tuple[list[int], VideoOutput]] = {}

    def add(self, output: VideoOutput) -> None:
        places = [self._place(Job(*job)) for job in zip(output.prompts, output.seeds)]
        self._held[places[0]] = (places, output)

    def _place(self, job: Job) -> int:
        """Where the job stands; the same prompt and seed may stand at several places."""
        place = self._open.index(job)
        self._open[place] = None
        return place

    def next(self, anyway: bool = False) -> VideoOutput | None:
        """The next output if it is there; `anyway`: the first of those that are."""
        first = min(self._held, default=None)
        if first is None or not (anyway or all(self._given[:first])):
            return None
        places, output = self._held.pop(first)
        for place in places:
            self._given[place] = True
        return output
