"""A rank: one of the processes that an engine starts."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import importlib
import logging
import os
import queue
import re
import signal
import sys
import threading
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist

from videosys.engine import group
from videosys.engine import messages as m
from videosys.engine.codec import Codec
from videosys.generation.request import VideoOutput
from videosys.generation.watch import Cancelled, StepProgress, Watch, forget_frames
from videosys.parallel import ParallelConfig
from videosys.utils.logging import get_logger
from videosys.utils.plain import to_plain
from videosys.utils.settled import settled

PR_SET_PDEATHSIG = 1
# Errors of a rank that has lost a peer: they are not the cause.
LOST_PEER = re.compile(r"gloo|nccl|connection (closed|reset)|process ?group|timed out", re.IGNORECASE)


def main(pipe: int, stack_file: int, build: str, plugins: Sequence[str], ends_with_parent: bool) -> None:
    """Serves the parent at the other end of `pipe` until it is closed; the process ends here.

    stack_file: descriptor of the file for this process's stack, written on SIGUSR1 and in a crash.
    build, plugins: as in `Processes`; only they decide what is imported here.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes: the parent decides
    faulthandler.enable(stack_file)
    faulthandler.register(signal.SIGUSR1, stack_file)
    for descriptor in (pipe, stack_file):
        os.set_inheritable(descriptor, False)
    if ends_with_parent:  # by the Linux kernel, independent of this process
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    wire = m.Wire(Connection(pipe), Codec((m.Failed,)))
    try:
        for module in plugins:
            importlib.import_module(module)
        wire.codec = m.message_codec()  # includes all that is registered now
        module, _, name = build.partition(":")
        with settled():  # even if a plugin has changed it
            serve(wire, getattr(importlib.import_module(module), name))
    except BaseException as error:
        give_up(wire, error)
    leave(0)


def give_up(wire: m.Wire, error: BaseException) -> None:
    """Reports an error to the parent and ends the process."""
    with contextlib.suppress(OSError):  # the parent is gone
        wire.send(failed(None, error))
    leave(1)


def leave(status: int) -> None:
    """Ends the process without waiting for other ranks or threads."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def serve(wire: m.Wire, build: Callable[..., Any]) -> None:
    """Joins the group described in the first message, and answers the following ones."""
    start = wire.receive(m.FIRST)
    inbox = Inbox(wire, tells=start.rank % start.config.parallel.replica_size == 0)
    threading.Thread(target=inbox.listen, name="listen", daemon=True).start()
    prepare(wire, start)
    device = torch.device(start.device)
    parallel: ParallelConfig = start.config.parallel
    store = dist.TCPStore("127.0.0.1", start.port, is_master=False)
    # Later than the parent's deadline, because the parent can name the silent rank.
    timeout = 2 * parallel.timeout
    group.join(device, timeout, rank=start.rank, world_size=parallel.num_gpus, store=store)
    quiet = start.quiet or start.rank > 0
    pipeline = build(start.config, quiet, device)
    answer_requests(wire, inbox, pipeline, quiet)
    pipeline.close()
    group.leave()


class Inbox:
    """The parent's messages in order, except `Cancel`, which takes effect at once.

    tells: whether this rank sends the progress of watched requests. watches: of these requests, by number.
    """

    def __init__(self, wire: m.Wire, tells: bool):
        self.wire, self.tells = wire, tells
        self.watches: dict[int, Watch] = {}
        self._messages: queue.SimpleQueue[m.Message] = queue.SimpleQueue()

    def get(self) -> m.Message:
        """Waits for the next message."""
        return self._messages.get()

    def listen(self) -> None:
        """Receives messages; ends the process when the parent is gone, even if the main thread is busy."""
        while True:
            try:
                message = self.wire.receive(m.TO_RANK)
            except (EOFError, OSError):
                os._exit(1)
            except ValueError as error:
                give_up(self.wire, error)
            if isinstance(message, m.Open) and message.is_watched:
                send = partial(self._send_progress, message.request) if self.tells else None
                self.watches[message.request] = Watch(send)
            if not isinstance(message, m.Cancel):
                self._messages.put(message)
            elif message.request in self.watches:
                self.watches[message.request].stop(Cancelled("the request was cancelled"))

    def _send_progress(self, request: int, progress: StepProgress) -> None:
        with contextlib.suppress(OSError):  # the parent is gone
            self.wire.send(m.Progress(request, progress))


def prepare(wire: m.Wire, start: m.Start) -> None:
    """Sets the number of threads, and sends log records to the parent, from the first request on."""
    torch.set_num_threads(start.threads)
    logger = get_logger()
    logger.addHandler(LogSender(wire))
    logger.setLevel(logging.CRITICAL + 1)
    if start.rank > 0:
        warnings.simplefilter("ignore")


class LogSender(logging.Handler):
    """Sends log records to the parent."""

    def __init__(self, wire: m.Wire):
        super().__init__()
        self.wire = wire

    def emit(self, record: logging.LogRecord) -> None:
        fields = to_plain(getattr(record, "fields", {}))
        text = record.getMessage()
        log = m.Log(record.name, record.levelno, record.levelname, text, record.created, fields)
        with contextlib.suppress(OSError):
            self.wire.send(log)


def answer_requests(wire: m.Wire, inbox: Inbox, pipeline: Any, quiet: bool) -> None:
    """Answers each `Next` with a micro-batch, the end or an error of its request, until `Close`."""
    requests: dict[int, Iterator[VideoOutput | None]] = {}
    deferred: deque[m.Message] = deque()
    while not isinstance(message := deferred.popleft() if deferred else inbox.get(), m.Close):
        if isinstance(message, m.Open):
            get_logger().setLevel(message.log_level)
            watch = inbox.watches.get(message.request)
            own = pipeline if watch is None else pipeline.watched(watch)
            outputs = own.generate(message.prompts, message.config, quiet=quiet, **message.inputs)
            requests[message.request] = outputs
        elif isinstance(message, m.Drop):
            requests.pop(message.request, None)
            inbox.watches.pop(message.request, None)
        elif isinstance(message, m.Next):
            reply = advance(requests, message)
            wire.send(reply)
            if isinstance(reply, m.Failed):
                # Collectives of a later message would mix with those of other ranks for this one.
                deferred.extend(iter(inbox.get, m.Resume()))


def advance(requests: dict[int, Iterator[VideoOutput | None]], message: m.Next) -> m.Message:
    """The answer to a `Next`."""
    number = message.request
    try:
        output = next(requests[number])
    except StopIteration:
        del requests[number]
        return m.End(number)
    except Exception as error:
        requests.pop(number, None)
        failure = failed(number, error)
        forget_frames(error)
        return failure
    return m.Output(number, output if message.needs_output else None)


def failed(request: int | None, error: BaseException) -> m.Failed:
    """The report of an error to the parent."""
    text, trace = str(error), "".join(traceback.format_exception(error))
    is_lost_peer = isinstance(error, RuntimeError) and bool(LOST_PEER.search(text))
    is_refusal = isinstance(error, (ValueError, Cancelled))
    return m.Failed(request, type(error).__name__, text, trace, is_refusal, is_lost_peer)
