"""A rank: one of the processes that an engine starts, from its first message to its end."""

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
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist

from videosys.engine import group
from videosys.engine.messages import Message, Wire
from videosys.generation.base import VideoOutput
from videosys.parallel import ParallelConfig
from videosys.utils.logging import get_logger
from videosys.utils.plain import to_plain

PR_SET_PDEATHSIG = 1
RESUME = {"kind": "resume"}  # after an error that all ranks of the replica have had
# What a rank says whose peer is gone: not the cause.
PEER_IS_GONE = re.compile(r"gloo|nccl|connection (closed|reset)|process ?group|timed out", re.IGNORECASE)


def main(pipe: int, trace: int) -> None:
    """Serves the parent at the other end of `pipe` until that is closed; the process ends here.

    trace: the file that this process writes its stack to, when it is asked by SIGUSR1 or crashes.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes: the parent decides
    faulthandler.enable(trace)
    faulthandler.register(signal.SIGUSR1, trace)
    for descriptor in (pipe, trace):
        os.set_inheritable(descriptor, False)
    wire = Wire(Connection(pipe))
    try:
        serve(wire)
    except BaseException as error:
        with contextlib.suppress(OSError):  # the parent is gone
            wire.send("error", request=None, **report(error))
        leave(1)
    leave(0)


def leave(status: int) -> None:
    """Ends the process without waiting for other ranks or threads."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def serve(wire: Wire) -> None:
    """Joins the others as the first message says, and does what the next ones say until the last."""
    start = wire.receive()
    if start["bound"]:
        end_with_parent()
    inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
    threading.Thread(target=listen, args=(wire, inbox), name="listen", daemon=True).start()
    prepare(wire, start)
    device = torch.device(start["device"])
    parallel: ParallelConfig = start["config"].parallel
    store = dist.TCPStore("127.0.0.1", start["port"], is_master=False)
    # Later than the parent's deadline: it knows which rank is silent.
    timeout = 2 * parallel.timeout
    group.join(device, timeout, rank=start["place"], world_size=parallel.num_gpus, store=store)
    module, _, name = start["build"].partition(":")
    build = getattr(importlib.import_module(module), name)
    quiet = start["quiet"] or start["place"] > 0
    pipeline = build(start["config"], quiet, device)
    work(wire, inbox, pipeline, quiet)
    pipeline.close()
    group.leave()


def end_with_parent() -> None:
    """Lets the kernel (of Linux) end this process with its parent, whatever this process is doing."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def listen(wire: Wire, inbox: queue.SimpleQueue[Message]) -> None:
    """Passes messages on; ends the process when the parent is gone, whatever the main thread is doing."""
    while True:
        try:
            inbox.put(wire.receive())
        except (EOFError, OSError):
            os._exit(1)


def prepare(wire: Wire, start: Message) -> None:
    """Threads, and where what is written down goes to: the parent, which has told by itself how it starts."""
    torch.set_num_threads(start["threads"])
    logger = get_logger()
    logger.addHandler(Forward(wire))
    logger.setLevel(logging.CRITICAL + 1)
    if start["place"] > 0:
        warnings.simplefilter("ignore")


class Forward(logging.Handler):
    """Gives what is logged to the parent, which writes it down as its program wants."""

    def __init__(self, wire: Wire):
        super().__init__()
        self.wire = wire

    def emit(self, record: logging.LogRecord) -> None:
        fields = to_plain(getattr(record, "fields", {}))
        about = {"name": record.name, "levelno": record.levelno, "levelname": record.levelname}
        about |= {"msg": record.getMessage(), "fields": fields, "created": record.created}
        with contextlib.suppress(OSError):
            self.wire.send("log", record=about)


def work(wire: Wire, inbox: queue.SimpleQueue[Message], pipeline: Any, quiet: bool) -> None:
    """Answers each `next` with a micro-batch of its request, with its end or with an error."""
    requests: dict[int, Iterator[VideoOutput | None]] = {}
    held: deque[Message] = deque()
    while (message := held.popleft() if held else inbox.get())["kind"] != "close":
        number = message["request"]
        if message["kind"] == "open":
            get_logger().setLevel(message["level"])
            config, inputs = message["config"], message["inputs"]
            requests[number] = pipeline.generate(message["prompts"], config, quiet=quiet, **inputs)
        elif message["kind"] == "drop":
            requests.pop(number, None)
        elif not advance(wire, requests, number, message["wanted"]):
            # What this rank did next, another that knows of no error would take for its part of this request.
            held.extend(iter(inbox.get, RESUME))


def advance(wire: Wire, requests: dict[int, Iterator[VideoOutput | None]], number: int, wanted: bool) -> bool:
    """Whether there was no error."""
    try:
        output = next(requests[number])
    except StopIteration:
        del requests[number]
        wire.send("end", request=number)
    except Exception as error:
        del requests[number]
        wire.send("error", request=number, **report(error))
        return False
    else:
        wire.send("output", request=number, output=output if wanted else None)
    return True


def report(error: BaseException) -> dict[str, Any]:
    """What the parent needs to know about an error."""
    text = str(error)
    return {
        "error": type(error).__name__,
        "text": text,
        "trace": "".join(traceback.format_exception(error)),
        "is_mistake": isinstance(error, ValueError),
        "is_peer": isinstance(error, RuntimeError) and bool(PEER_IS_GONE.search(text)),
    }
