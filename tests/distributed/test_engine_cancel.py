"""Progress and cancelling with several processes: where a request ends, that none hangs, what is left."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest
import torch

from videosys import Cancelled, OpenSoraConfig, ParallelConfig, VideoSysEngine, load_config
from videosys.engine.pool import Pool

TINY = "examples/opensora/tiny.yaml"
SMALL = ["num_frames=17", "num_inference_steps=6", "seed=3", "device=cpu", "cache.threshold=0.5"]
PROMPT = "a large red circle moves rightward on a white background"
PATIENCE = 240.0  # seconds that ranks may need to start on a busy machine; about 3 on an idle one

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def config():
    return load_config(OpenSoraConfig, TINY, SMALL)


@pytest.fixture(scope="module", params=["sp", "dp"])
def engine(config, request):
    parallel = ParallelConfig(num_gpus=2, timeout=PATIENCE, **{request.param: 2})
    with VideoSysEngine(replace(config, parallel=parallel), quiet=True) as engine:
        yield engine


@pytest.fixture(scope="module")
def usual(engine):
    return engine.generate(PROMPT).video[0]


def ids(engine):
    return [popen.pid for popen in engine.runner._processes.popens]


def stop_at(stage, step, error):
    def callback(progress):
        if (progress.stage, progress.step) == (stage, step):
            raise error

    return callback


def test_steps_are_told_and_no_bit_changes(engine, usual):
    seen = []
    output = engine.generate(PROMPT, callback=seen.append)
    assert torch.equal(output.video[0], usual)
    told = [(p.step, p.of, p.computed) for p in seen if p.stage == "denoise"]
    assert told == [(step.step + 1, 6, step.computed) for step in output.steps]
    assert {p.computed for p in seen} == {True, False}
    assert (seen[-1].stage, seen[-1].step, seen[-1].of) == ("decode", 17, 17)


@pytest.mark.parametrize(
    ("stage", "step", "error"),
    [("encode", 1, Cancelled("enough")), ("denoise", 2, Cancelled("enough")), ("denoise", 2, KeyError("x"))],
)
def test_a_callback_ends_the_request_on_all_ranks_which_stay(engine, usual, stage, step, error):
    before = ids(engine)
    with pytest.raises(type(error)) as info:
        engine.generate(PROMPT, callback=stop_at(stage, step, error))
    assert info.value is error
    assert torch.equal(engine.generate(PROMPT).video[0], usual)
    assert ids(engine) == before


def test_handles_are_cancelled_and_the_others_go_on(engine, usual):
    before = ids(engine)
    begun = threading.Event()
    many = engine.submit([PROMPT] * 50, callback=lambda progress: begun.set())
    waiting, last = engine.submit(PROMPT), engine.submit(PROMPT)
    assert begun.wait(PATIENCE)
    assert many.progress.of in (1, 2, 6, 17)
    assert waiting.cancel()
    assert many.cancel()
    for handle in (many, waiting):
        with pytest.raises(Cancelled, match="the request was cancelled"):
            handle.result(PATIENCE)
    assert torch.equal(last.result(PATIENCE).video[0], usual)
    assert ids(engine) == before


def test_closing_in_another_thread_ends_a_request(engine, usual):
    reached = threading.Event()

    def close():
        assert reached.wait(PATIENCE)
        engine.close()

    thread = threading.Thread(target=close)
    thread.start()
    with pytest.raises(Cancelled, match="the engine was closed"):
        engine.generate([PROMPT] * 50, callback=lambda progress: reached.set())
    thread.join(PATIENCE)
    assert engine.runner._processes is None
    assert torch.equal(engine.generate(PROMPT).video[0], usual)


def test_closing_ends_a_request_that_no_rank_answers(config):
    """Without a callback nothing is told, and the ranks may hang: closing ends them all the same."""
    parallel = ParallelConfig(num_gpus=2, sp=2, timeout=PATIENCE)
    small = replace(config, parallel=parallel)
    pool = Pool(small, quiet=True, build="tests.distributed.fakes:build")
    outputs = pool.stream(["a", "hang 1"], replace(small, seed=1), {})
    next(outputs)
    timer = threading.Timer(0.5, pool.close)
    timer.start()
    begin = time.monotonic()
    with pytest.raises(Cancelled, match="the engine was closed"):
        next(outputs)
    timer.join()
    assert time.monotonic() - begin < PATIENCE / 4
