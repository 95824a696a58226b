"""What one generation leaves behind for the next: nothing."""

from __future__ import annotations

import itertools
import threading

import pytest
import torch

from tests.tiny_checkpoint import MODEL, build_model, build_pipeline, config_of
from videosys import NoCacheConfig, TeaCacheConfig
from videosys.cache import start
from videosys.generation.denoise import Sampling, denoise
from videosys.parallel import Parallel
from videosys.schedulers.rflow import RFlowScheduler
from videosys.utils.seed import generator

TEACACHE = TeaCacheConfig(0.3, (1.0, 0.0))
MODEL_IN_TURNS = build_model()


class Turns:
    """Lets several threads run one at a time, in turns, from call to call."""

    def __init__(self, count: int):
        self.locks = [threading.Semaphore(0) for _ in range(count)]
        self.done = [False] * count
        self.order: list[int] = []

    def wait(self, number: int) -> None:
        self.pass_on(number)
        self.locks[number].acquire()
        self.order.append(number)

    def pass_on(self, number: int) -> None:
        others = [(number + k) % len(self.locks) for k in range(1, len(self.locks) + 1)]
        following = next((other for other in others if not self.done[other]), None)
        if following is not None:
            self.locks[following].release()

    def run(self, tasks):
        """The results of `tasks`, each called with what it must call before each of its steps."""
        results = [None] * len(tasks)

        def work(number: int) -> None:
            self.locks[number].acquire()
            try:
                results[number] = tasks[number](lambda: self.wait(number))
            finally:
                self.done[number] = True
                self.pass_on(number)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(len(tasks))]
        for thread in threads:
            thread.start()
        self.locks[0].release()
        for thread in threads:
            thread.join(60)
        return results


class Generation:
    """One generation on the shared model."""

    def __init__(self, seed, *, size=(10, 4, 6), steps=5, batch=1, cache=TEACACHE, mask=None, length=6):
        self.seed, self.size, self.steps, self.batch = seed, size, steps, batch
        self.cache, self.mask, self.length = cache, mask, length

    def __call__(self, before_step=lambda: None, model=MODEL_IN_TURNS):
        source = generator(self.seed)
        embeds = torch.randn(2 * self.batch, self.length, MODEL.caption_channels, generator=source)
        latents = torch.randn(self.batch, 4, *self.size, generator=source)
        scheduler = RFlowScheduler()
        scheduler.set_timesteps(self.steps, num_frames=34, height=8 * self.size[1], width=8 * self.size[2])
        mask = None if self.mask is None else torch.tensor([self.mask] * self.batch)
        height, width = (8 * side for side in self.size[1:])
        condition = model.prepare(embeds, latent_size=self.size, fps=12.0, height=height, width=width)
        cache = start(self.cache, scheduler.times(), Parallel().gather_rows)

        def stepping(*args, **more):
            before_step()
            return model(*args, **more)

        sampling = Sampling(3.0, generator(self.seed + 1), mask)
        return denoise(stepping, scheduler, latents, condition, sampling, cache, Parallel()), cache.steps


KEEP = [0.0, 0.0] + [1.0] * 8
GENERATIONS = {
    "plain": Generation(1),
    "other seed": Generation(2),
    "no cache": Generation(3, cache=NoCacheConfig()),
    "more steps": Generation(4, steps=7, cache=TeaCacheConfig(0.5)),
    "larger": Generation(5, size=(5, 6, 8)),
    "batch": Generation(6, batch=2),
    "conditioned": Generation(7, mask=KEEP),
    "long text": Generation(8, length=11, cache=TeaCacheConfig(0.2, signal="timestep")),
}


@pytest.fixture(scope="module")
def alone():
    """Each generation on a model of its own."""
    return {name: make(model=build_model()) for name, make in GENERATIONS.items()}


def check(result, expected) -> None:
    assert torch.equal(result[0], expected[0])
    assert result[1] == expected[1]
    assert torch.isfinite(result[0]).all()


def test_the_generations_of_this_file_do_skip_and_differ(alone):
    skipping = [name for name, (_, steps) in alone.items() if not all(step.computed for step in steps)]
    assert len(skipping) >= 5
    assert len({latents.sum().item() for latents, _ in alone.values()}) == len(alone)


@pytest.mark.parametrize(
    "names", [*itertools.combinations(["plain", "other seed", "no cache"], 2), tuple(GENERATIONS)]
)
def test_interleaved_step_by_step_they_are_as_alone(names, alone):
    turns = Turns(len(names))
    results = turns.run([GENERATIONS[name] for name in names])
    assert any(one != other for one, other in itertools.pairwise(turns.order))
    assert len(turns.order) == sum(GENERATIONS[name].steps for name in names)
    for name, result in zip(names, results, strict=True):
        check(result, alone[name])


@pytest.mark.parametrize(
    "order", [list(GENERATIONS), list(reversed(GENERATIONS)), ["plain", "larger", "plain"]]
)
def test_one_after_another_they_are_as_alone(order, alone):
    for name in order:
        check(GENERATIONS[name](), alone[name])


@pytest.mark.parametrize("step", [0, 1, 3])
@pytest.mark.parametrize("following", ["plain", "larger", "batch", "conditioned"])
def test_an_aborted_one_leaves_nothing(step, following, alone):
    steps = itertools.count()

    def stop():
        if next(steps) == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        GENERATIONS["plain"](stop)
    check(GENERATIONS[following](), alone[following])


REQUESTS = {
    "plain": {"seed": 1},
    "cached": {"seed": 2, "cache": TEACACHE},
    "larger": {"seed": 3, "height": 48, "cache": TEACACHE},
    "steps": {"seed": 4, "num_inference_steps": 6, "cache": TEACACHE},
    "batch": {"seed": 5, "batch_size": 2, "num_videos_per_prompt": 2, "cache": TEACACHE},
    "image": {"seed": 6, "num_frames": 1},
    "loops": {"seed": 7, "loops": 2, "cache": TEACACHE},
}


def stream(pipeline, checkpoint, name):
    return pipeline.generate(["a red circle", "a cross"], config_of(checkpoint, **REQUESTS[name]), quiet=True)


def outcome(outputs):
    return [(output.video, output.seeds, output.steps_per_video) for output in outputs]


def same(one, other) -> bool:
    videos = [[torch.stack(item[0]) for item in side] for side in (one, other)]
    return all(map(torch.equal, *videos)) and [x[1:] for x in one] == [x[1:] for x in other]


@pytest.fixture(scope="module")
def pipelines_alone(checkpoint):
    """What a pipeline of its own makes of each request."""
    made = {}
    for name in REQUESTS:
        pipeline = build_pipeline(config_of(checkpoint), quiet=True)
        made[name] = outcome(stream(pipeline, checkpoint, name))
    return made


@pytest.fixture
def pipeline(checkpoint):
    return build_pipeline(config_of(checkpoint), quiet=True)


def test_requests_to_one_pipeline_in_a_row_are_as_alone(pipeline, checkpoint, pipelines_alone):
    for name in [*REQUESTS, *reversed(REQUESTS)]:
        assert same(outcome(stream(pipeline, checkpoint, name)), pipelines_alone[name])


def test_requests_to_one_pipeline_in_turns_are_as_alone(pipeline, checkpoint, pipelines_alone):
    running = {name: stream(pipeline, checkpoint, name) for name in REQUESTS}
    outputs = {name: [] for name in REQUESTS}
    for _ in range(2):
        for name, iterator in running.items():
            outputs[name].extend(itertools.islice(iterator, 1))
    for name, made in outputs.items():
        assert same(outcome(made), pipelines_alone[name])


def test_an_abandoned_request_leaves_nothing(pipeline, checkpoint, pipelines_alone, monkeypatch):
    next(stream(pipeline, checkpoint, "loops"))  # its second video is never asked for
    monkeypatch.setattr("videosys.models.opensora.transformer.STDiT3.head", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        next(stream(pipeline, checkpoint, "larger"))
    monkeypatch.undo()
    assert same(outcome(stream(pipeline, checkpoint, "cached")), pipelines_alone["cached"])


def test_gradients_are_as_before_between_and_after_the_videos(pipeline, checkpoint):
    running = [stream(pipeline, checkpoint, name) for name in ("plain", "cached")]
    for iterator in running:
        next(iterator)
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
    for iterator in running:
        iterator.close()
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()


def test_the_global_random_numbers_are_left_alone(pipeline, checkpoint):
    before = torch.get_rng_state()
    outcome(stream(pipeline, checkpoint, "batch"))
    assert torch.equal(torch.get_rng_state(), before)
