"""A study of every model: what its runs give is what the pipeline makes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.tiny_checkpoint import text_to_video_config
from videosys import NoCacheConfig, ScheduleConfig, VideoSysEngine, tiny
from videosys.cache.base import STACK
from videosys.calibration.calibrate import calibrate, check_predictable
from videosys.calibration.candidates import Planner
from videosys.calibration.measure import CONVERGED, FULL
from videosys.calibration.runs import open_pipeline
from videosys.calibration.study import Study
from videosys.parallel import ParallelConfig
from videosys.schedulers.solvers import DPMSolverConfig, EulerConfig

PROMPTS = ["a small red circle spins", "a large blue square moves", "a ring"]


@pytest.fixture
def study(random_model, tmp_path):
    config = text_to_video_config(*random_model, height=16, width=16, batch_size=2)
    made = Study(config, PROMPTS[:2], PROMPTS[2:], tmp_path, quiet=True)
    yield made
    made.pipeline.close()


def test_a_study_runs_what_the_engine_runs(study):
    policy = ScheduleConfig(computed=tuple(range(0, study.num_steps, 2)))
    clip = study.bench().clips[0]
    run = clip.run(policy)
    video = (clip.frames(run.latents) * 255).to(torch.uint8)
    with VideoSysEngine(study.config, quiet=True) as engine:
        output = engine.generate(PROMPTS[2], seed=study.held_out[0].seed, cache=policy)
    assert run.steps == output.steps
    assert (video.int() - output.video[0].int()).abs().max() <= 1


def test_a_study_finds_schedules(study):
    (first, *_) = study.traces
    assert len(first.distances["output"]) == study.num_steps - 1
    if study.surrogate is None:
        assert not first.tried[:, 0].isnan().any()
    full = torch.cat([item.latents for item in study.traces])
    alike = study.searched[0][0].run(NoCacheConfig()).latents
    torch.testing.assert_close(alike, full, rtol=1e-3, atol=1e-3)
    budget = max(study.num_steps // 2, 3)
    found = study.search(budget, most_runs=6)
    assert set(found) == {"hold", "linear", "fitted", "curved", "joint"}
    for best in found.values():
        assert len(best.schedule.computed) == budget


def test_plans_of_a_study(study):
    planner = Planner(study)
    candidates = planner.candidates(max(study.num_steps // 2, 3))
    assert planner.candidates(study.num_steps)  # no schedule leaves nothing out
    is_recorded = study.surrogate is not None
    assert is_recorded == (study.scope.scheduler != "euler_ancestral")
    assert all((set(one.predicted) == {FULL, CONVERGED}) == is_recorded for one in candidates)
    for one in (candidates[0], candidates[-1]):
        run = study.searched[0][0].with_sampler(one.config).run(one.policy)
        assert run.latents.isfinite().all()
        assert len(run.steps) == len(study.sampler(one.config).times())
    assert (study.sensitivities is not None) == is_recorded


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("open_sora_plan_v110", {}),
        ("open_sora_plan_v110", {"scheduler": DPMSolverConfig()}),
        ("opensora", {"scheduler": EulerConfig()}),
    ],
)
def test_all_samplers_have_the_number_of_evaluations(model, options, tmp_path):
    config = tiny.config(model, num_inference_steps=20, **options)
    study = Study(config, PROMPTS[:2], [], tmp_path, quiet=True)
    found = dict(Planner(study).samplers(13))
    assert Planner.PUBLISHED in found
    assert {len(study.sampler(changes).times()) for changes in found.values()} == {13}


def test_prompts_of_other_solvers_share_their_condition(study):
    clips, _ = study.searched[0]
    other = clips.with_sampler({"num_inference_steps": study.num_steps})
    assert other.condition is clips.condition
    assert clips.with_sampler({}) is clips


def test_what_nothing_tells_of_is_refused_before_any_run(random_model, tmp_path, monkeypatch):
    """Without held-out prompts, a sampler that draws noise leaves nothing to judge plans by."""
    config = text_to_video_config(*random_model, height=16, width=16)
    study = Study(config, PROMPTS, [], tmp_path, quiet=True)
    monkeypatch.setattr("videosys.calibration.runs.denoise", lambda *unused: pytest.fail("a run began"))
    if study.kept == STACK:
        with pytest.raises(
            ValueError, match=r"euler_ancestral do not predict .*hold out at least one prompt"
        ):
            calibrate(study, [3], 0)
    else:
        check_predictable(study)
    study.pipeline.close()


def test_several_devices_are_refused(random_model):
    config = text_to_video_config(*random_model)
    with pytest.raises(ValueError, match="one device"):
        open_pipeline(replace(config, parallel=ParallelConfig(num_gpus=2)))


def test_clips_that_continue_each_other_are_refused():
    with pytest.raises(ValueError, match="loops and references cannot be calibrated"):
        open_pipeline(tiny.config("opensora", loops=2))
    for model in tiny.bundled():
        tiny.config(model).check_calibratable()
