"""Ranks that raise, refuse, die and hang: what the parent says, how soon, and what is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
import torch

from tests.distributed import fakes
from videosys import OpenSoraConfig, ParallelConfig, Reference, TeaCacheConfig
from videosys.engine.failure import RankError
from videosys.engine.pool import Pool

ROOT = Path(__file__).resolve().parents[2]
FIRST = 240.0  # seconds that ranks may need to start on a busy machine; about 3 on an idle one
SOON = 60.0  # seconds in which a failure must be reported; they are printed, and about 1 on an idle machine
PARTS = {part: f"bundled:opensora{folder}" for part, folder in
         (("transformer", "/transformer"), ("vae", "/vae"), ("text_encoder", ""))}  # fmt: skip

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(600)]


def make_pool(build="build", **parallel):
    parallel = {"num_gpus": 2, "timeout": FIRST, **parallel}
    config = OpenSoraConfig(**PARTS, device="cpu", parallel=ParallelConfig(**parallel))
    return Pool(config, quiet=True, build=f"{fakes.HERE}:{build}")


@pytest.fixture(scope="module")
def pool():
    pool = make_pool(dp=1)
    yield pool
    pool.close()


def stream(pool, *prompts, references=None, **request):
    inputs = {} if references is None else {"references": references}
    config = OpenSoraConfig(**PARTS, **{"seed": 5, **request})
    return pool.stream(prompts, config, inputs)


def jobs_of(outputs):
    return [job for output in outputs for job in zip(output.prompts, output.seeds)]


@contextmanager
def raised_within(seconds, what, capsys):
    begin = time.monotonic()
    yield
    took = time.monotonic() - begin
    with capsys.disabled():
        print(f"  [{what}: {took:.2f} s]", end="", flush=True)
    assert took < seconds


def ids(pool):
    return [popen.pid for popen in pool._processes.popens]


def is_gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_gone(pids, seconds=SOON):
    deadline = time.monotonic() + seconds
    while not all(map(is_gone, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert all(map(is_gone, pids))


def test_videos_come_in_order_and_unharmed(pool):
    outputs = list(stream(pool, "a", "b", num_videos_per_prompt=2, fps=8.0))
    assert jobs_of(outputs) == [("a", 5), ("a", 6), ("b", 5), ("b", 6)]
    assert [int(output.video[0][0, 0, 0, 0]) for output in outputs] == [5, 6, 5, 6]
    step = outputs[0].steps[0]
    assert (step.step, step.timestep, step.distance, step.accumulated, step.computed) == (
        0,
        999.5,
        None,
        0.25,
        True,
    )
    assert outputs[0].steps[0].rescaled != outputs[0].steps[0].rescaled
    assert (outputs[0].fps, outputs[0].video[0].dtype) == (8.0, torch.uint8)
    outputs[0].video[0][:] = 0  # its owner may change it


def test_references_reach_the_ranks(pool):
    frames = torch.arange(24, dtype=torch.uint8).reshape(1, 2, 4, 3)
    (output,) = stream(pool, "a", references=[Reference(frames[:, :, ::2])])
    assert torch.equal(output.video[0], frames[:, :, ::2])


def test_requests_are_read_in_turns_and_left_unread(pool):
    one, two = stream(pool, "a", "b", "c"), stream(pool, "d", "e", seed=9)
    assert jobs_of([next(one)]) == [("a", 5)]
    assert jobs_of([next(two), next(one)]) == [("d", 9), ("b", 5)]
    two.close()
    assert jobs_of(stream(pool, "f")) == [("f", 5)]
    assert jobs_of(one) == [("c", 5)]


def test_threads_may_ask_at_once(pool):
    results = {}

    def ask(number):
        results[number] = jobs_of(stream(pool, "a", "b", seed=number))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SOON + FIRST)
    assert results == {number: [("a", number), ("b", number)] for number in range(4)}


def test_what_all_ranks_refuse_is_a_mistake_and_they_go_on(pool, capsys):
    list(stream(pool, "a"))
    before = ids(pool)
    outputs = stream(pool, "a", "refuse", "b")
    assert jobs_of([next(outputs)]) == [("a", 5)]
    with (
        raised_within(SOON, "refused", capsys),
        pytest.raises(ValueError, match=r"^prompt is 'refuse'; it must") as info,
    ):
        next(outputs)
    assert "obey" in str(info.value.__cause__)  # the rank's traceback
    assert jobs_of(stream(pool, "b")) == [("b", 5)]
    assert ids(pool) == before


@dataclass(frozen=True)
class Unregistered(TeaCacheConfig):
    """A policy that no other process knows."""


UNSENDABLE = {
    "a policy": ({"cache": Unregistered(threshold=0.1)}, None, r"cache: a \S+:Unregistered cannot be sent"),
    "a tensor": (
        {},
        torch.zeros(1, 2, 2, 3, dtype=torch.complex64),
        r"source: a torch:Tensor cannot be sent",
    ),
    "a tensor without memory": ({}, torch.zeros(1, 2, 2, 3, device="meta"), r"a torch:Tensor cannot be sent"),
    "a sparse tensor": ({}, torch.zeros(1, 2, 2, 3).to_sparse(), r"a torch:Tensor cannot be sent"),
}


@pytest.mark.parametrize("what", UNSENDABLE)
def test_a_request_that_cannot_be_sent_ends_nothing(pool, what):
    request, source, error = UNSENDABLE[what]
    outputs = stream(pool, "a", "b", "c")
    next(outputs)
    before = ids(pool)
    with pytest.raises(ValueError, match=error + r".*; register your own classes \(register_cache"):
        next(stream(pool, "a", references=None if source is None else [Reference(source)], **request))
    assert jobs_of(outputs) == [("b", 5), ("c", 5)]
    assert ids(pool) == before


def test_a_request_that_cannot_be_sent_starts_nothing(monkeypatch):
    monkeypatch.setattr("videosys.engine.pool.Processes", None)
    with pytest.raises(ValueError, match=r"cache: a \S+:Unregistered cannot be sent to another process"):
        next(stream(make_pool(), "a", cache=Unregistered(threshold=0.1)))


POLICY = """
from dataclasses import dataclass
from videosys import TeaCacheConfig, register_cache

@dataclass(frozen=True)
class Policy(TeaCacheConfig):
    pass

register_cache(__name__, Policy)
"""
EARLY_AND_LATE = """
from tests.distributed.test_engine_failures import make_pool, stream

pool = make_pool(dp=1)
import early
print(len(list(stream(pool, "a", cache=early.Policy(threshold=0.1)))))
outputs = stream(pool, "a", "b")
next(outputs)
import late
try:
    next(stream(pool, "a", cache=late.Policy(threshold=0.1)))
except ValueError as error:
    print(error)
print(len(list(outputs)))
pool.close()
"""


def test_a_policy_may_be_registered_until_the_ranks_start(tmp_path, monkeypatch):
    """In a process of its own: what is registered stays."""
    for name in ("early", "late"):
        (tmp_path / f"{name}.py").write_text(POLICY)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(tmp_path)]))
    done = subprocess.run(
        [sys.executable, "-c", EARLY_AND_LATE], capture_output=True, text=True, timeout=FIRST
    )
    assert done.returncode == 0, done.stderr
    early, error, rest = done.stdout.splitlines()
    assert (early, rest) == ("1", "1")
    assert "cache: a late:Policy cannot be sent" in error
    assert (
        "register your own classes (register_cache, register_family) before the engine's first request"
        in error
    )


CAUSES = {
    "raise 1": r"^rank 1 of 2: ZeroDivisionError: as asked, on rank 1\nTraceback[^$]*in obey",
    "kill 1": r"^rank 1 of 2: the process was ended by SIGKILL",
    "abort 0": r"^rank 0 of 2: the process was ended by SIGABRT\nFatal Python error: Aborted[^$]*in obey",
}


@pytest.mark.parametrize("prompt", CAUSES)
def test_a_failure_names_its_cause_and_the_next_request_is_answered(pool, prompt, capsys):
    other, outputs = stream(pool, *"uvwxyzuvwxyz"), stream(pool, "a", "b", prompt, "c")
    assert jobs_of([next(other), next(outputs), next(outputs)]) == [("u", 5), ("a", 5), ("b", 5)]
    before = ids(pool)
    with raised_within(SOON, prompt, capsys), pytest.raises(RankError, match=CAUSES[prompt]):
        next(outputs)
    assert all(map(is_gone, before))
    with pytest.raises(RankError, match=CAUSES[prompt]):
        list(other)
    assert jobs_of(stream(pool, "c")) == [("c", 5)]


def test_a_rank_that_hangs_is_named_with_where_it_stands(pool, capsys, monkeypatch):
    assert jobs_of(stream(pool, "a")) == [("a", 5)]
    before = ids(pool)
    quick = replace(pool.config, parallel=replace(pool.config.parallel, timeout=4.0))
    monkeypatch.setattr(pool, "config", quick)
    outputs = stream(pool, "a", "hang 1")
    assert jobs_of([next(outputs)]) == [("a", 5)]
    with raised_within(4 + SOON, "hang, timeout 4 s", capsys), pytest.raises(TimeoutError) as info:
        next(outputs)
    message = str(info.value)
    assert message.startswith("ranks 0, 1 of 2 did not respond for 4 s (parallel.timeout)")
    waiting, standing = message.split("stack of rank 1:")
    assert "all_reduce" in waiting
    assert "in stand_still" in standing
    assert all(map(is_gone, before))


def test_a_rank_that_fails_while_loading_is_named(capsys):
    with raised_within(FIRST + SOON, "raises while loading", capsys):
        with pytest.raises(RankError, match=r"^rank 1 of 2: FileNotFoundError: no weights\nTraceback"):
            next(stream(make_pool("build_raising"), "a"))


def test_what_all_ranks_refuse_to_load_is_a_mistake(capsys):
    pool = make_pool("build_refusing")
    with raised_within(FIRST + SOON, "refuse to load", capsys):
        with pytest.raises(ValueError, match=r"^the checkpoint does not fit$"):
            next(stream(pool, "a"))
    assert pool._processes is None


PROGRAM = """
    from tests.distributed.test_engine_failures import ids, make_pool, stream
    pools = [make_pool() for _ in range({count})]
    for pool in pools:
        next(stream(pool, "a"))
    print(*(number for pool in pools for number in ids(pool)), flush=True)
    next(stream(pools[0], "{prompt} 0", "hang 1"))
"""


def start_program(source):
    """A program that is not imported by its ranks: it has no `if __name__ ...`."""
    settings = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", textwrap.dedent(source)]
    return subprocess.Popen(
        command, env={**os.environ, **settings}, preexec_fn=listen, start_new_session=True, **pipes
    )


@pytest.mark.parametrize(
    ("end", "count", "prompt"),
    [("interrupt", 1, "hang"), pytest.param("kill", 2, "hold", marks=pytest.mark.slow)],
)
def test_no_rank_outlives_its_parent(end, count, prompt, capsys):
    program = start_program(PROGRAM.format(count=count, prompt=prompt))
    ranks = [int(word) for word in program.stdout.readline().split()]
    assert len(set(ranks)) == 2 * count, program.communicate()
    with raised_within(SOON, f"parent: {end}", capsys):
        if end == "interrupt":
            os.killpg(program.pid, signal.SIGINT)  # as a terminal does: all processes hear it
        else:
            program.kill()
        _, err = program.communicate()
        wait_gone(ranks)
    if end == "interrupt":
        assert "KeyboardInterrupt" in err
        assert err.count("Traceback") == 1  # the ranks say nothing


@pytest.fixture(scope="module")
def replicas():
    pool = make_pool(dp=2)
    yield pool
    pool.close()


def test_replicas_share_the_videos_which_come_in_order(replicas):
    prompts = ["a", "b", "a", "c", "d"]
    outputs = list(stream(replicas, *prompts, num_videos_per_prompt=2))
    assert jobs_of(outputs) == [(prompt, seed) for prompt in prompts for seed in (5, 6)]
    outputs = list(stream(replicas, *prompts, batch_size=2))
    assert [output.prompts for output in outputs] == [["a", "b"], ["a", "c"], ["d"]]


def test_one_replica_may_refuse_and_what_the_other_made_is_given(replicas):
    before = jobs_of(stream(replicas, "a")) and ids(replicas)
    outputs, received = stream(replicas, "a", "refuse", "b", "c", "d"), []
    with pytest.raises(ValueError, match=r"^prompt is 'refuse'"):
        received.extend(outputs)
    assert jobs_of(received)[:1] == [("a", 5)]  # though the other may be quicker to refuse
    assert {*jobs_of(received)[1:]} <= {("b", 5), ("d", 5)}
    assert jobs_of(stream(replicas, "c", "d")) == [("c", 5), ("d", 5)]
    assert ids(replicas) == before


def test_only_the_first_rank_is_heard(pool, caplog, capfd):
    list(stream(pool, "a"))
    capfd.readouterr()
    with caplog.at_level("INFO", logger="videosys"):
        list(stream(pool, "speak"))
    assert [(record.name, record.fields) for record in caplog.records] == [("videosys.fake", {"rank": 0})]
    out, err = capfd.readouterr()
    assert (out, err.count("UserWarning: spoken")) == ("", 1)
