"""Progress and cancelling in one process: what is told, when a request ends, and what it leaves behind."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest
import torch

from tests.tiny_checkpoint import config_of, text_to_video_config
from videosys import Cancelled, IntervalConfig, StepProgress, VideoSysEngine
from videosys.cache import ResidualCache
from videosys.generation.watch import Monitor, Pace, Watch
from videosys.utils.settled import default_device

PROMPT, SHORT = "a red circle moves rightward", {"num_frames": 17}
CACHED = {**SHORT, "cache": IntervalConfig(2)}
PATIENCE = 60.0  # seconds, on a busy machine


@pytest.fixture(scope="module")
def engine(checkpoint):
    with VideoSysEngine(config_of(checkpoint), quiet=True) as engine:
        yield engine


@pytest.fixture(scope="module")
def usual(engine):
    return engine.generate(PROMPT, **CACHED).video[0]


def stop_at(stage, step, error):
    def callback(progress):
        if (progress.stage, progress.step) == (stage, step):
            raise error

    return callback


class Gate:
    """A callback that lets another thread act after the second model evaluation."""

    def __init__(self):
        self.reached, self.go, self.seen = threading.Event(), threading.Event(), []

    def __call__(self, progress):
        self.seen.append(progress)
        if (progress.stage, progress.step) == ("denoise", 2):
            self.reached.set()
            assert self.go.wait(PATIENCE)


def test_each_step_is_told(engine, usual):
    seen = []
    output = engine.generate(PROMPT, callback=seen.append, **CACHED)
    assert torch.equal(output.video[0], usual)
    assert all(type(progress) is StepProgress for progress in seen)
    steps = [(p.step, p.of) for p in seen if p.stage == "denoise"]
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    computed = [p.computed for p in seen if p.stage == "denoise"]
    assert computed == [step.computed for step in output.steps]
    assert False in computed
    assert [(p.step, p.of) for p in seen if p.stage == "encode"] == [(1, 1)]
    frames = [p.step for p in seen if p.stage == "decode"]
    assert frames == sorted(frames)
    assert (frames[-1], seen[-1].of) == (17, 17)
    stages = [p.stage for p in seen]
    assert stages == sorted(stages, key=["encode", "denoise", "decode"].index)


def change_default_dtype(found):
    found.append(torch.get_default_dtype())
    torch.set_default_dtype(torch.float64)


def change_default_device(found):
    found.append(default_device())
    torch.set_default_device("meta")


def change_autocast(found):
    found.append(torch.is_autocast_enabled("cpu"))
    torch.set_autocast_enabled("cpu", True)


@pytest.mark.parametrize("change", [change_default_dtype, change_default_device, change_autocast])
def test_what_a_callback_sets_is_the_caller_s_and_changes_no_bit(engine, usual, change):
    found = []
    try:
        output = engine.generate(PROMPT, callback=lambda progress: change(found), **CACHED)
        after = []
        change(after)  # the callback's own setting
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
        torch.set_autocast_enabled("cpu", False)
    assert torch.equal(output.video[0], usual)
    assert found[0] in (torch.float32, torch.device("cpu"), False)
    assert {*found[1:], *after} == {after[0]}
    assert after[0] in (torch.float64, torch.device("meta"), True)


def test_the_seconds_left_are_told_from_the_first_evaluation_on(engine):
    seen = []
    engine.generate([PROMPT, "a cross"], callback=seen.append, **SHORT)
    assert all(p.eta is None for p in seen if p.stage == "encode")
    assert all(p.eta >= 0 for p in seen if p.stage != "encode")
    assert seen[-1].eta == 0


def test_seconds_left_count_the_clips_to_come():
    pace = Pace(clips_left=2, seconds={"decode": (3.0, 1)})
    pace.seconds["denoise"] = (2.0, 10)
    assert pace._whole("denoise") == 20.0
    pace.eta("decode", 1, 1)
    assert pace.eta("decode", 1, 1) == pytest.approx(2 * (20.0 + pace._whole("decode")))


class Ranks:
    """The rows of two ranks, the other of which may be stopped."""

    def __init__(self, other):
        self.other, self.count = other, 0

    def gather_rows(self, row):
        self.count += 1
        return torch.stack([row, torch.tensor([float(self.other)])])


def test_devices_exchange_nothing_for_a_request_that_is_not_watched():
    ranks = Ranks(True)
    monitor = Monitor(None, ranks)
    monitor.begin("denoise", 2)
    monitor.advance()
    monitor.tell()
    monitor.check()
    assert ranks.count == 0


def test_all_ranks_stop_where_one_was_stopped():
    error = KeyError("here")
    for other, own, expected in [(True, None, Cancelled), (False, error, KeyError), (True, error, KeyError)]:
        ranks, watch = Ranks(other), Watch()
        if own is not None:
            watch.stop(own)
        with pytest.raises(expected):
            Monitor(watch, ranks).begin("denoise", 2)
        assert ranks.count == 1
    monitor = Monitor(Watch(), ranks := Ranks(False))
    monitor.begin("denoise", 2)
    monitor.advance()
    monitor.tell()  # without the others
    assert ranks.count == 2


def test_the_first_of_several_stops_counts_and_is_passed_on_once():
    watch, notes = Watch(), []
    watch.stop(KeyError("first"))
    watch.stop(KeyError("second"))
    watch.when_stopped(lambda: notes.append(watch.error))
    watch.stop(KeyError("third"))
    assert [str(note) for note in notes] == ["'first'"]


def test_what_a_callback_returns_means_nothing(engine, usual):
    for value in (False, True, 0, "stop"):
        output = engine.generate(PROMPT, callback=lambda progress, value=value: value, **CACHED)
        assert torch.equal(output.video[0], usual)


@pytest.mark.parametrize("error", [Cancelled("enough"), KeyError("mistake"), StopIteration()], ids=repr)
@pytest.mark.parametrize(("stage", "step"), [("encode", 1), ("denoise", 1), ("denoise", 4), ("decode", 17)])
def test_what_a_callback_raises_ends_the_request_before_the_next_step(engine, usual, stage, step, error):
    seen = []
    stop = stop_at(stage, step, error)
    with pytest.raises((type(error), RuntimeError)) as info:
        engine.generate(PROMPT, callback=lambda p: (seen.append(p), stop(p)), **CACHED)
    assert error in (info.value, info.value.__cause__)  # a generator must not raise StopIteration
    assert (seen[-1].stage, seen[-1].step) == (stage, step)
    assert torch.equal(engine.generate(PROMPT, **CACHED).video[0], usual)


def test_an_interrupt_in_a_callback_stays_an_interrupt(engine):
    with pytest.raises(KeyboardInterrupt):
        engine.generate(PROMPT, callback=stop_at("denoise", 1, KeyboardInterrupt()), **SHORT)


def test_a_cancelled_request_frees_its_cache(engine, monkeypatch):
    residuals = []
    store = ResidualCache.store

    def watched(self, before, after):
        after = store(self, before, after)
        residuals.append(weakref.ref(self.residual))
        return after

    monkeypatch.setattr(ResidualCache, "store", watched)
    gc.disable()
    try:
        with pytest.raises(Cancelled) as info:
            engine.generate(PROMPT, callback=stop_at("denoise", 2, Cancelled()), **CACHED)
        assert residuals
        assert all(residual() is None for residual in residuals)
        assert info.value.__traceback__ is not None
    finally:
        gc.enable()


def test_a_stream_ends_where_it_was_stopped(engine):
    outputs = engine.stream(
        [PROMPT, "a cross"], callback=stop_at("encode", 3, Cancelled()), num_frames=1, num_inference_steps=1
    )
    assert [output.prompts for output in outputs] == [[PROMPT], ["a cross"]]
    count = []

    def second_clip(progress):
        count.append(progress.stage == "denoise")
        if sum(count) == 2:
            raise Cancelled("the second")

    outputs = engine.stream([PROMPT, "a cross"], callback=second_clip, num_frames=1, num_inference_steps=1)
    assert next(outputs).prompts == [PROMPT]
    with pytest.raises(Cancelled, match="the second"):
        next(outputs)


def test_a_request_that_was_handed_in_gives_the_usual_bits(engine, usual):
    handle = engine.submit(PROMPT, **CACHED)
    assert torch.equal(handle.result(PATIENCE).video[0], usual)
    assert handle.is_done
    assert (handle.progress.stage, handle.progress.step) == ("decode", 17)
    assert not handle.cancel()
    for timeout in (0, float("inf"), None):
        assert torch.equal(handle.result(timeout).video[0], usual)


def test_an_endless_timeout_is_one(engine):
    handle = engine.submit(PROMPT, **SHORT)
    assert handle.wait(float("inf"))
    assert engine.submit(PROMPT, **SHORT).result(float("inf")).video


def test_a_mistake_is_refused_when_a_request_is_handed_in(engine):
    with pytest.raises(ValueError, match="num_frames is 5"):
        engine.submit(PROMPT, num_frames=5)
    with pytest.raises(ValueError, match="prompt is ''"):
        engine.submit("")
    for start in (engine.submit, engine.generate, engine.stream):
        with pytest.raises(ValueError, match="callback is 'print'; it must be a function"):
            start(PROMPT, callback="print")
    with pytest.raises(ValueError, match="blank"):
        engine.submit("|0||1|a night", loops=2).result(PATIENCE)


def test_handles_are_cancelled_at_work_and_in_the_queue(engine, usual):
    gate = Gate()
    running = engine.submit(PROMPT, callback=gate, **CACHED)
    waiting, last = engine.submit("a cross", **SHORT), engine.submit(PROMPT, **CACHED)
    assert gate.reached.wait(PATIENCE)
    assert (running.progress.stage, running.progress.step, running.progress.of) == ("denoise", 2, 4)
    assert waiting.progress is None
    with pytest.raises(TimeoutError, match=r"not ended within 0\.01 s"):
        running.result(0.01)
    assert waiting.cancel()
    assert running.cancel()
    gate.go.set()
    for handle in (running, waiting):
        with pytest.raises(Cancelled, match="the request was cancelled"):
            handle.result(PATIENCE)
        assert not handle.cancel()
    assert gate.seen[-1].step == 2  # no step after it
    assert torch.equal(last.result(PATIENCE).video[0], usual)


def closes(engine, gate):
    """`engine.close()` in another thread when the gate is reached; the thread is given."""

    def close():
        assert gate.reached.wait(PATIENCE)
        threading.Timer(0.05, gate.go.set).start()
        engine.close()

    thread = threading.Thread(target=close)
    thread.start()
    return thread


@pytest.mark.parametrize("offload", ["none", "stage"])
def test_closing_in_another_thread_ends_a_request(checkpoint, usual, offload):
    engine, gate = VideoSysEngine(config_of(checkpoint, offload=offload), quiet=True), Gate()
    thread = closes(engine, gate)
    with pytest.raises(Cancelled, match="the engine was closed"):
        engine.generate(PROMPT, callback=gate, **CACHED)
    thread.join(PATIENCE)
    assert gate.seen[-1].step == 2
    assert not any(part.is_loaded for part in (engine.pipeline.transformer, engine.pipeline.vae))
    assert torch.equal(engine.generate(PROMPT, **CACHED).video[0], usual)
    engine.close()


def test_closing_ends_what_was_handed_in(checkpoint):
    gate = Gate()
    with VideoSysEngine(config_of(checkpoint), quiet=True) as engine:
        handles = [engine.submit(PROMPT, callback=gate, **SHORT), engine.submit(PROMPT, **SHORT)]
        assert gate.reached.wait(PATIENCE)
        gate.go.set()
    for handle in handles:
        with pytest.raises(Cancelled, match="the engine was closed"):
            handle.result(PATIENCE)


def test_a_callback_may_close_its_engine(checkpoint):
    engine = VideoSysEngine(config_of(checkpoint), quiet=True)

    def close(progress):
        if progress.stage == "denoise":
            engine.close()

    with pytest.raises(Cancelled, match="the engine was closed"):
        engine.generate(PROMPT, callback=close, **SHORT)


def test_models_with_a_negative_prompt_tell_and_stop_too(random_model):
    name, folder = random_model
    with VideoSysEngine(text_to_video_config(name, folder), quiet=True) as engine:
        seen = []
        usual = engine.generate(PROMPT, callback=seen.append)
        assert [p.step for p in seen if p.stage == "denoise"] == list(range(1, len(usual.steps) + 1))
        with pytest.raises(Cancelled):
            engine.generate(PROMPT, callback=stop_at("denoise", 2, Cancelled()))
        assert torch.equal(engine.generate(PROMPT).video[0], usual.video[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [({"stage": "load"}, "stage must be one of"), ({"step": "1"}, "step must be a whole")],
)
def test_progress_has_the_types_that_it_declares(change, message):
    with pytest.raises(ValueError, match=message):
        StepProgress(**{"stage": "decode", "step": 1, "of": 2, **change})
