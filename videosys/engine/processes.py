"""The processes of an engine, from the parent's side: start, receive, end."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Iterable, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import wait
from typing import IO, Any

import torch.distributed as dist

from videosys.engine.codec import Codec
from videosys.engine.messages import FROM_RANK, Close, End, Failed, Message, Next, Output, Wire

# Before any import: from here on, the parent handles Ctrl-C. The caller's script is not imported.
# Only the command line decides what is imported and called here, never a message.
START = (
    "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); import json, sys; "
    "options = json.loads(sys.argv[1]); sys.path[:] = options.pop('path'); "
    "from videosys.engine.rank import main; main(**options)"
)
EXIT_SECONDS = 2.0  # for a process to exit by itself, and to write its stack
VERBOSITY_VARIABLES = ("TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY")


class Processes:
    """One process per rank, with a pipe to each; they end with this object and with this process."""

    def __init__(self, num_ranks: int, codec: Codec, build: str, plugins: Sequence[str] = ()):
        """build: `module:function` that builds a rank's pipeline from config, quiet and device.

        plugins: modules that every rank imports first, because they register caches or model families.
        """
        self.codec = codec
        self.store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self.popens: list[subprocess.Popen] = []
        self.wires: list[Wire] = []
        self.stack_files: list[IO[bytes]] = []
        self.open: dict[Any, int] = {}
        self.pending_replies = [0] * num_ranks  # to `Next`
        self.is_interrupted = False
        self._woken, self._waker = Pipe(duplex=False)
        owned = (self.popens, self.wires, self.stack_files, (self._woken, self._waker))
        self.end = weakref.finalize(self, end, os.getpid(), *owned)
        # Linked to the parent if the starting thread lives as long as the program.
        ends_with_parent = threading.current_thread() is threading.main_thread()
        trusted = {"build": build, "plugins": list(plugins), "ends_with_parent": ends_with_parent}
        for rank in range(num_ranks):
            self._start(rank, trusted)

    def _start(self, rank: int, trusted: dict[str, Any]) -> None:
        ours, theirs = Pipe()
        stack_file = tempfile.TemporaryFile()  # noqa: SIM115 (it is open as long as the process)
        descriptors = {"pipe": theirs.fileno(), "stack_file": stack_file.fileno()}
        path = [item or os.getcwd() for item in sys.path]
        with theirs:
            popen = subprocess.Popen(
                [sys.executable, "-c", START, json.dumps({"path": path, **descriptors, **trusted})],
                stdin=subprocess.DEVNULL,
                pass_fds=tuple(descriptors.values()),
                env=environment(rank),
            )
        self.popens.append(popen)
        self.wires.append(Wire(ours, self.codec))
        self.stack_files.append(stack_file)
        self.open[ours] = rank

    def __len__(self) -> int:
        return len(self.popens)

    def send(self, rank: int, message: Message) -> None:
        """Sends a message. `receive` reports a process that has ended."""
        self.pending_replies[rank] += isinstance(message, Next)
        with contextlib.suppress(OSError):
            self.wires[rank].send(message)

    def receive(self, seconds: float) -> list[tuple[int, Message | None]]:
        """(rank, message) pairs, None for a process that has ended; nothing after this many seconds or after
        `interrupt`.

        An unreadable message is a failure of its rank, whose later messages are ignored.
        """
        messages: list[tuple[int, Message | None]] = []
        for connection in wait([*self.open, self._woken], seconds) if self.end.alive else ():
            if connection is self._woken:
                continue
            rank = self.open[connection]
            message: Message | None
            try:
                message = self.wires[rank].receive(FROM_RANK)
                self.pending_replies[rank] -= isinstance(message, (Output, End, Failed))
            except (EOFError, OSError):
                message = None
                del self.open[connection]
            except ValueError as error:
                message = Failed(None, "MessageError", str(error), trace="")
                del self.open[connection]
            messages.append((rank, message))
        return messages

    def interrupt(self) -> None:
        """Ends a `receive` in another thread, and all later ones, at once."""
        self.is_interrupted = True
        with contextlib.suppress(OSError):  # it has ended
            self._waker.send_bytes(b"")

    def exit_status(self, rank: int) -> int | None:
        """The exit status of a process that has closed its pipe; negative for a signal."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.popens[rank].wait(EXIT_SECONDS)
        return None

    def stack(self, rank: int) -> str:
        """The stack that a process wrote in a crash or for `stacks`; empty if there is none."""
        descriptor = self.stack_files[rank].fileno()
        # Not `read`: it moves the file position, which the writing process shares.
        content = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
        return content.decode(errors="replace").strip()

    def stacks(self, ranks: Sequence[int]) -> dict[int, str]:
        """The current stack of each of these processes; empty if it does not answer."""
        for rank in ranks:
            self.popens[rank].send_signal(signal.SIGUSR1)
        deadline = time.monotonic() + EXIT_SECONDS
        while not all(map(self.stack, ranks)) and time.monotonic() < deadline:
            time.sleep(0.05)
        return {rank: self.stack(rank) for rank in ranks}

    def close(self) -> None:
        """Ends the processes; idle ones have `EXIT_SECONDS` to free their resources."""
        if not any(self.pending_replies):
            for rank in range(len(self)):
                self.send(rank, Close())
            wait_for(self.popens, EXIT_SECONDS)
        self.end()


def environment(rank: int) -> dict[str, str]:
    """A rank's environment: gloo uses only this computer, and libraries of other ranks are silent."""
    loopback = {"linux": "lo", "darwin": "lo0"}.get(sys.platform)
    variables = {} if loopback is None else {"GLOO_SOCKET_IFNAME": loopback}
    if rank > 0:
        variables |= dict.fromkeys(VERBOSITY_VARIABLES, "error")
    return {**variables, **os.environ}


def end(parent: int, popens: list[subprocess.Popen], *owned: Iterable[Any]) -> None:
    """Ends processes and closes their resources, unless this is a fork of their parent."""
    if os.getpid() != parent:
        return
    for popen in popens:
        popen.terminate()
    wait_for(popens, EXIT_SECONDS)
    for popen in popens:
        popen.kill()
        popen.wait()
    for item in itertools.chain(*owned):
        item.close()


def wait_for(popens: Sequence[subprocess.Popen], seconds: float) -> None:
    """Waits until all have ended, at most `seconds` in total."""
    deadline = time.monotonic() + seconds
    for popen in popens:
        with contextlib.suppress(subprocess.TimeoutExpired):
            popen.wait(max(0.0, deadline - time.monotonic()))
