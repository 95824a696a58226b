"""A server process on the loopback, which can be killed and restarted on the same folder."""

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
PATIENCE = 300.0  # seconds for what takes about 10 on an idle machine
MIB = 1 << 20


@dataclass
class LocalServer:
    """`videosys serve` with a tiny checkpoint.

    data: its folder. arguments: more command line arguments. keys: its API keys, if any. `log`, next to the
    folder, is the log of the server and its workers.
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
        """Starts it and waits until it listens, always at the same port."""
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
            raise OSError(f"the server has not begun: {line!r}, status {self.process.wait()}; see {self.log}")

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
        """The process ids of its workers."""
        children = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        return [int(word) for path in children for word in path.read_text().split()]

    def memory(self) -> list[float]:
        """MiB in memory of the server and of each worker."""
        return [resident(process) / MIB for process in (self.process.pid, *sorted(self.workers()))]

    def kill(self) -> None:
        """Sends SIGKILL, and waits until its workers have ended too."""
        workers = self.workers()
        self.process.kill()
        self._reap()
        for worker in workers:
            wait(lambda worker=worker: not Path(f"/proc/{worker}").exists(), "a worker ends with its server")

    def stop(self) -> int:
        """Its exit status after SIGTERM."""
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
    """Waits until a condition is true and returns its value. TimeoutError if it takes too long."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.05)
    raise TimeoutError(f"timed out waiting for: {what}")
