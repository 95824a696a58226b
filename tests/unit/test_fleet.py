"""Replicas that are started, lost, started again, and ended, on a cluster that is only pretended."""

from __future__ import annotations

import contextlib
import threading
import time
from types import SimpleNamespace

import pytest

pytest.importorskip("sqlalchemy", reason="the extra 'serve' is not installed: pip install -e '.[serve]'")

from tests.stage import PATIENCE, Stage, until
from videosys.engine.failure import RankError
from videosys.generation.request import VideoOutput
from videosys.serve.cluster import NoRoom
from videosys.serve.executors import ATTEMPTS, Batches, LocalExecutor, RayExecutor, Task
from videosys.serve.fleet import Fleet
from videosys.serve.replica import Made, ReplicaLost
from videosys.serve.restarts import LONGEST_PAUSE, ends_in_a_row, pause


def output(prompt, seed=0):
    return VideoOutput([], [prompt], [seed], [[]], 24.0)


class Stub:
    """A replica: each prompt is made by `make`, which may raise."""

    def __init__(self, node, make):
        self.node, self.make, self.is_warm = node, make, False
        self.is_ended = threading.Event()

    def submit(self, prompt, **request):
        return SimpleNamespace(made=lambda: self.make(self, prompt))

    def end(self):
        self.is_ended.set()


def stage(*nodes, make=None, **options):
    """A cluster whose replicas make a video at once, unless `make` says otherwise."""
    make = make or (lambda replica, prompt: Made(output(prompt), 1.0, 1.0, "stub"))
    return Stage(*nodes, build=lambda node: Stub(node, make), **options)


def tasks(*prompts):
    return [[Task(f"{prompt}.mp4", prompt, {"seed": 3})] for prompt in prompts]


def made(executor, groups):
    return [task.prompt for task, _ in executor.videos(groups)]


def idle(name, replica):
    time.sleep(0.005)
    return False


@pytest.fixture
def fleet():
    """A function that makes a fleet, which is closed in the end."""
    with contextlib.ExitStack() as stack:

        def build(*arguments, **options):
            fleet = Fleet(*arguments, **options)
            stack.callback(fleet.close)
            return fleet

        yield build


def test_a_list_is_shared_and_every_video_is_made_once():
    there = stage("a", "b")
    assert sorted(made(RayExecutor(there, 2), tasks(*"vwxyz"))) == [*"vwxyz"]
    assert sorted(there.started) == ["a", "b"]


def test_no_more_replicas_are_started_than_there_are_videos():
    there = stage("a", "b", "c")
    assert made(RayExecutor(there, 3), tasks("v")) == ["v"]
    assert len(there.started) == 1
    assert made(RayExecutor(there, 3), []) == []


def test_a_lost_video_is_made_on_another_node():
    attempts = []

    def make(replica, prompt):
        attempts.append((prompt, replica.node))
        time.sleep(0.02)
        if prompt == "x" and replica.node == "a":
            raise ReplicaLost("the node is gone")
        return Made(output(prompt), 1.0, 1.0, "stub")

    there = stage("a", "b", make=make)
    assert sorted(made(RayExecutor(there, 2), tasks(*"vwxyz"))) == [*"vwxyz"]
    assert [node for prompt, node in attempts if prompt == "x"] in (["b"], ["a", "b"])
    assert all(sum(prompt == other for other, _ in attempts) == 1 for prompt in "vwyz")


@pytest.mark.parametrize("error", [ReplicaLost("out of memory"), TypeError("out of memory")])
def test_a_video_that_loses_every_replica_is_given_up_and_the_others_are_made(caplog, error):
    attempts = []

    def make(replica, prompt):
        attempts.append(prompt)
        if prompt == "x":
            raise error
        return Made(output(prompt), 1.0, 1.0, "stub")

    assert made(RayExecutor(stage("a", make=make), 1), tasks(*"wxy")) == ["w", "y"]
    assert attempts.count("x") == ATTEMPTS
    assert f"giving up after {ATTEMPTS} attempts: x.mp4: out of memory" in caplog.text


def test_what_a_group_has_made_is_not_made_again():
    attempts = []

    def make(replica, prompt):
        attempts.append((prompt, replica.node))
        if prompt == "w" and attempts.count(("w", replica.node)) == 1 and len(attempts) == 2:
            raise ReplicaLost("gone")
        return Made(output(prompt), 1.0, 1.0, "stub")

    group = [task for single in tasks(*"vwx") for task in single]
    assert made(RayExecutor(stage("a", make=make), 1), [group]) == [*"vwx"]
    assert [prompt for prompt, _ in attempts] == [*"vwwx"]


def test_a_slow_replica_makes_fewer_videos():
    attempts, is_last = [], threading.Event()

    def make(replica, prompt):
        attempts.append(replica.node)
        if replica.node == "slow":
            assert is_last.wait(PATIENCE)
        elif attempts.count("quick") == 5:
            is_last.set()
        return Made(output(prompt), 1.0, 1.0, "stub")

    def start(node):
        if node == "quick":
            until(lambda: "slow" in attempts)

    there = stage("slow", "quick", make=make, start=start)
    assert sorted(made(RayExecutor(there, 2), tasks(*"uvwxyz"))) == [*"uvwxyz"]
    assert (attempts.count("slow"), attempts.count("quick")) == (1, 5)


def test_each_replica_warms_up_once():
    attempts = []

    def make(replica, prompt):
        attempts.append((replica.node, prompt))
        return Made(output(prompt), 1.0, 1.0, "stub")

    warm_up = Task("warm-up", "warm", {})
    assert made(RayExecutor(stage("a", make=make), 1, warm_up), tasks("v", "w")) == ["v", "w"]
    assert [prompt for _, prompt in attempts] == ["warm", "v", "w"]


def test_a_refused_video_ends_the_run():
    def make(replica, prompt):
        raise ValueError("num_frames is 5")

    with pytest.raises(ValueError, match="num_frames is 5"):
        made(RayExecutor(stage("a", make=make), 1), tasks("v", "w"))


@pytest.mark.parametrize(("error", "starts"), [(ReplicaLost("no checkpoint"), 3), (NoRoom("no room"), 1)])
def test_a_cluster_on_which_nothing_starts_ends_the_run(monkeypatch, error, starts):
    calls, pauses = [], []
    monkeypatch.setattr("videosys.serve.fleet.pause", lambda ends: pauses.append(ends) or 0.0)

    def start(node):
        calls.append(node)
        raise error

    with pytest.raises(ValueError, match=f"no replica can be started: {error}"):
        made(RayExecutor(stage("a", start=start), 1), tasks("v"))
    assert len(calls) == starts
    assert len(pauses) == starts - 1  # none before the error


def test_a_run_that_its_reader_leaves_ends_its_replicas():
    there = stage("a", "b")
    executor = RayExecutor(there, 2)
    videos = executor.videos(tasks(*"vwxyz"))
    next(videos)
    executor.close()
    assert sorted(there.free) == ["a", "b"]


def test_batches_are_left_to_nodes_where_they_have_not_failed():
    batches = Batches(tasks("v", "w"))
    first = batches.take("a", {"a", "b"})
    first.avoided.add("a")
    batches.give_back(first)
    second = batches.take("a", {"a", "b"})
    assert second.tasks[0].prompt == "w"
    assert batches.take("a", {"a", "b"}) is None
    assert batches.take("a", {"a"}) is first  # there is no other node any more


def test_a_lost_replica_is_started_again_with_a_new_name(fleet):
    names, ended = [], []

    def work(name, replica):
        names.append(name)
        if len(names) == 1:
            raise ReplicaLost("gone")
        return idle(name, replica)

    workers = fleet(stage("a"), work, ended.append)
    workers.add()
    until(lambda: len({*names}) == 2)
    assert (ended, workers.restarts) == (names[:1], 1)


def test_an_idle_member_leaves_and_frees_its_place(fleet):
    there = stage("a", "b")
    workers = fleet(there, idle)
    workers.add()
    workers.add()
    until(lambda: len(workers.alive()) == 2)
    workers.retire(3600)
    assert len(workers.staying()) == 2
    workers.retire(0)
    assert len(workers.staying()) == 1
    until(lambda: len(there.free) == 1)


def test_a_member_that_waits_for_room_can_leave(fleet):
    workers = fleet(stage(), idle)
    workers.add()
    workers.retire(0)
    until(lambda: not workers.members)


def test_closing_ends_what_is_at_work(fleet):
    ended = []

    def work(name, replica):
        assert replica.is_ended.wait(PATIENCE)
        raise ReplicaLost("it was ended")

    workers = fleet(stage("a"), work, ended.append)
    workers.add()
    until(workers.alive)
    workers.close()
    assert not workers.members
    assert len(ended) == 1
    assert workers.restarts == 0


def test_pauses_grow_and_a_steady_process_starts_anew():
    assert [pause(ends) for ends in (0, 1, 2, 3)] == [0.0, 0.0, 0.5, 1.0]
    assert pause(50) == LONGEST_PAUSE
    assert ends_in_a_row(4, 1.0) == 5
    assert ends_in_a_row(4, 3600.0) == 0


class Engine:
    """An engine whose first request fails at the first of two prompts, whose second another device made."""

    config = SimpleNamespace(device="cpu")

    def __init__(self, failures):
        self.failures, self.requests = failures, []

    def stream(self, prompts, **request):
        self.requests.append(prompts)
        if len(self.requests) <= self.failures:
            for prompt in prompts[1:]:
                yield output(prompt)
            raise RankError("rank 0: killed")
        for prompt in prompts:
            yield output(prompt)


def test_after_a_failure_every_video_goes_to_its_own_prompt():
    engine = Engine(1)
    pairs = [(task.prompt, made.output.prompts) for task, made in LocalExecutor(engine).videos(tasks(*"vw"))]
    assert pairs == [("w", ["w"]), ("v", ["v"])]
    assert engine.requests == [["v", "w"], ["v"]]


def test_a_local_video_is_tried_three_times():
    engine = Engine(99)
    assert made(LocalExecutor(engine), tasks(*"vwx")) == ["w", "x"]
    assert engine.requests == [["v", "w", "x"], ["v"], ["v"]]


def test_timed_videos_are_requests_of_their_own():
    engine = Engine(0)
    assert made(LocalExecutor(engine, is_timed=True), tasks(*"vw")) == ["v", "w"]
    assert engine.requests == [["v"], ["w"]]
