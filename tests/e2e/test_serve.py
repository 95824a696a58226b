"""A real server process on the loopback, asked by the official openai client, and killed."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
openai = pytest.importorskip("openai", reason="the openai client is not installed: pip install -e '.[test]'")
for module in ("fastapi", "sqlalchemy", "uvicorn", "prometheus_client"):
    pytest.importorskip(module, reason=f"{module} of the extra 'serve' is not installed")

from tests import postgres  # noqa: E402 (without the extra: skipped)
from videosys import read_video  # noqa: E402 (without the extra: skipped)
from videosys.serve.settings import Keys  # noqa: E402
from videosys.serve.store import Store  # noqa: E402

CONFIG = ROOT / "examples" / "opensora" / "tiny.yaml"
SMALL = ["num_frames=17", "num_inference_steps=4", "seed=3", "device=cpu"]
PROMPT = "a large red circle moves rightward on a white background"
KEY = "a-key-of-the-tests-only"
PATIENCE = 240.0  # seconds on a busy machine; about 10 on an idle one

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.filterwarnings("ignore:The Sora API")]


class Server:
    """A server process, which may be killed and started again on the same folder."""

    def __init__(self, data, *options):
        self.data, self.options = data, options
        self.start()

    def start(self):
        settings = {
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "VIDEOSYS_API_KEYS": KEY,
        }
        command = [sys.executable, "-m", "videosys", "serve", "--config", str(CONFIG), "--port", "0"]
        self.process = subprocess.Popen(
            [*command, "--data", str(self.data), *self.options, *SMALL],
            env={**os.environ, **settings, "CUDA_VISIBLE_DEVICES": ""},
            cwd=self.data,
            stdout=subprocess.PIPE,
            stderr=(self.data / "log.txt").open("a"),
            text=True,
        )
        match = re.match(r"(http://127\.0\.0\.1:\d+)/v1 serves opensora", self.process.stdout.readline())
        assert match, self.process.wait()
        self.url = match[1]
        self.client = openai.OpenAI(base_url=f"{self.url}/v1", api_key=KEY, max_retries=2)

    def workers(self):
        """The process ids of the workers: the server's children."""
        children = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        return [int(word) for path in children for word in path.read_text().split()]

    def kill(self):
        workers = self.workers()
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        for worker in workers:
            wait(
                lambda worker=worker: not Path(f"/proc/{worker}").exists(), "the worker ends with its server"
            )

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(PATIENCE)
        self.process.stdout.close()
        return status

    def until(self, name, status, attempt=None):
        """The video when it has a status (in its n-th attempt)."""

        def found():
            video = self.client.videos.retrieve(name)
            assert video.status != "failed" or status == "failed", video.error
            return video if video.status == status and attempt in (None, video.attempt) else None

        return wait(found, f"{name} is {status}")


def wait(condition, what):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"waited in vain: {what}")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("serve"))
    yield server
    if server.process.poll() is None:
        assert server.stop() == 0


def test_the_client_of_the_page_gets_its_video(server, tmp_path):
    page = (ROOT / "docs" / "serving.md").read_text("utf-8")
    code = re.search(r"^```python\n(# client\.py\n.*?)^```$", page, re.MULTILINE | re.DOTALL)[1]
    code = code.replace("http://127.0.0.1:8000", server.url).replace('"any"', repr(KEY))
    (tmp_path / "outputs").mkdir()
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=PATIENCE)
    frames, _ = read_video(tmp_path / "outputs" / "circle.mp4")
    assert frames.shape == (17, 64, 64, 3)


def test_a_second_ctrl_c_leaves_no_traceback(tmp_path):
    server = Server(tmp_path)
    server.process.send_signal(signal.SIGINT)
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(PATIENCE) == 0
    assert "stopped; queued jobs are kept" in server.process.stdout.read()
    server.process.stdout.close()
    assert "Traceback" not in (tmp_path / "log.txt").read_text()


def test_the_openai_client_makes_lists_gets_and_deletes_a_video(server, tmp_path):
    client = server.client
    video = client.videos.create(prompt=PROMPT, model="opensora", size="64x64", extra_body={"seed": 3})
    assert (video.status, video.size, video.seed, video.frames) == ("queued", "64x64", 3, 17)
    done = server.until(video.id, "completed")
    assert (done.progress, done.prompt, done.attempt) == (100, PROMPT, 1)
    client.videos.download_content(video.id).write_to_file(tmp_path / "a.mp4")
    frames, fps = read_video(tmp_path / "a.mp4")
    assert (frames.shape, fps) == ((17, 64, 64, 3), 12.0)
    assert frames.float().std() > 20  # not grey
    for variant in ("thumbnail", "spritesheet"):
        assert client.videos.download_content(video.id, variant=variant).read().startswith(b"\x89PNG")
    sidecar = client.videos.download_content(video.id, variant="sidecar").read()
    content = json.loads(sidecar)
    assert (content["prompt"], content["seed"], len(content["steps"])) == (PROMPT, 3, 4)
    assert str(ROOT).encode() not in sidecar
    part = client.videos.with_raw_response.download_content(video.id, extra_headers={"Range": "bytes=4-7"})
    assert (part.status_code, part.content) == (206, b"ftyp")
    other = client.videos.create(prompt="a small green cross spins", extra_body={"frames": 1})
    newest, second, *earlier = [item.id for item in client.videos.list(limit=1)]  # all pages
    assert (newest, second) == (other.id, video.id)
    assert [item.id for item in client.videos.list(order="asc")] == [*reversed(earlier), second, newest]
    server.until(other.id, "completed")
    assert client.videos.delete(video.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.videos.retrieve(video.id)
    assert [model.id for model in client.models.list()] == ["opensora"]


def test_the_openai_client_gets_its_own_errors(server):
    with pytest.raises(openai.BadRequestError, match="num_frames is 5") as info:
        server.client.videos.create(prompt="a", extra_body={"frames": 5})
    assert (info.value.param, info.value.code) == ("frames", "invalid_value")
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="another").videos.list()


def test_a_video_at_work_is_stopped_when_it_is_deleted(server):
    long = server.client.videos.create(prompt=PROMPT, extra_body={"num_inference_steps": 200, "frames": 102})
    running = wait(lambda: step_of(server, long.id), "a step is told")
    assert running.of == 200
    assert running.eta > 0
    after = server.client.videos.create(prompt="a", extra_body={"frames": 1})
    workers = server.workers()
    assert server.client.videos.delete(long.id).deleted
    server.until(after.id, "completed")
    assert server.workers() == workers


def step_of(server, name):
    """The video while it is denoised, else None."""
    video = server.client.videos.retrieve(name)
    return video if video.status == "in_progress" and video.stage == "denoise" and video.step else None


def test_neither_a_killed_worker_nor_a_killed_server_loses_a_job_or_makes_one_twice(server):
    finished = server.client.videos.create(prompt="a", extra_body={"frames": 1})
    server.until(finished.id, "completed")
    (file,) = (server.data / "videos").glob(f"{finished.id}*.mp4")
    before = (file.stat().st_ino, file.stat().st_mtime_ns)
    long = server.client.videos.create(prompt=PROMPT, extra_body={"num_inference_steps": 100, "frames": 34})
    waiting = server.client.videos.create(prompt="a cross", extra_body={"frames": 1})
    server.until(long.id, "in_progress", attempt=1)
    (worker,) = server.workers()
    os.kill(worker, signal.SIGKILL)
    server.until(long.id, "in_progress", attempt=2)
    server.kill()
    server.start()
    assert server.until(long.id, "completed").attempt == 3
    assert server.until(waiting.id, "completed").attempt == 1
    assert server.client.videos.retrieve(finished.id).attempt == 1
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == before
    names = {path.name.split(".")[0] for path in (server.data / "videos").iterdir()}
    assert {f"{long.id}-3", f"{waiting.id}-1", f"{finished.id}-1"} <= names
    assert not {f"{long.id}-1", f"{long.id}-2"} & names
    with urllib.request.urlopen(f"{server.url}/health") as answer:
        assert json.load(answer)["workers"] == 1


def test_a_server_that_is_asked_to_stop_keeps_the_jobs(server):
    long = server.client.videos.create(prompt=PROMPT, extra_body={"num_inference_steps": 200, "frames": 102})
    assert server.until(long.id, "in_progress").attempt == 1
    workers = server.workers()
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as slow:
        head = f"POST /v1/videos HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {KEY}\r\n"
        slow.sendall(f"{head}Content-Length: 99\r\n\r\n{{".encode())  # and no more
        assert server.stop() == 0
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
    store = Store(f"sqlite:///{server.data / 'jobs.sqlite'}")
    assert [
        (job.status, job.attempt) for job in store.page(Keys([KEY]).owner(f"Bearer {KEY}"), None, 1, "desc")
    ] == [("queued", 0)]
    store.close()


def test_a_database_that_is_away_for_a_while_costs_neither_a_job_nor_an_attempt(tmp_path):
    with postgres.server() as database:
        server = Server(tmp_path, "--database", database.url)
        try:
            long = server.client.videos.create(prompt=PROMPT, extra_body={"num_inference_steps": 100})
            waiting = server.client.videos.create(prompt="a cross", extra_body={"frames": 1})
            wait(lambda: step_of(server, long.id), "a step is told")
            database.stop()
            client = server.client.with_options(max_retries=0)
            with pytest.raises(openai.InternalServerError) as info:
                client.videos.create(prompt="a", extra_body={"frames": 1})
            assert info.value.status_code == 503
            time.sleep(3)  # the video is finished meanwhile
            workers = server.workers()
            database.start()
            for name in (long.id, waiting.id):
                assert server.until(name, "completed").attempt == 1
            assert server.workers() == workers
            log = (tmp_path / "log.txt").read_text()
            assert "Traceback" not in log
            assert log.count("the database cannot be used") == 2  # for the server and for the worker
        finally:
            assert server.stop() == 0
