"""A pipeline that does what its prompts say, in the processes of an engine."""

from __future__ import annotations

import ctypes
import os
import signal
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist

from tests.hostile import hostile
from videosys.cache import StepRecord
from videosys.engine.rank import LogSender
from videosys.generation.request import VideoJob, VideoOutput, batches, make_jobs
from videosys.utils.logging import get_logger, log
from videosys.utils.progress import progress

HERE = __name__
STEP = StepRecord(0, 999.5, None, float("nan"), 0.25, True)


class Fake:
    """Videos of one frame of the number of the seed; replica r makes every dp-th micro-batch from r on."""

    def __init__(self, config: Any, quiet: bool, device: torch.device):
        self.dp = config.parallel.dp
        self.size = config.parallel.num_gpus // self.dp
        self.quiet = quiet
        # As the mesh does it: every rank makes every group.
        groups = [dist.new_group(list(range(r * self.size, (r + 1) * self.size))) for r in range(self.dp)]
        self.group = groups[dist.get_rank() // self.size]

    def generate(
        self, prompts: Sequence[str], config: Any, quiet: bool, references: Any = None
    ) -> Iterator[VideoOutput | None]:
        assert quiet == self.quiet
        micro_batches = list(
            batches(make_jobs(prompts, config.seed, config.num_videos_per_prompt), config.batch_size)
        )
        for jobs in micro_batches[dist.get_rank() // self.size :: self.dp]:
            for job in jobs:
                obey(job.prompt, quiet)
            total = torch.ones(())
            dist.all_reduce(total, group=self.group)
            assert total == self.size
            first = dist.get_rank() % self.size == 0
            yield output(jobs, references, config.fps) if first else None

    def close(self) -> None:
        pass


def output(jobs: Sequence[VideoJob], references: Any, fps: float) -> VideoOutput:
    videos = [torch.full((1, 2, 2, 3), job.seed % 256, dtype=torch.uint8) for job in jobs]
    if references is not None:
        videos = [references[0].source.clone() for _ in jobs]
    return VideoOutput(videos, [j.prompt for j in jobs], [j.seed for j in jobs], [[STEP]] * len(jobs), fps)


def obey(prompt: str, quiet: bool) -> None:
    """Does what a prompt says: `kill 1` ends rank 1, other prompts do nothing. Without a rank all obey."""
    word, _, rank = prompt.partition(" ")
    if rank.isdigit() and int(rank) != dist.get_rank():
        return
    if word == "raise":
        raise ZeroDivisionError(f"as asked, on rank {dist.get_rank()}")
    if word == "refuse":
        raise ValueError("prompt is 'refuse'; it must be another")
    if word in ("kill", "abort", "stop"):
        os.kill(os.getpid(), {"kill": signal.SIGKILL, "abort": signal.SIGABRT, "stop": signal.SIGSTOP}[word])
    if word == "leave":
        os._exit(3)
    if word == "forge" and dist.get_rank() == 1:
        forge(f"touch {rank}")
    if word == "hang":
        stand_still()
    if word == "hold":  # as C code does that never lets go of the interpreter
        ctypes.PyDLL(None).sleep(600)
    if word == "speak":
        log(get_logger("fake"), "spoken", rank=dist.get_rank())
        warnings.warn("spoken", stacklevel=1)
        list(progress(range(3), "bar", quiet=quiet))


def stand_still() -> None:
    time.sleep(600)


def forge(command: str) -> None:
    """Sends the parent a message that asks for a shell."""
    (sender,) = (handler for handler in get_logger().handlers if isinstance(handler, LogSender))
    sender.wire.connection.send_bytes(hostile(command)["shell"][0])


def build_with_plugin(config: Any, quiet: bool, device: torch.device) -> Fake:
    assert os.environ["THEIR_PLUGIN"] == "imported"
    assert torch.get_default_dtype() == torch.float32  # the plugin has set another
    return Fake(config, quiet, device)


def build(config: Any, quiet: bool, device: torch.device) -> Fake:
    return Fake(config, quiet, device)


def build_raising(config: Any, quiet: bool, device: torch.device) -> Fake:
    if dist.get_rank() == 1:
        raise FileNotFoundError("no weights")
    dist.barrier()
    return Fake(config, quiet, device)


def build_refusing(config: Any, quiet: bool, device: torch.device) -> Fake:
    raise ValueError("the checkpoint does not fit")
