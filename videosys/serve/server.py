"""The server process: the routes, the workers and what they share, from start to end."""

from __future__ import annotations

import contextlib
import fcntl
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from videosys.models import load_family_config
from videosys.serve.app import Service, build_app
from videosys.serve.files import remove_leftovers
from videosys.serve.guards import LOOPBACK
from videosys.serve.requests import Checker
from videosys.serve.settings import KEYS_VARIABLE, Limits, Source, read_keys
from videosys.serve.store import Store
from videosys.serve.workers import Workers
from videosys.utils.logging import get_logger

LOG = get_logger("serve")


@dataclass(frozen=True)
class Options:
    """Where a service listens, what it keeps and where. ValueError for a number that cannot be."""

    host: str
    port: int
    data: Path
    database: str | None = None
    workers: int = 1
    keys: Path | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.port < 1 << 16:
            raise ValueError(f"--port is {self.port}; it must be 0 to 65535")
        if self.workers < 1:
            raise ValueError(f"--workers is {self.workers}; it must be 1 or more")

    @property
    def url(self) -> str:
        return self.database or f"sqlite:///{(self.data / 'jobs.sqlite').resolve()}"


def serve(source: Source, options: Options, limits: Limits) -> int:
    """Serves until SIGINT or SIGTERM. ValueError for what cannot be served, before anything listens."""
    keys = read_keys(options.keys)
    checker = Checker(load_family_config(source.config, source.model, source.overrides), limits)
    folder = options.data / "videos"
    with own(options.data), listening(options) as listener:
        folder.mkdir(parents=True, exist_ok=True)
        store = Store(options.url)
        store.release()  # what a server that was killed has left
        remove_leftovers(folder, store.finished_files())
        workers = Workers(source, store, options.url, folder, options.workers)
        app = build_app(Service(checker, store, workers, keys, folder, options.host))
        host, port = listener.getsockname()[:2]
        print(f"http://{host}:{port}/v1 serves {checker.model}", flush=True)
        if options.host not in LOOPBACK and keys.is_open:
            LOG.warning("everybody who reaches %s may use this service; set %s", host, KEYS_VARIABLE)
        workers.start()
        try:
            server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
            server.run(sockets=[listener])
        finally:
            workers.stop()
            store.close()
    return 0


@contextlib.contextmanager
def own(folder: Path) -> Iterator[None]:
    """Keeps other servers away from a folder. ValueError where there is one, or it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "lock").open("w")
    except OSError as error:
        raise ValueError(f"--data {folder}: cannot be written: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(f"--data {folder}: another server uses it") from None
        yield


@contextlib.contextmanager
def listening(options: Options) -> Iterator[socket.socket]:
    """A socket that listens. ValueError for an address that cannot be had."""
    try:
        family, *_, address = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(address[:2], family=family, backlog=128)
    except OSError as error:
        raise ValueError(f"--host {options.host} --port {options.port}: {error.strerror or error}") from error
    with listener:
        yield listener
