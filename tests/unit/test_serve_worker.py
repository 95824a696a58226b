"""A worker whose disk or database fails, with an engine that makes grey videos."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("fastapi", reason="the extra 'serve' is not installed: pip install -e '.[serve]'")

from tests.service import checker
from tests.stage import away_at_first
from videosys.cache.base import StepRecord
from videosys.generation.request import VideoOutput
from videosys.serve import files
from videosys.serve.store import ATTEMPTS, Job, Store
from videosys.serve.worker import Worker

NAME = f"video_{1:032x}"


class Engine:
    """Each request is done at once, or fails with an error."""

    def __init__(self, error=None):
        self.config, self.error = checker().config, error

    def submit(self, prompt, *, callback=None, **request):
        return SimpleNamespace(is_done=True, progress=None, result=lambda: self.result(prompt))

    def result(self, prompt):
        if self.error is not None:
            raise self.error
        steps = [StepRecord(0, 1000.0, None, None, None, True)]
        return VideoOutput([torch.zeros(1, 16, 16, 3, dtype=torch.uint8)], [prompt], [3], [steps], 12.0)


@pytest.fixture
def store(tmp_path):
    store = Store(f"sqlite:///{tmp_path / 'jobs.sqlite'}")
    store.add(Job(NAME, "a", "a cross", '{"seed": 3}', "16x16", 1, 12.0, 3, time.time()))
    yield store
    store.close()


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    return folder


def run(store, folder, engine, times=1):
    """The job after a worker has worked on it this often."""
    for _ in range(times):
        assert Worker("w", engine, store, folder, {}).work()
    return store.get("a", NAME)


@pytest.mark.parametrize("suffix", [".mp4", ".thumbnail.png", ".sheet.png", ".mp4.json"])
def test_a_file_that_cannot_be_written_is_an_attempt_and_leaves_nothing(
    store, folder, tmp_path, monkeypatch, suffix
):
    elsewhere = tmp_path / "rescued"
    elsewhere.mkdir()
    save_video, write_sidecar = files.save_video, files.write_sidecar

    def save(frames, path, **options):
        if str(path).endswith(suffix):  # as on a full disk, where it goes to a temporary folder
            path = elsewhere / "new" / path.name
        return save_video(frames, path, **options)

    def write(path, **content):
        if suffix == ".mp4.json":
            raise OSError("No space left on device")
        return write_sidecar(path, **content)

    monkeypatch.setattr(files, "save_video", save)
    monkeypatch.setattr(files, "write_sidecar", write)
    job = run(store, folder, Engine())
    assert (job.status, job.attempt) == ("queued", 1)
    assert [*folder.iterdir(), *elsewhere.iterdir()] == []
    job = run(store, folder, Engine(), times=ATTEMPTS - 1)
    assert (job.status, job.attempt) == ("failed", ATTEMPTS)
    assert job.error.startswith(f"it failed {ATTEMPTS} times: ")
    assert str(tmp_path) not in job.error
    assert [*folder.iterdir(), *elsewhere.iterdir()] == []


def test_a_job_that_fails_again_and_again_says_why(store, folder):
    job = run(store, folder, Engine(RuntimeError("out of memory in\n /srv/x.py")), times=ATTEMPTS)
    assert (job.status, job.error) == ("failed", f"it failed {ATTEMPTS} times: out of memory in x.py")


@pytest.mark.parametrize("function", ["claim", "finish", "release"])
@pytest.mark.parametrize("error", [None, RuntimeError("out of memory"), ValueError("refused")])
def test_a_finished_video_waits_for_a_database_that_is_away(store, folder, monkeypatch, function, error):
    monkeypatch.setattr("videosys.serve.worker.RETRY_SECONDS", 0.01)
    calls = away_at_first(monkeypatch, store, function)
    job = run(store, folder, Engine(error))
    expected = {type(None): "completed", RuntimeError: "queued", ValueError: "failed"}
    assert (job.status, job.attempt) == (expected[type(error)], 1)
    assert len(calls) in (0, 3)


def test_files_of_a_killed_worker_go_when_the_video_is_finished(store, folder):
    killed = store.claim("killed")
    (folder / f"{killed.files}.mp4").touch()
    store.release("killed")
    job = run(store, folder, Engine())
    assert (job.status, job.attempt) == ("completed", 2)
    assert {path.name.partition(".")[0] for path in folder.iterdir()} == {f"{NAME}-2"}
