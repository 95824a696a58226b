"""A server process on the loopback that can be killed and restarted with the same folder."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "examples/opensora/tiny.yaml"
PATIENCE = 300.0  # timeout in seconds; starting takes about 10 s on an idle machine
MIB = 1 << 20


@dataclass
class LocalServer:
    """`videosys serve` with a tiny checkpoint.

    data: its folder. arguments: further command-line arguments. keys: its API keys, if any. `log`: the log
    file of the server and its workers, next to the folder.
    """

    data: Path
    arguments: Sequence[str] = ()
    keys: Sequence[str] = ()
    port: int = field(default=0, init=False)
    process: subprocess.Popen[str] = field(init=False)

    @property
    def log(self) -> Path:
        return self.data.with_name(f"{self.data.name}.log")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the server and wait until it listens. The port stays the same."""
        self.port = self.port or free_port()
        command = [sys.executable, "-m", "videosys", "serve", "--config", str(CONFIG)]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [*command, "--port", str(self.port), "--data", str(self.data), *self.arguments],
                env=self._environment(),
                cwd=self.data.parent,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        line = stdout(self.process).readline()
        if not line.startswith(f"{self.url}/v1 serves "):
            raise OSError(f"the server did not start: {line!r}, status {self.process.wait()}; see {self.log}")

    def _environment(self) -> dict[str, str]:
        own = {
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "VIDEOSYS_API_KEYS": ",".join(self.keys),
        }
        return {**os.environ, **own}

    def workers(self) -> list[int]:
        """The process ids of the workers."""
        children = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        return [int(word) for path in children for word in path.read_text().split()]

    def memory(self) -> list[float]:
        """Resident memory of the server and of each worker in MiB."""
        return [resident(process) / MIB for process in (self.process.pid, *sorted(self.workers()))]

    def kill(self) -> None:
        """Send SIGKILL, and wait until the workers have ended too."""
        workers = self.workers()
        self.process.kill()
        self._reap()
        for worker in workers:
            wait(lambda worker=worker: not Path(f"/proc/{worker}").exists(), "a worker ends with its server")

    def stop(self) -> int:
        """Send SIGTERM and return the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self._reap()

    def _reap(self) -> int:
        status = self.process.wait(PATIENCE)
        stdout(self.process).close()
        return status


def stdout(process: subprocess.Popen[str]) -> IO[str]:
    assert process.stdout is not None
    return process.stdout


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def resident(process: int) -> int:
    """The resident memory of a process in bytes."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def wait(condition: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """Wait until a condition is true and return its value. TimeoutError after `patience` seconds."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.05)
    raise TimeoutError(f"timed out waiting for: {what}")
