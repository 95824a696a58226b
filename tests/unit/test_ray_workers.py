"""A service's workers on a pretended cluster: between two bounds, and no job lost with a replica."""

from __future__ import annotations

import threading
import time

import pytest
import torch

pytest.importorskip("sqlalchemy", reason="the extra 'serve' is not installed: pip install 'videosys[serve]'")

from tests.stage import Stage, away_at_first, until
from videosys import OpenSoraConfig
from videosys.generation.request import VideoOutput
from videosys.generation.watch import Cancelled, StepProgress
from videosys.parallel import ParallelConfig
from videosys.serve.__main__ import main
from videosys.serve.ray_workers import RayWorkers, ray_workers
from videosys.serve.replica import ReplicaLost
from videosys.serve.server import Options
from videosys.serve.store import ATTEMPTS, FAILED_TOO_OFTEN, Job, Store


class Handle:
    """A video that is done when the test opens the gate."""

    progress = StepProgress("denoise", 1, 2, eta=1.0)

    def __init__(self, replica, prompt):
        self.replica, self.prompt, self.is_cancelled = replica, prompt, False

    @property
    def is_done(self):
        return self.replica.gate.is_set() or self.is_cancelled

    def wait(self, timeout):
        if self.replica.is_lost.is_set():
            raise ReplicaLost("gone")
        return self.replica.gate.wait(0.01)

    def cancel(self):
        self.is_cancelled = True

    def result(self):
        if self.is_cancelled:
            raise Cancelled("the request was cancelled")
        video = torch.zeros(1, 16, 16, 3, dtype=torch.uint8)
        return VideoOutput([video], [self.prompt], [3], [[]])


class Stub:
    """A replica."""

    config = OpenSoraConfig()

    def __init__(self, node, gate):
        self.node, self.gate, self.is_lost = node, gate, threading.Event()

    def submit(self, prompt, *, callback=None, **request):
        return Handle(self, prompt)

    def end(self):
        self.is_lost.set()


@pytest.fixture
def store(tmp_path):
    store = Store(f"sqlite:///{tmp_path / 'jobs.sqlite'}")
    yield store
    store.close()


@pytest.fixture
def gate():
    return threading.Event()


@pytest.fixture
def workers(store, gate, tmp_path):
    """One to three replicas on a cluster with room for more."""
    stage = Stage(*"abcd", build=lambda node: Stub(node, gate))
    workers = RayWorkers(stage, store, tmp_path, 1, 3, idle_seconds=0.0)
    workers.start()
    yield workers
    workers.stop()


def add(store, *names):
    for name in names:
        store.add(Job(name, "a", "a cross", '{"seed": 3}', "16x16", 1, 12.0, 3, time.time()))


def test_there_are_as_many_replicas_as_videos_between_the_bounds(workers, store, gate):
    until(lambda: workers.alive == 1)
    add(store, *"vw")
    until(lambda: workers.alive == 2)
    add(store, *"xyz")
    until(lambda: workers.alive == 3)
    until(lambda: store.counts() == {"in_progress": 3, "queued": 2})
    time.sleep(0.6)  # a look at the queue
    assert workers.alive == 3
    gate.set()
    until(lambda: store.counts() == {"completed": 5})
    until(lambda: workers.alive == 1)
    assert {store.get("a", name).attempt for name in "vwxyz"} == {1}
    assert workers.restarts == 0


def test_a_job_is_queued_again_at_most_twice(workers, store, monkeypatch):
    monkeypatch.setattr("videosys.serve.fleet.pause", lambda ends: 0.0)
    add(store, "v")
    for attempt in range(1, ATTEMPTS + 1):
        until(lambda attempt=attempt: store.get("a", "v").attempt == attempt and store.get("a", "v").step)
        workers.fleet.alive()[0].end()
    until(lambda: store.get("a", "v").status == "failed")
    assert store.get("a", "v").error == FAILED_TOO_OFTEN
    until(lambda: workers.restarts == ATTEMPTS)


def test_a_removed_job_is_cancelled_and_its_replica_stays(workers, store):
    add(store, "v")
    until(lambda: store.get("a", "v").step)
    store.remove("a", "v")
    add(store, "w")
    until(lambda: store.get("a", "w").step)
    assert workers.restarts == 0


def test_a_stopped_service_gives_its_jobs_back(workers, store):
    add(store, "v")
    until(lambda: store.get("a", "v").step)
    workers.stop()
    assert (store.get("a", "v").status, store.get("a", "v").attempt) == ("queued", 0)
    assert workers.alive == 0


@pytest.mark.parametrize("function", ["counts", "claim", "report", "finish"])
def test_a_database_that_fails_for_a_moment_costs_nothing(workers, store, gate, monkeypatch, function):
    monkeypatch.setattr("videosys.serve.worker.RETRY_SECONDS", 0.01)
    until(lambda: workers.alive == 1)
    calls = away_at_first(monkeypatch, store, function)
    gate.set()
    add(store, "v")
    until(lambda: store.get("a", "v").status == "completed")
    assert workers.restarts == 0
    until(lambda: len(calls) > 2)


def test_a_job_of_a_lost_replica_waits_for_a_database_that_is_away(workers, store, monkeypatch):
    monkeypatch.setattr("videosys.serve.ray_workers.RETRY_SECONDS", 0.01)
    add(store, "v")
    until(lambda: store.get("a", "v").step)
    calls = away_at_first(monkeypatch, store, "release")
    workers.fleet.alive()[0].end()
    until(lambda: store.get("a", "v").attempt == 2)
    assert len(calls) == 3


@pytest.mark.parametrize(
    ("executor", "option", "needed"),
    [
        ("ray", "--workers=2", "--workers 2 needs --executor local"),
        ("ray", "--workers=1", "--workers 1 needs --executor local"),
        ("local", "--max-replicas=3", "--max-replicas 3 needs --executor ray"),
        ("local", "--min-replicas=1", "--min-replicas 1 needs --executor ray"),
    ],
)
def test_options_of_the_other_executor_are_refused(capsys, executor, option, needed):
    assert main(["--config", "x.yaml", "--executor", executor, option]) == 2
    assert capsys.readouterr().err == f"error: {needed}\n"


def test_what_cannot_be_is_refused_before_ray_is_started(store, tmp_path):
    for bounds in ((0, 1), (2, 1)):
        with pytest.raises(
            ValueError, match=rf"--min-replicas is {bounds[0]} and --max-replicas {bounds[1]}"
        ):
            Options("127.0.0.1", 0, tmp_path, executor="ray", replicas=bounds)
    config = OpenSoraConfig(parallel=ParallelConfig(num_gpus=2, dp=2))
    with pytest.raises(ValueError, match=r"parallel\.dp is 2; with --executor ray, use --max-replicas"):
        with ray_workers(config, None, (1, 1), store, tmp_path):
            pass
