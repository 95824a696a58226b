"""The processes of an engine as their parent sees them: started, listened to, ended."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import wait
from typing import IO, Any

import torch
import torch.distributed as dist

from videosys.engine.messages import Message, Wire

# Before any import: from here on Ctrl-C is the parent's to hear. The caller's own script is not imported.
START = (
    "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); import json, sys; "
    "sys.path[:] = json.loads(sys.argv[1]); from videosys.engine.rank import main; "
    "main(*map(int, sys.argv[2:]))"
)
PATIENCE = 2.0  # seconds that a process has to end by itself
TALKATIVE = ("TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY")


class Processes:
    """One process per rank, with a pipe to each; they end with this object and with this process."""

    def __init__(self, starts: Sequence[Mapping[str, Any]]):
        """starts: what each rank's first message says, besides the port of the store that all join."""
        self.store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self.popens: list[subprocess.Popen] = []
        self.wires: list[Wire] = []
        self.traces: list[IO[bytes]] = []
        self.open: dict[Any, int] = {}
        self.owed = [0] * len(starts)  # answers to `next` that are still to come
        self.end = weakref.finalize(self, end, os.getpid(), self.popens, self.wires, self.traces)
        for rank, start in enumerate(starts):
            self._start(rank)
            self.send(rank, "start", place=rank, port=self.store.port, bound=is_main_thread(), **start)

    def _start(self, rank: int) -> None:
        ours, theirs = Pipe()
        trace = tempfile.TemporaryFile()  # noqa: SIM115 (it is open as long as the process)
        numbers = (theirs.fileno(), trace.fileno())
        path = json.dumps([item or os.getcwd() for item in sys.path])
        with theirs:
            popen = subprocess.Popen(
                [sys.executable, "-c", START, path, *map(str, numbers)],
                stdin=subprocess.DEVNULL,
                pass_fds=numbers,
                env=environment(rank),
            )
        self.popens.append(popen)
        self.wires.append(Wire(ours))
        self.traces.append(trace)
        self.open[ours] = rank

    def __len__(self) -> int:
        return len(self.popens)

    def send(self, rank: int, kind: str, **fields: Any) -> None:
        """Sends a message. That a process is gone is told by `receive`."""
        self.owed[rank] += kind == "next"
        with contextlib.suppress(OSError):
            self.wires[rank].send(kind, **fields)

    def receive(self, seconds: float) -> list[tuple[int, Message | None]]:
        """Messages with their ranks, None where a process has ended; nothing after so many seconds."""
        found: list[tuple[int, Message | None]] = []
        if not self.end.alive:
            return found
        for connection in wait(list(self.open), seconds):
            rank = self.open[connection]
            try:
                message = self.wires[rank].receive()
            except (EOFError, OSError):
                del self.open[connection]
                found.append((rank, None))
            else:
                self.owed[rank] -= message["kind"] in ("output", "end", "error")
                found.append((rank, message))
        return found

    def status(self, rank: int) -> int | None:
        """The exit status of a process that has closed its pipe; below 0 is the signal that ended it."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.popens[rank].wait(PATIENCE)
        return None

    def crash(self, rank: int) -> str:
        """What a process wrote about its crash."""
        self.traces[rank].seek(0)
        return self.traces[rank].read().decode(errors="replace").strip()

    def stacks(self, ranks: Sequence[int]) -> dict[int, str]:
        """Where each of these processes stands."""
        for rank in ranks:
            self.popens[rank].send_signal(signal.SIGUSR1)
        deadline = time.monotonic() + PATIENCE
        while not all(map(self.crash, ranks)) and time.monotonic() < deadline:
            time.sleep(0.05)
        return {rank: self.crash(rank) for rank in ranks}

    def close(self) -> None:
        """Lets idle processes leave by themselves, and ends those that work or do not leave."""
        if not any(self.owed):
            for rank in range(len(self)):
                self.send(rank, "close")
            wait_for(self.popens, PATIENCE)
        self.end()


def is_main_thread() -> bool:
    """Whether the thread that starts a process lives as long as the program."""
    return threading.current_thread() is threading.main_thread()


def environment(rank: int) -> dict[str, str]:
    """A rank's variables: gloo keeps to this computer, and the libraries of further ranks are silent."""
    loopback = {"linux": "lo", "darwin": "lo0"}.get(sys.platform)
    variables = {} if loopback is None else {"GLOO_SOCKET_IFNAME": loopback}
    if rank > 0:
        variables |= dict.fromkeys(TALKATIVE, "error")
    return {**variables, **os.environ}


def end(parent: int, popens: list[subprocess.Popen], wires: list[Wire], traces: list[IO[bytes]]) -> None:
    """Ends processes, unless this is a fork of their parent."""
    if os.getpid() != parent:
        return
    for popen in popens:
        popen.terminate()
    wait_for(popens, PATIENCE)
    for popen in popens:
        popen.kill()
        popen.wait()
    for wire in wires:
        wire.close()
    for trace in traces:
        trace.close()


def wait_for(popens: Sequence[subprocess.Popen], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    for popen in popens:
        with contextlib.suppress(subprocess.TimeoutExpired):
            popen.wait(max(0.0, deadline - time.monotonic()))


def threads_of(num_ranks: int) -> int:
    """Threads for each of several ranks on this computer."""
    return max(1, torch.get_num_threads() // num_ranks)
