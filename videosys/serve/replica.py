"""A replica on a cluster: an engine in a separate process, possibly on another computer.

Requests and answers are encoded as bytes, as between an engine and its ranks.
"""

from __future__ import annotations

import dataclasses
import importlib
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from videosys.engine import Handle, VideoSysEngine
from videosys.engine.codec import Codec
from videosys.engine.messages import ConfiguredMessage, Failed, Message, Progress, value_codec
from videosys.engine.rank import failed
from videosys.generation.config import loading_fields
from videosys.generation.request import VideoOutput


class ReplicaLost(Exception):
    """A replica has died, does not answer, or its engine has failed; its current video is lost."""


@dataclass(frozen=True)
class Setup(ConfiguredMessage):
    """The first message: the config of the replica's engine."""


@dataclass(frozen=True)
class Order(ConfiguredMessage):
    """Requests one video. config: the engine's config with the fields of the request."""

    number: int
    prompt: str


@dataclass(frozen=True)
class Made(Message):
    """The answer to an order. seconds, cpu_seconds: wall time and CPU time of the replica's process for this
    video. device: name of the device.
    """

    output: VideoOutput
    seconds: float
    cpu_seconds: float
    device: str

    @classmethod
    def since(cls, begin: tuple[float, float], output: VideoOutput, device: str) -> Made:
        """The answer with the times since `begin`, from `times`. device: of the config."""
        seconds, cpu_seconds = times()
        return cls(output, seconds - begin[0], cpu_seconds - begin[1], device_name(device))


def times() -> tuple[float, float]:
    """(wall time, CPU time of this process) in seconds, from any point in time."""
    return time.perf_counter(), time.process_time()


def replica_codec() -> Codec:
    """A codec for these messages, including the caches and families registered so far."""
    return value_codec(Setup, Order, Made, Failed, Progress)


def device_name(device: str) -> str:
    """The name of a config's device for reports."""
    if torch.cuda.is_available() and device != "cpu":
        return torch.cuda.get_device_name()
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


class Replica:
    """Runs in the replica's process. While one thread generates, others can ask for progress or cancel."""

    def __init__(self, setup: bytes, plugins: Sequence[str]):
        """plugins: modules to import first, because they register caches or model families."""
        for module in plugins:
            importlib.import_module(module)
        self.codec = replica_codec()
        self.engine = VideoSysEngine(self.codec.unpack(setup).config, quiet=True)
        fields = {item.name for item in dataclasses.fields(self.engine.config) if item.init}
        self.request_fields = sorted(fields - loading_fields(type(self.engine.config)))
        # The last order; one tuple, because other threads read it.
        self._current: tuple[int, Handle] | None = None

    def make(self, order: bytes) -> bytes:
        """The answer to an order: `Made`, or `Failed` with the error."""
        asked = self.codec.unpack(order)
        try:
            reply: Message = self._made(asked)
        except Exception as error:
            reply = failed(asked.number, error)
        return self.codec.pack(reply)

    def _made(self, order: Order) -> Made:
        request = {name: getattr(order.config, name) for name in self.request_fields}
        begin = times()
        handle = self.engine.submit(order.prompt, **request)
        self._current = order.number, handle
        return Made.since(begin, handle.result(), self.engine.config.device)

    def node(self) -> str:
        """The id of the Ray node that this runs on."""
        import ray

        return ray.get_runtime_context().get_node_id()

    def progress(self, number: int) -> bytes | None:
        """The last step of an order, as `Progress`; None before the first."""
        handle = self._of(number)
        progress = None if handle is None else handle.progress
        return None if progress is None else self.codec.pack(Progress(number, progress))

    def cancel(self, number: int) -> None:
        """Stop an order before its next step, if it is the current one."""
        handle = self._of(number)
        if handle is not None:
            handle.cancel()

    def _of(self, number: int) -> Handle | None:
        current = self._current
        return current[1] if current is not None and current[0] == number else None
