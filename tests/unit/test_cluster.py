"""What is sent to replicas and what is made of their answers, with a Ray that is only pretended."""

from __future__ import annotations

import argparse
import builtins
import socket
from types import SimpleNamespace

import pytest

from tests.tiny_checkpoint import config_of
from videosys import OpenSoraConfig, load_config
from videosys.engine.messages import Failed, Progress
from videosys.generation.watch import Cancelled, StepProgress
from videosys.parallel import ParallelConfig
from videosys.serve import render
from videosys.serve.cluster import (
    Cluster,
    RemoteReplica,
    check_loadable,
    check_reachable,
    import_ray,
    of_head,
    split,
)
from videosys.serve.options import add_executor_options, check_executor_options
from videosys.serve.replica import Order, Replica, ReplicaLost, Setup, replica_codec


class RayError(Exception):
    pass


class GetTimeoutError(RayError):
    pass


class Method:
    """A method of an actor; what it returns is known at once, or never."""

    def __init__(self, function):
        self.remote = function


class Ray:
    """The functions of Ray on answers that are there already; None is one that never comes."""

    exceptions = SimpleNamespace(RayError=RayError, GetTimeoutError=GetTimeoutError)

    def __init__(self, *nodes):
        self.resources, self.killed = nodes, []

    def nodes(self):
        return [{"Alive": True, "Resources": resources} for resources in self.resources]

    def wait(self, answers, timeout):
        return [answer for answer in answers if answer is not None], []

    def get(self, answer, timeout=None):
        if answer is None:
            raise GetTimeoutError
        if isinstance(answer, Exception):
            raise answer
        return answer

    def kill(self, actor):
        self.killed.append(actor)


def cluster(config=None, **resources):
    return Cluster(Ray({"CPU": 1.0, **resources}), config or OpenSoraConfig())


def remote(make, progress=lambda number: None, cancel=lambda number: None, **changes):
    """A replica with these methods."""
    config, _ = split(OpenSoraConfig(seed=1, **changes))
    there = cluster(config)
    actor = SimpleNamespace(make=Method(make), progress=Method(progress), cancel=Method(cancel))
    return RemoteReplica(there, actor, "node")


def test_the_devices_are_gpus_where_there_are_any():
    assert (cluster().kind, cluster(GPU=2.0).kind) == ("CPU", "GPU")
    assert cluster(OpenSoraConfig(device="cpu"), GPU=2.0).kind == "CPU"
    with pytest.raises(ValueError, match=r"cfg \* sp = 1 devices.* more than 0 GPUs"):
        cluster(OpenSoraConfig(device="cuda"))


@pytest.mark.parametrize(
    ("settings", "size", "count"),
    [
        ({}, 1, 1),
        ({"num_gpus": 2}, 2, 1),  # the guidance pair
        ({"num_gpus": 8, "parallel": {"dp": 8}}, 1, 8),
        ({"num_gpus": 8, "parallel": {"dp": 2, "cfg": 2, "sp": 2}}, 4, 2),
    ],
)
def test_a_config_is_split_into_replicas(settings, size, count):
    config = load_config(OpenSoraConfig, settings)
    own, replicas = split(config)
    assert (own.parallel.num_gpus, own.parallel.dp, replicas) == (size, 1, count)
    assert own.parallel.cfg * own.parallel.sp == size
    assert of_head(config).device == "cpu"


def test_a_device_of_one_computer_is_refused():
    with pytest.raises(ValueError, match="device is 'cuda:1'; with --executor ray it must be auto, cpu or"):
        split(OpenSoraConfig(device="cuda:1"))


def test_a_config_that_no_replica_could_run_is_refused_before_ray_is_started(checkpoint):
    check_loadable(config_of(checkpoint))
    with pytest.raises(ValueError, match="nowhere"):
        check_loadable(config_of(checkpoint, transformer="./nowhere"))


def test_a_replica_makes_the_video_of_an_order(checkpoint):
    config = config_of(checkpoint, device="cpu", num_frames=17, num_inference_steps=2)
    codec = replica_codec()
    replica = Replica(codec.pack(Setup(config)), ["tests.toy_weights"])
    assert replica.progress(0) is None
    made = codec.unpack(replica.make(codec.pack(Order(config, 0, "a cross"))))
    assert (made.output.prompts, made.output.seeds, len(made.output.steps)) == (["a cross"], [7], 2)
    assert tuple(made.output.video[0].shape) == (17, 32, 48, 3)
    assert min(made.seconds, made.cpu_seconds) > 0
    assert made.device.endswith("CPU, 1 threads")
    assert codec.unpack(replica.progress(0)).progress.stage == "decode"
    replica.cancel(0)  # which has ended
    refused = codec.unpack(replica.make(codec.pack(Order(config, 1, " "))))
    assert (refused.error, refused.is_refusal, refused.request) == ("ValueError", True, 1)
    replica.engine.close()


def test_a_silent_replica_is_lost():
    replica = remote(lambda order: None, parallel=ParallelConfig(timeout=0.01))
    with pytest.raises(ReplicaLost, match=r"it reported no step for 0\.01 s"):
        replica.submit("a cross", seed=1).made()


def test_steps_are_told_and_keep_a_replica():
    steps = iter(range(1, 4))
    codec = replica_codec()

    def progress(number):
        step = next(steps, None)
        return None if step is None else codec.pack(Progress(number, StepProgress("denoise", step, 9)))

    replica, told = remote(lambda order: None, progress), []
    handle = replica.submit("a cross", callback=lambda progress: told.append(progress.step), seed=1)
    for _ in range(4):
        assert not handle.wait(0.0)
    assert told == [1, 2, 3]
    assert handle.progress.step == 3


def answering(*fields, **more):
    codec = replica_codec()
    return lambda order: codec.pack(Failed(codec.unpack(order).number, *fields, **more))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda order: RayError("The actor died.\nmore"), ReplicaLost, r"The actor died\.$"),
        (
            lambda order: RayError("error raised in its creation task\nTraceback\nImportError: no x"),
            ReplicaLost,
            "^ImportError: no x$",
        ),
        (answering("OutOfMemoryError", "CUDA\nmore", ""), ReplicaLost, "^OutOfMemoryError: CUDA$"),
        (answering("ValueError", "num_frames is 5", "", True), ValueError, "^num_frames is 5$"),
    ],
)
def test_failures_are_told_apart(make, error, message):
    with pytest.raises(error, match=message):
        remote(make).submit("a cross", seed=1).result()


def test_a_cancelled_request_is_stopped_at_the_replica():
    cancelled = []
    replica = remote(lambda order: None, cancel=cancelled.append)
    handle = replica.submit("a cross", seed=1)
    handle.cancel()
    assert not handle.wait(0.0)
    assert cancelled == [0]
    handle._answer = answering("Cancelled", "the request was cancelled", "", True)(
        replica.cluster.codec.pack(Order(replica.config, 0, "a"))
    )
    with pytest.raises(Cancelled):
        handle.result()


def test_an_order_is_for_one_video_of_the_request():
    orders = []
    replica = remote(orders.append, num_videos_per_prompt=3)
    replica.submit("a cross", seed=5, num_inference_steps=7)
    order = replica.cluster.codec.unpack(orders[0])
    assert (order.prompt, order.config.seed, order.config.steps) == ("a cross", 5, 7)
    assert (order.config.num_videos_per_prompt, order.config.batch_size) == (1, 1)


def test_without_ray_the_extra_is_named(monkeypatch):
    original = builtins.__import__

    def absent(name, *arguments, **options):
        if name == "ray":
            raise ImportError("no", name="ray")
        return original(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ValueError, match=r"--executor ray needs an extra: pip install .*\[ray\].*ray cannot"):
        import_ray()


def test_an_address_without_ray_is_refused(tmp_path, capsys):
    (tmp_path / "p.txt").write_text("a cross")
    arguments = ["--config", "x.yaml", "--prompts", str(tmp_path / "p.txt"), "--out", str(tmp_path / "o")]
    assert render.main([*arguments, "--address", "auto"]) == 2
    assert capsys.readouterr().err == "error: --address auto needs --executor ray\n"
    parser = argparse.ArgumentParser()
    add_executor_options(parser)
    check_executor_options(parser.parse_args(["--executor", "ray", "--address", "auto"]))


def test_an_address_at_which_nothing_listens_is_told_at_once():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        for address in (None, "auto", "local", f"127.0.0.1:{port}"):
            check_reachable(address)
    for address in (f"127.0.0.1:{port}", f"[::1]:{port}", "127.0.0.1:99999", "nosuch.invalid:6379"):
        with pytest.raises(ValueError, match=r"^--address .*: no answer from Ray: "):
            check_reachable(address)
