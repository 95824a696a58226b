"""The denoise loop with invented models: guidance, conditions, noise, and what is reported."""

from __future__ import annotations

import pytest
import torch

from videosys.cache import NO_CACHE, NoCacheConfig, TeaCacheConfig, start
from videosys.generation.denoise import Sampling, denoise, fresh_noise
from videosys.parallel import Parallel
from videosys.schedulers.rflow import RFlowScheduler
from videosys.utils.seed import generator

STEPS = 5


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


LATENTS = random(2, 4, 6, 2, 3)


class Calls:
    """A model that answers with what `velocity` makes of the latents, and remembers how it was called."""

    def __init__(self, velocity=lambda latents, timesteps: torch.ones_like(latents)):
        self.velocity, self.calls = velocity, []

    def __call__(self, latents, timesteps, condition, cache, frame_mask=None):
        self.calls.append((latents.clone(), timesteps.clone(), condition, cache, frame_mask))
        velocity = self.velocity(latents, timesteps)
        return torch.cat((velocity, torch.full_like(velocity, torch.nan)), dim=1)  # a sigma that nobody reads


def scheduler(steps=STEPS):
    made = RFlowScheduler(use_timestep_transform=False)
    made.set_timesteps(steps)
    return made


def run(model, latents=LATENTS, cache=NO_CACHE, steps=STEPS, **sampling):
    return denoise(model, scheduler(steps), latents, "condition", Sampling(**sampling), cache, Parallel())


def pair_velocity(cond, uncond):
    """A velocity of two numbers, the first for the conditional half."""

    def velocity(latents, timesteps):
        halves = torch.tensor([cond] * (len(latents) // 2) + [uncond] * (len(latents) // 2))
        return halves.view(-1, 1, 1, 1, 1).expand_as(latents)

    return velocity


def test_guidance_is_uncond_plus_scale_times_the_difference():
    result = run(Calls(pair_velocity(3.0, 1.0)), guidance_scale=7.0)
    torch.testing.assert_close(result - LATENTS, torch.full_like(LATENTS, 1 + 7 * (3 - 1)))


def test_guidance_gives_the_model_the_same_latents_twice():
    model = Calls()
    run(model, guidance_scale=1.5)
    for latents, timesteps, condition, cache, frame_mask in model.calls:
        assert latents.shape == (4, *LATENTS.shape[1:])
        assert torch.equal(*latents.chunk(2))
        assert timesteps.shape == (4,)
        assert (condition, cache, frame_mask) == ("condition", NO_CACHE, None)
    assert [float(call[1][0]) for call in model.calls] == scheduler().timesteps.tolist()


@pytest.mark.parametrize("scale", [1.0, 0.0])
def test_without_guidance_the_model_sees_one_of_each(scale):
    model = Calls(lambda latents, timesteps: torch.full_like(latents, 2.0))
    result = run(model, guidance_scale=scale)
    assert all(len(call[0]) == 2 for call in model.calls)
    torch.testing.assert_close(result, LATENTS + 2.0)


def test_steps_add_up_to_the_whole_way_from_noise_to_data():
    for steps in (1, 3, 30):
        result = run(Calls(), steps=steps, guidance_scale=1.0)
        torch.testing.assert_close(result, LATENTS + 1, atol=1e-5, rtol=0)


def test_the_latents_given_are_left_alone_and_float32_comes_back():
    before = LATENTS.clone()
    assert run(Calls(), latents=LATENTS.bfloat16()).dtype == torch.float32
    run(Calls(), frame_mask=torch.zeros(2, 6), generator=generator(0))
    assert torch.equal(LATENTS, before)


def test_timesteps_are_where_the_latents_are():
    model = Calls()
    run(model, latents=LATENTS.to("meta"))
    assert {(call[0].device.type, call[1].device.type) for call in model.calls} == {("meta", "meta")}
    assert {call[1].dtype for call in model.calls} == {torch.float32}


def test_no_gradient_is_kept():
    weight = torch.ones(1, requires_grad=True)
    assert not run(Calls(lambda latents, timesteps: latents * weight)).requires_grad


MASK = torch.tensor([[0.0, 0.0, 0.35, 0.7, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0, 0.0, 0.2]])


def test_kept_frames_come_back_bit_for_bit():
    result = run(Calls(lambda latents, timesteps: latents * 3 + 1), frame_mask=MASK, generator=generator(0))
    kept = (MASK == 0)[:, None, :, None, None].expand_as(LATENTS)
    assert torch.equal(result[kept], LATENTS[kept])
    assert not torch.isclose(result[~kept], LATENTS[~kept]).all()


def test_the_model_sees_kept_frames_unchanged_at_every_step():
    model = Calls()
    run(model, frame_mask=MASK, generator=generator(0))
    for latents, _, _, _, frame_mask in model.calls:
        assert torch.equal(frame_mask[:2], frame_mask[2:])
        kept = ~frame_mask[:2, None, :, None, None].expand_as(LATENTS)
        assert torch.equal(latents[:2][kept], LATENTS[kept])


def test_frames_join_at_the_noise_level_of_their_mask():
    model = Calls()
    run(model, frame_mask=MASK, guidance_scale=1.0, generator=generator(0))
    for _, timesteps, _, _, frame_mask in model.calls:  # 1000, 800, 600, 400, 200
        assert torch.equal(frame_mask, timesteps[0] <= MASK * 1000)


def test_a_frame_that_joins_is_noised_once_to_that_level(monkeypatch):
    noise = random(*LATENTS.shape, seed=9)
    monkeypatch.setattr("videosys.generation.denoise.fresh_noise", lambda like, generator: noise)
    model = Calls()
    run(model, frame_mask=MASK, guidance_scale=1.0)
    at_600 = model.calls[2][0]  # the frame of 0.7 joins here
    torch.testing.assert_close(at_600[0, :, 3], 0.4 * LATENTS[0, :, 3] + 0.6 * noise[0, :, 3])
    at_400 = model.calls[3][0]
    torch.testing.assert_close(at_400[0, :, 3], at_600[0, :, 3] + 0.2)


def test_a_mask_of_ones_is_no_mask():
    model = lambda: Calls(lambda latents, timesteps: latents * 0.3 + timesteps[0] / 1000)  # noqa: E731
    plain = run(model())
    assert torch.equal(run(model(), frame_mask=torch.ones(2, 6), generator=generator(3)), plain)


def test_noise_is_drawn_at_every_step_whatever_the_mask():
    states = []
    for mask in (torch.ones(2, 6), torch.zeros(2, 6), MASK):
        source = generator(4)
        run(Calls(), frame_mask=mask, generator=source)
        states.append(source.get_state())
    assert all(torch.equal(state, states[0]) for state in states)
    source = generator(4)
    run(Calls(), generator=source)
    assert torch.equal(source.get_state(), generator(4).get_state())  # without conditions nothing is drawn


def test_a_generator_per_sample_equals_runs_of_one_sample():
    velocity = lambda latents, timesteps: latents * 0.3 + timesteps[0] / 1000  # noqa: E731
    together = run(Calls(velocity), frame_mask=MASK, generator=[generator(1), generator(2)])
    for i, seed in enumerate((1, 2)):
        rows = slice(i, i + 1)
        alone = run(Calls(velocity), LATENTS[rows], frame_mask=MASK[rows], generator=[generator(seed)])
        assert torch.equal(together[rows], alone)


def test_as_many_generators_as_samples_are_needed():
    with pytest.raises(ValueError, match="1 generators for 2 samples"):
        fresh_noise(LATENTS, [generator(1)])
    assert fresh_noise(LATENTS, [generator(1), generator(1)]).shape == LATENTS.shape


def test_the_observer_sees_each_step_and_the_pair():
    seen = []
    model = Calls(pair_velocity(3.0, 1.0))
    run(model, observer=lambda *about: seen.append(about), guidance_scale=2.0)
    assert [(step, timestep) for step, timestep, _, _ in seen] == list(
        enumerate(scheduler().timesteps.tolist())
    )
    for (_, _, latents, noise_pred), call in zip(seen, model.calls, strict=True):
        assert torch.equal(latents, call[0][:2])
        assert noise_pred.shape == (4, *LATENTS.shape[1:])
        assert noise_pred.unique().tolist() == [1.0, 3.0]


def test_progress_is_called_after_each_step():
    seen = []
    run(Calls(), progress=lambda: seen.append(len(seen)))
    assert seen == list(range(STEPS))


@pytest.mark.parametrize("config", [NoCacheConfig(), TeaCacheConfig(0.1)])
def test_there_is_a_record_for_each_step(config):
    def model(latents, timesteps, condition, cache):
        cache.should_compute(lambda kind: latents)
        return latents

    cache = start(config, scheduler().times(), Parallel().gather_rows)
    run(model, cache=cache)
    assert [(record.step, record.timestep) for record in cache.steps] == list(
        enumerate(scheduler().timesteps.tolist())
    )
    assert cache.steps[0].computed
    assert cache.steps[-1].computed


class Doubling(Parallel):
    """Plays two ranks of guidance: this one keeps the first half of the pair, and gathers it twice."""

    def cfg_shard(self, x):
        return x.chunk(2)[0]

    def cfg_gather(self, x):
        return torch.cat((x, x * 2))


def test_the_pair_is_shared_between_guidance_ranks():
    model = Calls()
    result = denoise(model, scheduler(1), LATENTS, None, Sampling(guidance_scale=3.0), NO_CACHE, Doubling())
    assert model.calls[0][0].shape == LATENTS.shape
    torch.testing.assert_close(result, LATENTS + (2 + 3 * (1 - 2)))


def test_a_schedulers_scaling_reaches_the_model_and_not_the_latents():
    class Scaling(RFlowScheduler):
        def scale_model_input(self, sample, timestep=None):
            return sample * 10

    made, model = Scaling(use_timestep_transform=False), Calls(lambda latents, timesteps: latents * 0)
    made.set_timesteps(2)
    result = denoise(model, made, LATENTS, None, Sampling(), NO_CACHE, Parallel())
    assert torch.equal(model.calls[0][0][:2], LATENTS * 10)
    assert torch.equal(result, LATENTS)


def test_scheduler_words():
    made = scheduler(4)
    assert made.timesteps.tolist() == [1000.0, 750.0, 500.0, 250.0]
    assert made.times() == [1.0, 0.75, 0.5, 0.25]
    moved = [float(made.step(torch.ones(()), t, torch.zeros(())).prev_sample) for t in made.timesteps]
    assert moved == [0.25] * 4
    made.set_timesteps(2)  # starts again
    assert float(made.step(torch.ones(()), made.timesteps[0], torch.zeros(())).prev_sample) == 0.5
    for steps in (0, -3):
        with pytest.raises(ValueError, match=f"num_inference_steps is {steps}"):
            made.set_timesteps(steps)
