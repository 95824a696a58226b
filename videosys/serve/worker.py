"""A worker: a process that claims one job after another and generates its video.

The server starts it, writes one line of JSON to its standard input and keeps that open. The worker ends when
the server does.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from videosys.engine import VideoSysEngine
from videosys.engine.engine import Callback
from videosys.generation.config import PipelineConfig
from videosys.generation.request import VideoOutput
from videosys.generation.watch import Cancelled, StepProgress
from videosys.models import load_family_config
from videosys.serve.files import remove_files, write_files
from videosys.serve.replica import ReplicaLost
from videosys.serve.requests import allowed_fields, changed, of_one_video, without_paths
from videosys.serve.store import ATTEMPTS, Job, Store, StoreAway
from videosys.utils.logging import configure_logging, get_logger, log

POLL_SECONDS = 0.2  # between two queries for a job
REPORT_SECONDS = 0.3  # between two progress reports
RETRY_SECONDS = 1.0  # between two attempts to use the database
LOG = get_logger("serve.worker")
T = TypeVar("T")


def main() -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the server handles it
    options = json.loads(sys.stdin.readline())
    threading.Thread(target=end_with_server, name="end-with-server", daemon=True).start()
    configure_logging()
    store = Store(options["database"])
    with VideoSysEngine(config_of(options), quiet=True) as engine:
        worker = Worker(options["name"], engine, store, Path(options["folder"]), {})
        while True:
            worker.work()


def config_of(options: Mapping[str, Any]) -> PipelineConfig:
    """The config of a worker, for one video per request."""
    return of_one_video(load_family_config(options["config"], options["model"], options["overrides"]))


def end_with_server() -> None:
    """End the process immediately when the server closes the pipe. Its job is queued again."""
    while sys.stdin.readline():
        pass
    os._exit(0)


class Clock:
    """A callback that measures how long decoding takes."""

    def __init__(self) -> None:
        self.denoised: float | None = None
        self.decode_seconds: float | None = None

    def __call__(self, progress: StepProgress) -> None:
        now = time.perf_counter()
        if progress.stage == "denoise":
            self.denoised = now
        elif progress.stage == "decode" and self.denoised is not None:
            self.decode_seconds = now - self.denoised


def shape(job: Job) -> str:
    return f"{job.frames} {job.size}"


class Running(Protocol):
    """A running request, like the `Handle` of an engine."""

    @property
    def progress(self) -> StepProgress | None: ...

    @property
    def is_done(self) -> bool: ...

    def wait(self, timeout: float) -> bool: ...

    def cancel(self) -> object: ...

    def result(self) -> VideoOutput: ...


class Maker(Protocol):
    """Generates the videos of a worker: an engine in its process, or a replica on a cluster."""

    config: Any

    def submit(self, prompt: str, *, callback: Callback | None = None, **request: Any) -> Running: ...


class Worker:
    """Claims jobs and generates their videos. It waits while the database is unavailable."""

    def __init__(
        self,
        name: str,
        engine: Maker,
        store: Store,
        folder: Path,
        decode_seconds: dict[str, float],
        stopping: threading.Event | None = None,
    ):
        """decode_seconds: last measured time per shape of the video; workers can share it. stopping: ends
        the waiting for the database, with StoreAway.
        """
        self.name, self.engine, self.store, self.folder = name, engine, store, folder
        self.decode_seconds, self.stopping = decode_seconds, stopping or threading.Event()

    def work(self) -> bool:
        """Run the next job; false, after a short wait, if there is none.

        ReplicaLost if the engine is a replica on a cluster and was lost; the job still belongs to this
        worker.
        """
        job = self._stored(lambda: self.store.claim(self.name))
        if job is None:
            time.sleep(POLL_SECONDS)
            return False
        begin = time.perf_counter()
        try:
            self.make(job)
        except Cancelled:
            log(LOG, "stopped", id=job.id)  # it was removed
        except ValueError as error:
            log(LOG, "failed", id=job.id, error=str(error))
            text = without_paths(str(error)) or "the request is refused"
            self._stored(lambda: self.store.finish(job, error=text))
        except (ReplicaLost, StoreAway):
            raise
        except Exception as error:
            LOG.exception("%s: the worker returns it to the queue", job.id)
            text = f"it failed {ATTEMPTS} times: {without_paths(str(error))[:300] or type(error).__name__}"
            self._stored(lambda: self.store.release(self.name, error=text))
        else:
            log(LOG, "completed", id=job.id, seconds=round(time.perf_counter() - begin, 3))
        return True

    def make(self, job: Job) -> None:
        """Generate and save the video. Cancelled if the job no longer belongs to this worker."""
        config = changed(self.engine.config, job.changes)
        request = {name: getattr(config, name) for name in allowed_fields(type(config))}
        clock = Clock()
        handle = self.engine.submit(job.prompt, callback=clock, **request)
        output = self._wait(job, handle)
        computed = write_files(self.folder, job, output, config)
        if clock.decode_seconds is not None:
            self.decode_seconds[shape(job)] = clock.decode_seconds
        if not self._stored(lambda: self.store.finish(job, computed=computed)):
            remove_files(self.folder, job.files)
            raise Cancelled
        for attempt in range(1, job.attempt):  # files of a worker that was killed while writing
            remove_files(self.folder, job.files_of(attempt))

    def _wait(self, job: Job, handle: Running) -> Any:
        """Wait for the job's output. Meanwhile record its progress, and cancel it if it was removed."""
        while not handle.is_done:
            handle.wait(REPORT_SECONDS)
            with contextlib.suppress(StoreAway):  # reported next time
                if not self.store.report(job, **self._progress(job, handle.progress)):
                    handle.cancel()
        return handle.result()

    def _stored(self, call: Callable[[], T]) -> T:
        """The result of a call of the store, repeated while the database is unavailable."""
        while True:
            try:
                return call()
            except StoreAway:
                if self.stopping.wait(RETRY_SECONDS):
                    raise

    def _progress(self, job: Job, progress: StepProgress | None) -> dict[str, Any]:
        if progress is None:
            return {"stage": None}
        eta = progress.eta
        if eta is not None and progress.stage == "denoise":
            eta += self.decode_seconds.get(shape(job), 0.0)
        return {"stage": progress.stage, "step": progress.step, "steps": progress.of, "eta": eta}


if __name__ == "__main__":
    sys.exit(main())
