"""Lists and a service on a real Ray of two nodes, on this computer: nodes, replicas, drivers are killed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import pytest

ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'videosys[ray]'")
for module in ("fastapi", "sqlalchemy", "uvicorn", "prometheus_client"):
    pytest.importorskip(module, reason=f"{module} of the extra 'serve' is not installed")

from ray.cluster_utils import Cluster  # noqa: E402 (without the extra: skipped)

from videosys.models import load_family_config  # noqa: E402
from videosys.serve.cluster import connected, split  # noqa: E402
from videosys.serve.ray_workers import RayWorkers  # noqa: E402
from videosys.serve.store import Job, Store  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "examples" / "opensora" / "tiny.yaml"
SMALL = ["num_frames=17", "num_inference_steps=16", "seed=3", "device=cpu"]
LONG = {"num_inference_steps": 1000}
PROMPTS = ["a red circle", "a cross", "a green ring", "a blue square", "a small red square", "a green cross"]
TWO = ["num_gpus=2", "parallel.dp=2"]
PATIENCE = 1000.0  # seconds on a busy machine
MEMORY = 100 << 20
START_ATTEMPTS = 6  # of a node

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2000)]


def until(condition, what):
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.05)
    return found


class Nodes:
    """A Ray cluster of nodes with one CPU each."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "ray").mkdir()
        self.cluster = Cluster()
        quick = {"worker_niceness": 0}  # as quick as the tests
        self.add(1, include_dashboard=False, no_monitor=True, _system_config=quick)
        self.address = self.cluster.address
        self.second = self.add(1)

    def add(self, cpus, **more):
        """A node, which Ray must be able to start within 30 seconds: on a busy machine not at once."""
        for attempt in range(START_ATTEMPTS):
            try:
                return self.cluster.add_node(
                    num_cpus=cpus, object_store_memory=MEMORY, include_log_monitor=False, **more
                )
            except Exception:
                if attempt == START_ATTEMPTS - 1:
                    raise

    def kill(self, node):
        self.cluster.remove_node(node, allow_graceful=False)

    def replicas(self):
        """The process ids of all replicas of this cluster."""
        own = f"RAY_TMPDIR={self.folder}".encode()
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                is_replica = (process / "cmdline").read_bytes().startswith(b"ray::Replica")
                if is_replica and own in (process / "environ").read_bytes().split(b"\0"):
                    found.append(int(process.name))
        return found


@pytest.fixture(scope="module")
def nodes():
    # Ray's sockets are in it, and the path of a socket has 107 bytes at most: pytest's folders are too deep.
    made = tempfile.TemporaryDirectory(prefix="r", ignore_cleanup_errors=True)
    with made as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        patch.setenv("RAY_TMPDIR", str(folder))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        for name, value in environment().items():
            patch.setenv(name, value)
        nodes = Nodes(folder)
        yield nodes
        nodes.cluster.shutdown()


def environment():
    settings = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    return {**settings, "PYTHONPATH": str(ROOT)}


def started(out, *more, prompts=PROMPTS):
    """A process of `videosys render`."""
    out.parent.joinpath("prompts.txt").write_text("\n".join(prompts))
    command = [sys.executable, "-m", "videosys", "render", "--config", str(CONFIG), "--out", str(out)]
    return subprocess.Popen(
        [*command, "--prompts", "prompts.txt", *SMALL, *more],
        cwd=out.parent,
        env={**os.environ, **environment()},
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process):
    """The exit status of a process, and what it has written to stderr."""
    _, text = process.communicate(timeout=PATIENCE)
    return process.returncode, text


def on(nodes, *more):
    return ["--executor", "ray", "--address", nodes.address, *more]


def done(out):
    """The videos that are finished: bytes and time of the last change, by name."""
    paths = [path.with_name(path.name.removesuffix(".json")) for path in out.glob("*.mp4.json")]
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


def contents(out):
    return {path.name: path.read_bytes() for path in out.glob("*.mp4")}


def manifest(out):
    content = json.loads((out / "manifest.json").read_text())
    return [row["prompt"] for row in content["videos"]], content["missing"]


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The videos of a run without a cluster."""
    out = tmp_path_factory.mktemp("local") / "out"
    status, text = finished(started(out, "--quiet"))
    assert status == 0, text
    return contents(out)


def test_a_list_outlives_its_driver_a_replica_and_a_node(nodes, expected, tmp_path):
    out = tmp_path / "out"
    driver = started(out, *on(nodes, *TWO))
    until(lambda: done(out), "a video is made")
    driver.kill()
    driver.communicate()
    until(lambda: not nodes.replicas(), "the replicas end with their driver")
    before = done(out)
    assert len(before) < len(PROMPTS)
    assert not (out / "manifest.json").exists()

    driver = started(out, *on(nodes, *TWO))
    pids = until(lambda: len(found := nodes.replicas()) == 2 and found, "both replicas run again")
    until(lambda: len(done(out)) > len(before), "the list goes on")
    os.kill(pids[0], signal.SIGKILL)
    between = done(out)
    nodes.kill(nodes.second)
    status, text = finished(driver)
    assert status == 0, text
    assert "a replica was lost" in text
    after = done(out)
    for earlier in (before, between):
        assert {name: after[name] for name in earlier} == earlier  # nothing is made twice
    assert contents(out) == expected
    assert manifest(out) == (PROMPTS, 0)
    nodes.second = nodes.add(1)

    status, text = finished(started(out, *on(nodes)))
    assert (status, done(out)) == (0, after), text


def test_a_replica_of_two_devices_is_on_one_node(nodes, tmp_path):
    config, _ = split(load_family_config(str(CONFIG), None, [*SMALL, "num_gpus=2"]))
    with pytest.raises(ValueError, match=r"cfg \* sp = 2 devices, which must be on one node; no node"):
        with connected(nodes.address, config, 1):
            pass
    node = nodes.add(2)
    for name, more in (("ray", on(nodes)), ("local", [])):
        out = tmp_path / name / "out"
        out.parent.mkdir()
        status, text = finished(started(out, "num_gpus=2", "parallel.cfg=2", *more, prompts=PROMPTS[:1]))
        assert status == 0, text
    nodes.kill(node)
    assert contents(tmp_path / "ray" / "out") == contents(tmp_path / "local" / "out")
    assert len(contents(tmp_path / "ray" / "out")) == 1


def job(name, prompt, **changes):
    request = json.dumps({"seed": 3, **changes})
    return Job(name, "a", prompt, request, "64x64", 17, 12.0, 3, time.time())


def test_a_service_scales_by_its_queue_and_a_lost_replica_costs_an_attempt(nodes, expected, tmp_path):
    config, _ = split(load_family_config(str(CONFIG), None, SMALL))
    store = Store(f"sqlite:///{tmp_path / 'jobs.sqlite'}")
    with connected(nodes.address, config, 2) as cluster:
        workers = RayWorkers(cluster, store, tmp_path, 1, 2, idle_seconds=1.0)
        workers.start()
        try:
            until(lambda: workers.alive == 1, "the first replica starts")
            (pid,) = nodes.replicas()
            long = [f"long{number}" for number in range(3)]
            for name in long:
                store.add(job(name, "a cross", **LONG))
            until(lambda: store.get("a", "long0").step, "it tells its steps")
            os.kill(pid, signal.SIGKILL)
            until(lambda: 2 in [store.get("a", name).attempt for name in long], "its job is begun again")
            until(lambda: workers.alive == 2, "a second replica starts")
            for name in long:
                store.remove("a", name)  # which stops it
            for number, prompt in enumerate(PROMPTS[:3]):
                store.add(job(f"short{number}", prompt))
            until(lambda: store.counts() == {"completed": 3}, "all are made")
            until(lambda: workers.alive == 1, "the second replica ends")
            assert workers.restarts == 1
            store.add(job("last", "a cross", **LONG))
            until(lambda: store.get("a", "last").step, "it is at work")
        finally:
            workers.stop()
    last = store.get("a", "last")
    assert (last.status, last.attempt) == ("queued", 0)
    jobs = [store.get("a", f"short{number}") for number in range(3)]
    assert [item.attempt for item in jobs] == [1, 1, 1]
    made = {(tmp_path / f"{item.files}.mp4").read_bytes() for item in jobs}
    assert made <= {*expected.values()}
    assert len(made) == 3
    store.close()


def test_the_command_serves_on_a_cluster_of_its_own(nodes, tmp_path):
    command = [sys.executable, "-m", "videosys", "serve", "--config", str(CONFIG), "--port", "0", *SMALL]
    server = subprocess.Popen(
        [*command, "--data", str(tmp_path), "--executor", "ray", "--max-replicas", "2"],
        env={**os.environ, **environment()},
        stdout=subprocess.PIPE,
        text=True,
    )
    line = server.stdout.readline()
    url = re.match(r"(http://127\.0\.0\.1:\d+/v1) serves", line)[1]
    body = json.dumps({"prompt": "a cross", "seed": 3}).encode()
    request = urllib.request.Request(f"{url}/videos", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        name = json.load(answer)["id"]

    def completed():
        with urllib.request.urlopen(f"{url}/videos/{name}") as answer:
            return json.load(answer)["status"] == "completed"

    until(completed, "the video is made")
    server.send_signal(signal.SIGTERM)
    assert server.wait(PATIENCE) == 0
    server.stdout.close()
    until(lambda: not nodes.replicas(), "the replicas end with the server")
