"""Ray: the connection to a cluster, the placement of replicas, and the driver's side of a replica."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from videosys.engine.engine import Callback
from videosys.engine.messages import Failed
from videosys.engine.pool import importable_plugins
from videosys.generation.config import PipelineConfig
from videosys.generation.request import VideoOutput
from videosys.generation.watch import Cancelled, StepProgress, Watch
from videosys.models import family_of
from videosys.serve.replica import Made, Order, Replica, ReplicaLost, Setup, replica_codec
from videosys.utils.installed import missing

LOOK_SECONDS = 0.3  # between two checks of a running video
ANSWER_SECONDS = 5.0  # timeout for the answer to a check
LOCAL_MEMORY = 256 << 20  # minimum bytes for finished videos in a cluster that is started here
HOST_AND_PORT = re.compile(r"([^/]+):(\d+)")
NO_REPORTS = {"RAY_USAGE_STATS_ENABLED": "0"}


class NotWanted(Exception):
    """The replica that is about to start is no longer needed."""


class NoRoom(ReplicaLost):
    """The cluster had no room for a replica within the timeout."""


def import_ray() -> ModuleType:
    """The module ray. ValueError if it is not installed."""
    try:
        import ray
        import ray.util.scheduling_strategies
    except ImportError as error:
        raise missing("--executor ray", "ray", error) from error
    return ray


def split(config: PipelineConfig) -> tuple[PipelineConfig, int]:
    """(the config of one replica, the number of replicas that a config requests).

    ValueError for a device with an index, such as cuda:1.
    """
    if config.device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device is {config.device!r}; with --executor ray it must be auto, cpu or cuda")
    whole = config.parallel.resolved(config.is_guided)
    own = dataclasses.replace(whole, num_gpus=whole.replica_size, dp=1)
    return dataclasses.replace(config.anchored(), parallel=own), whole.dp or 1


def of_head(config: PipelineConfig) -> PipelineConfig:
    """A replica's config for checks on a computer without GPUs, such as the head of a cluster."""
    return dataclasses.replace(split(config)[0], device="cpu")


def check_loadable(config: PipelineConfig) -> None:
    """ValueError for a config that no replica can run. Does not load weights or use a device."""
    own = of_head(config)
    family_of(own).build(own, quiet=True).check_parallel(own)


@contextlib.contextmanager
def variables(values: dict[str, str]) -> Iterator[None]:
    """Sets environment variables for the `with` block, unless they are already set."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextlib.contextmanager
def connected(address: str | None, config: PipelineConfig, replicas: int) -> Iterator[Cluster]:
    """Connect to the Ray cluster at an address, or start a local one for the `with` block.

    config: of each of up to `replicas` replicas. ValueError if no cluster answers, or if no node has enough
    devices for a replica.
    """
    ray = import_ray()
    check_reachable(address)
    height, width = config.size
    video_bytes = 3 * config.output_frames * height * width
    local = {
        "address": "local",
        "include_dashboard": False,
        "object_store_memory": LOCAL_MEMORY + 2 * replicas * video_bytes,
    }
    settings = local if address is None else {"address": address}
    with variables(NO_REPORTS):
        try:
            ray.init(**settings, log_to_driver=False, logging_level="ERROR", configure_logging=False)
        except Exception as error:  # Ray raises many classes
            text = (str(error).strip() or type(error).__name__).splitlines()[0]
            place = "Ray cannot be started here" if address is None else f"--address {address}: no answer"
            raise ValueError(f"{place}: {text}") from error
    try:
        yield Cluster(ray, config)
    finally:
        ray.shutdown()


def check_reachable(address: str | None) -> None:
    """ValueError for an address HOST:PORT at which nothing listens. Ray itself would retry for minutes."""
    match = HOST_AND_PORT.fullmatch(address or "")
    if match is None:
        return
    try:
        socket.create_connection((match[1].strip("[]"), int(match[2])), timeout=ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ValueError(
            f"--address {address}: no answer from Ray: {getattr(error, 'strerror', None) or error}"
        ) from error


class Cluster:
    """A connected Ray cluster, for replicas of one config."""

    def __init__(self, ray: ModuleType, config: PipelineConfig):
        """ValueError if no node has enough devices for a replica."""
        self.ray, self.config = ray, config
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        has_gpus = any(node.get("GPU") for node in nodes)
        self.kind = "GPU" if config.device == "cuda" or (config.device == "auto" and has_gpus) else "CPU"
        self.size = config.parallel.num_gpus
        most = int(max((node.get(self.kind, 0) for node in nodes), default=0))
        if most < self.size:
            raise ValueError(
                f"a replica has cfg * sp = {self.size} devices, which must be on one node; no node of the "
                f"Ray cluster has more than {most} {self.kind}s"
            )
        self.seconds = f"{config.parallel.timeout:g} s"  # timeout for a replica, as shown in errors
        self.codec, self.plugins = replica_codec(), importable_plugins()
        self._asking = threading.Lock()

    @contextlib.contextmanager
    def replica(self, is_wanted: Callable[[], bool] = lambda: True) -> Iterator[RemoteReplica]:
        """A new replica for the `with` block, on a node that has all its devices.

        NotWanted if `is_wanted` becomes false before it has started; NoRoom after `parallel.timeout` seconds;
        ReplicaLost if it cannot start.
        """
        util = self.ray.util
        with contextlib.ExitStack() as stack:
            with self._turn(is_wanted):
                group = util.placement_group([{self.kind: self.size}], strategy="STRICT_PACK")
                stack.callback(util.remove_placement_group, group)
                text = f"the Ray cluster had no room for {self.size} {self.kind}s for {self.seconds}"
                self._wait(lambda: group.wait(LOOK_SECONDS), is_wanted, NoRoom(text))
            actor = self._start(group)
            stack.callback(self.ray.kill, actor)
            with self.losses():
                node = self._first_answer(actor, is_wanted)
            yield RemoteReplica(self, actor, node)

    @contextlib.contextmanager
    def _turn(self, is_wanted: Callable[[], bool]) -> Iterator[None]:
        """Lets one thread at a time request devices; otherwise an autoscaler would add too many nodes."""
        while not self._asking.acquire(timeout=LOOK_SECONDS):
            if not is_wanted():
                raise NotWanted
        try:
            yield
        finally:
            self._asking.release()

    def _wait(self, is_ready: Callable[[], Any], is_wanted: Callable[[], bool], late: ReplicaLost) -> None:
        """Wait until `is_ready`. NotWanted if `is_wanted` becomes false; `late` after `parallel.timeout` s.

        is_ready: blocks for up to `LOOK_SECONDS`.
        """
        deadline = time.monotonic() + self.config.parallel.timeout
        while not is_ready():
            if not is_wanted():
                raise NotWanted
            if time.monotonic() > deadline:
                raise late

    def _start(self, group: Any) -> Any:
        place = self.ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(group)
        devices = {"num_gpus": self.size, "num_cpus": 0} if self.kind == "GPU" else {"num_cpus": self.size}
        actor = self.ray.remote(Replica).options(
            **devices, max_concurrency=4, max_restarts=0, scheduling_strategy=place
        )
        return actor.remote(self.codec.pack(Setup(self.config)), self.plugins)

    def _first_answer(self, actor: Any, is_wanted: Callable[[], bool]) -> str:
        """Waits until a replica has started; returns its node."""
        answer, late = actor.node.remote(), ReplicaLost(f"it did not start within {self.seconds}")
        self._wait(lambda: self.ray.wait([answer], timeout=LOOK_SECONDS)[0], is_wanted, late)
        return self.ray.get(answer)

    @contextlib.contextmanager
    def losses(self) -> Iterator[None]:
        """Converts errors of Ray to ReplicaLost, with a message of one line."""
        try:
            yield
        except self.ray.exceptions.RayError as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            # The last line of a traceback from the replica's process names the error.
            is_traceback = any(line.startswith("Traceback") or "creation task" in line for line in lines)
            line = lines[-1 if is_traceback else 0] if lines else type(error).__name__
            raise ReplicaLost(line[:300]) from error


class RemoteReplica:
    """A replica on a cluster: an engine for one request at a time. node: the id of its node."""

    def __init__(self, cluster: Cluster, actor: Any, node: str):
        self.cluster, self.actor, self.node = cluster, actor, node
        self.config, self.is_warm = cluster.config, False
        self._numbers = itertools.count()

    def submit(self, prompt: str, *, callback: Callback | None = None, **request: Any) -> RemoteHandle:
        """Submits a request for one video, like `VideoSysEngine.submit`."""
        config = dataclasses.replace(self.config, num_videos_per_prompt=1, batch_size=1, **request)
        return RemoteHandle(self.cluster, self.actor, Order(config, next(self._numbers), prompt), callback)

    def end(self) -> None:
        """End the replica immediately; waiting callers get ReplicaLost."""
        self.cluster.ray.kill(self.actor)


class RemoteHandle:
    """A request to a replica, with the interface of `Handle`."""

    def __init__(self, cluster: Cluster, actor: Any, order: Order, callback: Callback | None):
        self.cluster, self.actor, self.number = cluster, actor, order.number
        self.timeout = order.config.parallel.timeout
        self._watch, self._seen, self._heard = Watch(callback), b"", time.monotonic()
        self._answer = actor.make.remote(cluster.codec.pack(order))

    @property
    def progress(self) -> StepProgress | None:
        """The last reported step; None before the first."""
        return self._watch.progress

    @property
    def is_done(self) -> bool:
        """Whether `result` returns or raises without waiting."""
        return bool(self.cluster.ray.wait([self._answer], timeout=0)[0])

    def wait(self, timeout: float) -> bool:
        """Wait up to this many seconds; return whether the request has ended.

        ReplicaLost if the replica has died, or has reported no step for `parallel.timeout` seconds.
        """
        if self.cluster.ray.wait([self._answer], timeout=timeout)[0]:
            return True
        if self._watch.error is not None:
            self.actor.cancel.remote(self.number)
        self._look()
        return False

    def _look(self) -> None:
        """Asks the replica for its progress."""
        ray, news = self.cluster.ray, None
        with self.cluster.losses(), contextlib.suppress(ray.exceptions.GetTimeoutError):
            news = ray.get(self.actor.progress.remote(self.number), timeout=ANSWER_SECONDS)
        if news is not None and news != self._seen:
            self._seen, self._heard = news, time.monotonic()
            self._watch.tell(self.cluster.codec.unpack(news).progress)
        if time.monotonic() - self._heard > self.timeout:
            raise ReplicaLost(f"it reported no step for {self.timeout:g} s")

    def cancel(self) -> None:
        """Ends the request before its next step, with `Cancelled`."""
        self._watch.stop(Cancelled("the request was cancelled"))

    def made(self) -> Made:
        """Waits for the video and its times. ReplicaLost, `Cancelled`, or ValueError if the replica refuses
        the request.
        """
        while not self.wait(LOOK_SECONDS):
            pass
        with self.cluster.losses():
            answer = self.cluster.ray.get(self._answer)
        reply = self.cluster.codec.unpack(answer)
        if not isinstance(reply, Failed):
            return reply
        if self._watch.error is not None:
            raise self._watch.error
        if reply.is_refusal:
            raise ValueError(reply.text)
        raise ReplicaLost(f"{reply.error}: {reply.text}".splitlines()[0])

    def result(self) -> VideoOutput:
        """Waits for the video; errors as in `made`."""
        return self.made().output
