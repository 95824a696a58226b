"""One of the processes started by torchrun: all run the same program and send the same requests."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from hashlib import sha256
from typing import Any

import torch.distributed as dist

from videosys.engine import group
from videosys.engine.build import build_pipeline, rank_device
from videosys.engine.codec import Codec, is_plain
from videosys.engine.messages import Message, refusing_unknown, value_codec
from videosys.engine.reorder import ReorderBuffer
from videosys.estimate.memory import MemoryCheck
from videosys.generation.config import PipelineConfig
from videosys.generation.request import VideoOutput
from videosys.generation.watch import Cancelled, Watch, forget_frames
from videosys.utils.logging import get_logger
from videosys.utils.plain import to_plain
from videosys.utils.seed import draw_seed

VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
ADVICE = f"if no torchrun started this program: unset {' '.join(VARIABLES)}"
PATIENCE = 10.0  # seconds after which waiting for the other ranks is logged
SHOWN = 200  # characters of a value in a message

_LOG = get_logger("engine")


def world_size() -> int:
    """The number of processes started by torchrun for this program; 1 without torchrun.

    ValueError if the environment variables are inconsistent.
    """
    if not all(name in os.environ for name in VARIABLES):
        return 1
    for name in ("RANK", "WORLD_SIZE", "MASTER_PORT", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        value = os.environ.get(name, "0")  # other launchers may not set the local ones
        if not (value.isascii() and value.isdecimal()):
            raise ValueError(f"{name}={os.environ[name]} in the environment is not a number; {ADVICE}")
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if not rank < world:
        raise ValueError(f"RANK={rank} in the environment is not below WORLD_SIZE={world}; {ADVICE}")
    return world


def is_main_process() -> bool:
    """Whether this process saves and prints: the only one, or the first one under torchrun."""
    return world_size() == 1 or int(os.environ["RANK"]) == 0


@dataclass(frozen=True)
class Description(Message):
    """The request of a rank, as `describe` returns it."""

    values: dict[str, str]


@dataclass(frozen=True)
class Seed(Message):
    seed: int


@dataclass(frozen=True)
class Turn(Message):
    """A rank's micro-batch. is_end: it has none left. output: of the first rank of a replica. is_stopped: the
    request was stopped.
    """

    is_end: bool
    output: VideoOutput | None
    is_stopped: bool = False


class TorchrunRunner:
    """This process's share of the work. Every process gets all videos."""

    def __init__(self, config: PipelineConfig, quiet: bool):
        """ValueError if `parallel.num_gpus` is neither 1 nor the number of processes."""
        world, num_gpus = world_size(), config.parallel.num_gpus
        if num_gpus not in (1, world):
            raise ValueError(f"parallel.num_gpus is {num_gpus}, but torchrun started {world} processes")
        parallel = replace(config.parallel, num_gpus=world).resolved(config.is_guided)
        self.config, self.quiet = replace(config, parallel=parallel), quiet or not is_main_process()
        here = int(os.environ.get("LOCAL_WORLD_SIZE", world))
        self.device = rank_device(self.config, local_rank(), here)
        self.memory_check = MemoryCheck(here)
        self._running: list[object] = []  # running requests
        if not dist.is_initialized():
            with meeting():
                group.join(self.device, parallel.timeout)
            atexit.register(leave_if_done, self._running)
        self.pipeline = build_pipeline(self.config, self.quiet, self.device)

    def stream(
        self,
        prompts: Sequence[str],
        config: PipelineConfig,
        inputs: dict[str, Any],
        watch: Watch | None = None,
    ) -> Iterator[VideoOutput]:
        """The outputs in order, in every process. ValueError in all of them if requests differ."""
        config = replace(config, parallel=self.config.parallel)
        if local_rank() == 0:  # for all on this computer
            self.memory_check.look(config)
        codec = value_codec(Description, Seed, Turn)  # includes all that is registered now
        with refusing_unknown():
            codec.check((config, inputs))
        description = Description(describe(prompts, config, inputs, codec) | watched(watch))
        check_same_request([other.values for other in group.exchange(description, codec)])
        if config.seed is None:
            config = replace(config, seed=group.exchange(Seed(draw_seed()), codec)[0].seed)
        config = replace(config, device=str(self.device))
        pipeline = self.pipeline if watch is None else self.pipeline.watched(watch)
        outputs = pipeline.generate(prompts, config, quiet=self.quiet, **inputs)
        return self._exchanged(outputs, ReorderBuffer.for_request(prompts, config), config, codec, watch)

    def _exchanged(
        self,
        outputs: Iterator[VideoOutput],
        buffer: ReorderBuffer,
        config: PipelineConfig,
        codec: Codec,
        watch: Watch | None,
    ) -> Iterator[VideoOutput]:
        size = config.parallel.replica_size
        is_first = dist.get_rank() % size == 0
        self._running.append(outputs)
        is_working = True
        while is_working:
            turns = group.exchange(take_turn(outputs, is_first, watch), codec)
            if watch is not None and any(turn.is_stopped for turn in turns):
                self._running.remove(outputs)
                raise watch.error or Cancelled("the request was cancelled")
            is_working = not all(turn.is_end for turn in turns)
            for rank, turn in enumerate(turns):
                if turn.output is not None:
                    buffer.put(turn.output, rank // size, len(turns) // size)
            while (output := buffer.pop()) is not None:
                yield output
        self._running.remove(outputs)

    def changed(self, config: PipelineConfig) -> TorchrunRunner:
        """The runner of another transformer."""
        runner = TorchrunRunner(config, self.quiet)
        runner.pipeline.keep_parts(self.pipeline)
        runner._running = self._running  # it is checked at the end of the program
        return runner

    def close(self) -> None:
        """Frees the weights. The process group stays for other uses."""
        self.pipeline.close()


@contextlib.contextmanager
def meeting() -> Iterator[None]:
    """Logs an error if the ranks have not connected after `PATIENCE`; ValueError if they cannot connect."""
    where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    which = f"rank {os.environ['RANK']} of {os.environ['WORLD_SIZE']}"
    # An error, since all ranks but the first are quiet.
    words = f"{which} has waited {PATIENCE:g} s for the others at {where}; {ADVICE}"
    timer = threading.Timer(PATIENCE, _LOG.error, [words])
    timer.daemon = True
    timer.start()
    try:
        yield
    except (RuntimeError, ValueError) as error:  # torch's own errors of stores and networks are RuntimeErrors
        reason = " ".join(str(error).split())[:SHOWN]
        raise ValueError(f"{which} cannot connect to the others at {where}: {reason}; {ADVICE}") from error
    finally:
        timer.cancel()


def local_rank() -> int:
    """The local rank of this process on this computer."""
    return int(os.environ.get("LOCAL_RANK", os.environ["RANK"]))


def take_turn(outputs: Iterator[VideoOutput], has_output: bool, watch: Watch | None = None) -> Turn:
    """The next micro-batch; its output is sent if this rank `has_output`."""
    try:
        for output in outputs:
            return Turn(is_end=False, output=output if has_output else None)
    except Exception as error:
        if watch is None or not (isinstance(error, Cancelled) or error is watch.error):
            raise
        forget_frames(error)
        return Turn(is_end=True, output=None, is_stopped=True)
    return Turn(is_end=True, output=None)


def watched(watch: Watch | None) -> dict[str, str]:
    """What ranks must agree on, in addition to the request."""
    return {} if watch is None else {"callback": "given"}


def leave_if_done(running: Sequence[object]) -> None:
    """Leaves the group at the end of the program, unless others may be waiting."""
    if not running:
        group.leave()


def describe(
    prompts: Sequence[str], config: PipelineConfig, inputs: dict[str, Any], codec: Codec
) -> dict[str, str]:
    """The fields of a request as short texts, equal where the values are equal."""
    values = {field.name: getattr(config, field.name) for field in fields(config)}
    values |= {"prompt": list(prompts), **inputs}
    return {name: short_text(value, codec) for name, value in values.items()}


def short_text(value: Any, codec: Codec) -> str:
    """A value as text, shortened with a hash if necessary."""
    text = json.dumps(to_plain(value, key=str, other=lambda item: f"a {type(item).__name__}"))
    is_whole = is_plain(value) or (isinstance(value, list) and all(map(is_plain, value)))
    if is_whole and len(text) <= SHOWN:
        return text
    shown = text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
    return f"{shown} ({sha256(codec.pack(value)).hexdigest()[:16]})"


def check_same_request(descriptions: Sequence[dict[str, str]]) -> None:
    """ValueError naming a rank and the fields that differ from rank 0's, with the value of every rank."""
    first = descriptions[0]
    for rank, own in enumerate(descriptions):
        names = sorted(name for name in {*own, *first} if own.get(name) != first.get(name))
        if names:
            differences = ", ".join(f"{name} is {own.get(name)} and {first.get(name)}" for name in names)
            others = "; ".join(all_values(name, descriptions) for name in names)
            all_of_them = f"; of all: {others}" if len(descriptions) > 2 else ""
            raise ValueError(f"rank {rank}: request differs from rank 0: {differences}{all_of_them}")


def all_values(name: str, descriptions: Sequence[dict[str, str]]) -> str:
    values = (f"rank {rank}: {own.get(name)}" for rank, own in enumerate(descriptions))
    return f"{name} ({', '.join(values)})"
