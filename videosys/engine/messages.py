"""The messages between an engine and its ranks, and their allowed types."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from multiprocessing.connection import Connection
from typing import Any, TypeVar, get_args, get_type_hints

from videosys.cache import StepRecord
from videosys.engine.codec import MAX_MESSAGE_BYTES, Codec
from videosys.generation.compile import CompileReport
from videosys.generation.config import PipelineConfig
from videosys.generation.request import VideoOutput
from videosys.generation.watch import StepProgress
from videosys.models import FAMILIES
from videosys.utils.typed import check_types

M = TypeVar("M", bound="Message")


@dataclass(frozen=True)
class Message:
    """A message that raises ValueError for fields of wrong types, on both ends."""

    def __post_init__(self) -> None:
        check_types(self)


@dataclass(frozen=True)
class ConfiguredMessage(Message):
    """A message about a request, with its config."""

    config: Any

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.config, PipelineConfig):
            raise ValueError(f"config must be a PipelineConfig, got {type(self.config).__name__}")


@dataclass(frozen=True)
class Start(ConfiguredMessage):
    """The first message to a rank. port: of the store for the rendezvous."""

    rank: int
    port: int
    device: str
    quiet: bool
    threads: int


@dataclass(frozen=True)
class Open(ConfiguredMessage):
    """A new request. inputs: arguments of the pipeline's `generate`. log_level: of records to send back.

    is_watched: whether it may be cancelled; the first rank of each replica sends its progress.
    """

    request: int
    prompts: list[str]
    inputs: dict[str, Any]
    log_level: int
    is_watched: bool = False


@dataclass(frozen=True)
class Next(Message):
    """Requests the next micro-batch. needs_output: whether this rank sends it."""

    request: int
    needs_output: bool


@dataclass(frozen=True)
class Drop(Message):
    """Drops a request."""

    request: int


@dataclass(frozen=True)
class Cancel(Message):
    """Ends a watched request before its next step: with `Failed`, or with its finished output."""

    request: int


@dataclass(frozen=True)
class Resume(Message):
    """All ranks of the replica had the same error: continue with the next message."""


@dataclass(frozen=True)
class Close(Message):
    """The last message to a rank."""


@dataclass(frozen=True)
class Output(Message):
    """The answer to `Next`: a micro-batch is done."""

    request: int
    output: VideoOutput | None


@dataclass(frozen=True)
class Progress(Message):
    """A step of a watched request is done."""

    request: int
    progress: StepProgress


@dataclass(frozen=True)
class End(Message):
    """The answer to `Next`: there are no more micro-batches."""

    request: int


@dataclass(frozen=True)
class Failed(Message):
    """An error, as the answer to `Next` or (without a request) at any time.

    error: name of its class. is_refusal: it is a ValueError, or the request was cancelled. is_lost_peer:
    another rank cannot be reached.
    """

    request: int | None
    error: str
    text: str
    trace: str
    is_refusal: bool = False
    is_lost_peer: bool = False


@dataclass(frozen=True)
class Log(Message):
    """A log record, with the field names of `logging.LogRecord`."""

    name: str
    levelno: int
    levelname: str
    msg: str
    created: float
    fields: dict[str, Any]


FIRST = (Start,)
TO_RANK = (Open, Next, Drop, Resume, Close, Cancel)
FROM_RANK = (Output, End, Failed, Log, Progress)


class Wire:
    """One end of a pipe between two processes. Sending is thread-safe."""

    def __init__(self, connection: Connection, codec: Codec):
        self.connection, self.codec, self._lock = connection, codec, threading.Lock()

    def send(self, message: Message) -> None:
        """Sends a message; OSError if the other end is closed."""
        data = self.codec.pack(message)
        with self._lock:
            self.connection.send_bytes(data)

    def receive(self, types: tuple[type[M], ...]) -> M:
        """Waits for the next message.

        EOFError or OSError if the other end is closed. ValueError for a message that cannot be unpacked,
        has more than `MAX_MESSAGE_BYTES`, or a type not in `types`.
        """
        message = self.codec.unpack(self._receive_bytes())
        if not isinstance(message, types):
            names = ", ".join(cls.__name__ for cls in types)
            raise ValueError(f"a message is a {type(message).__name__}; expected: {names}")
        return message

    def _receive_bytes(self) -> bytes:
        try:
            return self.connection.recv_bytes(MAX_MESSAGE_BYTES)
        except OSError as error:
            # This error has no errno; the connection stays open but is not readable.
            if self.connection.closed or self.connection.readable:
                raise
            raise ValueError(f"a message has more than {MAX_MESSAGE_BYTES} bytes") from error

    def close(self) -> None:
        """Closes the connection; the other side gets EOF."""
        self.connection.close()


def message_types(configs: Iterable[type], inputs: Iterable[type] = ()) -> tuple[type, ...]:
    """The dataclasses in requests with these configs and inputs, and in their outputs.

    They are found through annotations of fields and the registries of fields.
    """
    types: dict[type, None] = {}
    pending: list[Any] = [*configs, *inputs, VideoOutput, StepRecord, StepProgress, CompileReport]
    while pending:
        hint = pending.pop(0)
        pending += get_args(hint)
        if not isinstance(hint, type) or not is_dataclass(hint) or hint in types:
            continue
        types[hint] = None
        hints = get_type_hints(hint)
        for field in fields(hint):
            choices = field.metadata.get("registry", {}).values()
            pending += [hints[field.name], *(c if isinstance(c, type) else type(c) for c in choices)]
    return tuple(types)


def value_types() -> tuple[type, ...]:
    """The dataclasses that ranks exchange: those of all known pipelines."""
    families = FAMILIES.values()
    inputs = [item for family in families for item in family.inputs.values()]
    return message_types([family.config for family in families], inputs)


@contextlib.contextmanager
def refusing_unknown() -> Iterator[None]:
    """Turns the codec's TypeError for a request that it cannot pack into a ValueError for the user."""
    try:
        yield
    except TypeError as error:
        raise ValueError(
            f"{error}; register your own classes (register_cache, register_family) before the engine's "
            "first request"
        ) from error


def value_codec(*more: type) -> Codec:
    """A codec for values that ranks exchange, and for other dataclasses.

    Its types include those of the caches and families registered so far.
    """
    return Codec((*more, *value_types()))


def message_codec() -> Codec:
    """A codec for the messages between an engine and its ranks, with all types registered so far."""
    return value_codec(*FIRST, *TO_RANK, *FROM_RANK)
