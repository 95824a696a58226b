"""Reorders outputs of several replicas into the order of the request."""

from __future__ import annotations

from collections.abc import Sequence

from videosys.generation.config import PipelineConfig
from videosys.generation.request import VideoJob, VideoOutput, batches, make_jobs


class ReorderBuffer:
    """Keeps the output of a micro-batch until the previous ones have arrived."""

    def __init__(self, micro_batches: Sequence[Sequence[VideoJob]]):
        """micro_batches: in order; the same one may occur several times."""
        # None: has arrived
        self._expected: list[list[tuple[str, int]] | None] = [
            [(job.prompt, job.seed) for job in jobs] for jobs in micro_batches
        ]
        self._next = 0
        self._arrived: dict[int, VideoOutput] = {}

    @classmethod
    def for_request(cls, prompts: Sequence[str], config: PipelineConfig) -> ReorderBuffer:
        """The buffer of a request with a seed."""
        assert config.seed is not None, "the engine draws the seed"
        jobs = make_jobs(prompts, config.seed, config.num_videos_per_prompt)
        return cls(list(batches(jobs, config.batch_size)))

    def put(self, output: VideoOutput, replica: int = 0, replicas: int = 1) -> None:
        """Adds an output of a replica, whose k-th micro-batch is number k * replicas + replica of all.

        ValueError if no micro-batch with these prompts and seeds is expected from the replica.
        """
        jobs = list(zip(output.prompts, output.seeds))
        own = range(replica, len(self._expected), replicas)
        index = next((index for index in own if self._expected[index] == jobs), None)
        if index is None:
            raise ValueError(f"no output of {jobs} is expected")
        self._expected[index] = None
        self._arrived[index] = output

    def pop(self, skip_missing: bool = False) -> VideoOutput | None:
        """The next output, or None if it has not arrived; `skip_missing`: the first that has arrived."""
        first = min(self._arrived, default=None)
        if first is None or not (skip_missing or first == self._next):
            return None
        self._next = first + 1
        return self._arrived.pop(first)
