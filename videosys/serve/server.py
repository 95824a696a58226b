"""The server process: starts and stops the routes, the workers and the job store."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
import webbrowser
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import uvicorn
from fastapi import FastAPI

from videosys.generation.config import PipelineConfig
from videosys.models import load_family_config
from videosys.serve.app import Service, build_app
from videosys.serve.cluster import of_head
from videosys.serve.files import remove_leftovers
from videosys.serve.guards import LOOPBACK
from videosys.serve.lock import own
from videosys.serve.ray_workers import ray_workers
from videosys.serve.requests import FIXED, Checker
from videosys.serve.settings import KEYS_VARIABLE, Limits, Source, read_keys
from videosys.serve.store import Store, StoreAway
from videosys.serve.workers import AnyWorkers, Workers
from videosys.utils.logging import get_logger

GRACE_SECONDS = 5  # for answers that are not finished when the server is asked to stop
LOG = get_logger("serve")


@dataclass(frozen=True)
class Options:
    """Address, folders, database and workers of a service. ValueError for an invalid number."""

    host: str
    port: int
    data: Path
    database: str | None = None
    workers: int = 1
    keys: Path | None = None
    opens_page: bool = False
    executor: str = "local"
    address: str | None = None
    replicas: tuple[int, int] = (1, 1)

    def __post_init__(self) -> None:
        if not 0 <= self.port < 1 << 16:
            raise ValueError(f"--port is {self.port}; it must be 0 to 65535")
        if self.workers < 1:
            raise ValueError(f"--workers is {self.workers}; it must be 1 or more")
        least, most = self.replicas
        if not 1 <= least <= most:
            text = "the first must be 1 or more, and not above the second"
            raise ValueError(f"--min-replicas is {least} and --max-replicas {most}; {text}")

    @property
    def url(self) -> str:
        return self.database or f"sqlite:///{(self.data / 'jobs.sqlite').resolve()}"


def serve(source: Source, options: Options, limits: Limits) -> int:
    """Serve until SIGINT or SIGTERM. Raises ValueError for invalid settings before listening."""
    keys = read_keys(options.keys)
    config = load_family_config(source.config, source.model, source.overrides)
    warn_of_fixed(config)
    checker = Checker(config if options.executor == "local" else of_head(config), limits)
    folder = options.data / "videos"
    with own(options.data, "--data"), listening(options) as listener, contextlib.ExitStack() as stack:
        folder.mkdir(parents=True, exist_ok=True)
        store = opened(options, folder)
        workers = stack.enter_context(started_by(source, config, options, store, folder))
        app = build_app(Service(checker, store, workers, keys, folder, options.host))
        host, port = listener.getsockname()[:2]
        print(f"http://{host}:{port}/v1 serves {checker.model}", flush=True)
        if options.host not in LOOPBACK and keys.is_open:
            LOG.warning(
                "anyone who can reach %s can use this service; to require API keys, set %s",
                host,
                KEYS_VARIABLE,
            )
        workers.start()
        if options.opens_page:
            print(f"http://{host}:{port}/ is the web page; press Ctrl-C to stop", flush=True)
            threading.Timer(1.0, webbrowser.open, [f"http://{host}:{port}/"]).start()
        try:
            run(app, listener)
        finally:
            workers.stop()
            store.close()
    return 0


def warn_of_fixed(config: PipelineConfig) -> None:
    """Logs settings of a config that have no effect in a service."""
    for name in sorted(FIXED):
        if getattr(config, name) != 1:
            LOG.warning("%s=%s has no effect: each request makes one video", name, getattr(config, name))


def opened(options: Options, folder: Path) -> Store:
    """The store, without leftovers of a killed server. ValueError for a database that cannot be used."""
    store = Store(options.url)
    try:
        store.release()
        remove_leftovers(folder, store.finished_files())
    except StoreAway as error:
        raise ValueError(f"the database cannot be used: {error}") from error
    return store


@contextlib.contextmanager
def started_by(
    source: Source, config: PipelineConfig, options: Options, store: Store, folder: Path
) -> Iterator[AnyWorkers]:
    """Start the workers that the options select. ValueError for a cluster without enough devices."""
    if options.executor == "local":
        yield Workers(source, store, options.url, folder, options.workers)
    else:
        with ray_workers(config, options.address, options.replicas, store, folder) as workers:
            yield workers


class Server(uvicorn.Server):
    """A server that ends within `GRACE_SECONDS` after the first SIGINT or SIGTERM. Further signals have no
    effect, because they would interrupt the shutdown with a traceback.
    """

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self.should_exit:
            super().handle_exit(sig, frame)


def run(app: FastAPI, listener: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM, which uvicorn raises again after the last response."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, timeout_graceful_shutdown=GRACE_SECONDS
    )
    server = Server(config)
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listener])
    print("stopped; queued jobs are kept", flush=True)


@contextlib.contextmanager
def listening(options: Options) -> Iterator[socket.socket]:
    """A listening socket. ValueError for an unavailable address."""
    try:
        family, *_, address = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(address[:2], family=family, backlog=128)
    except OSError as error:
        # `create_server` adds the address to the system's text.
        reason = (error.strerror or str(error)).partition(" (while")[0]
        raise ValueError(f"--host {options.host} --port {options.port}: {reason}") from error
    with listener:
        yield listener
