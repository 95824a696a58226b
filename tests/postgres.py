"""A Postgres of its own for the tests, where one is installed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PATIENCE = 60.0  # seconds on a busy machine; about 1 on an idle one
USER = "postgres"  # it does not run as root


def folder() -> Path:
    """Where the programs are; skips where there are none."""
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install -e '.[postgres]'")
    found = shutil.which("initdb")
    folders = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not folders:
        pytest.skip("no Postgres is installed")
    return folders[-1]


class Postgres:
    """A server, which can be stopped and started again. url: of its database."""

    def __init__(self, command: Sequence[str], port: int, quiet: Mapping[str, Any]):
        self.command, self.port, self.quiet = command, port, quiet
        self.url = f"postgresql+psycopg://{USER}@127.0.0.1:{port}/postgres"
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self.command, **self.quiet)
        wait(self.port)

    def stop(self) -> None:
        """Ends its connections too."""
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextmanager
def started() -> Iterator[str]:
    """The URL of an empty database, whose server ends with the block."""
    with server() as running:
        yield running.url


@contextmanager
def server() -> Iterator[Postgres]:
    """A server with an empty database, for the `with` block."""
    programs, root = folder(), os.geteuid() == 0
    identity = {"user": USER, "group": USER, "extra_groups": []} if root else {}
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    data = Path(tempfile.mkdtemp(prefix="videosys-postgres-"))
    try:
        if root:
            shutil.chown(data, USER, USER)
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": "/", **identity}
        initdb = [str(programs / "initdb"), "-A", "trust", "-U", USER, "-N", "-D", str(data / "d")]
        subprocess.run(initdb, check=True, **quiet)
        options = ["-p", str(port), "-k", str(data), "-F", "-c", "listen_addresses=127.0.0.1"]
        running = Postgres([str(programs / "postgres"), "-D", str(data / "d"), *options], port, quiet)
        try:
            yield running
        finally:
            running.stop()
    finally:
        shutil.rmtree(data, ignore_errors=True)


def wait(port: int) -> None:
    import psycopg

    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            psycopg.connect(f"host=127.0.0.1 port={port} user={USER} dbname=postgres").close()
            return
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
