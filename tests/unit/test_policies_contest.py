"""Who takes part in a comparison at a number of computed steps."""

from __future__ import annotations

from dataclasses import replace

import pytest

import videosys.calibration.study as studies
from eval.policies.contest import Contest, Entrant, bwcache_skips, interval, measured
from eval.policies.report import CACHE, FORECAST, PLAN, SOLVER, STEPS, TEACACHE
from tests.synthetic import SyntheticConfig, SyntheticPipeline, opened
from videosys.cache import (
    BWCacheConfig,
    Hold,
    IntervalConfig,
    Linear,
    NoCacheConfig,
    ScheduleConfig,
    SenCacheConfig,
    TeaCacheConfig,
)
from videosys.calibration.calibrate import teacache_for
from videosys.calibration.candidates import Candidate
from videosys.calibration.journal import policy_key
from videosys.calibration.measure import FULL
from videosys.calibration.runs import Clips
from videosys.calibration.study import Study, changed_fields
from videosys.calibration.trials import Trials, tried
from videosys.generation.finite import not_finite

STAIRCASE = [5, 5, 2, 2, 2, 9, 9, 1, 1, 1]


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.setattr(studies, "open_pipeline", opened(SyntheticPipeline(STAIRCASE)))
    return Study(SyntheticConfig(), ["one", "three"], ["four 4"], tmp_path, quiet=True)


def test_rivals_stand_in_their_order(study, monkeypatch):
    monkeypatch.setattr(study, "try_policy", lambda policy: (5.0, 20.0))
    entrants = list(Contest(study, 0, Trials(study, 2)).entrants(5))
    groups = [one.group for one in entrants]
    assert groups == sorted(groups, key=[STEPS, SOLVER, TEACACHE, CACHE, FORECAST, PLAN].index)
    names = {one.name for one in entrants}
    assert names >= {
        "TeaCache naive, hold",
        "TeaCache, linear",
        "MagCache",
        "EasyCache",
        "SeaCache",
        "BWCache",
    }
    assert names >= {"schedule hold", "schedule curved", "interval, Taylor 2"}
    assert not any(name.startswith("searched") for name in names)
    searched = [
        one for one in Contest(study, 20, Trials(study, 2)).entrants(5) if one.name == "searched hold"
    ]
    assert [one.policy.computed for one in searched] == [(0, 2, 5, 7, 9)]


def test_an_entry_has_a_result_for_each_prompt(study):
    bench = study.bench()
    bench.judge = lambda prompt, frames: {"all": float(prompt == "four 4")}
    entry = measured(bench, Entrant(CACHE, "every second", IntervalConfig(2)), 6)
    assert (entry.computed, entry.right(), len(entry.rows)) == (6, 1.0, 1)
    assert entry.psnr(FULL) > 0
    fewer = measured(bench, Entrant(STEPS, "fewer", NoCacheConfig(), {"num_inference_steps": 5}), 5)
    assert fewer.computed == 5


@pytest.mark.parametrize("budget", range(3, 9))
def test_rivals_can_keep_each_budget(study, budget):
    """Also where the last step is computed besides those of the policy's own rhythm."""
    count = study.num_steps
    bench = study.bench()

    def computed(policy):
        return measured(bench, Entrant(CACHE, "rival", policy), budget).computed

    assert computed(BWCacheConfig(1e9, reuse=bwcache_skips(budget, count) / count)) <= budget
    pairs, most = ((0.0, 0.0),) * count, interval(budget, count)
    assert computed(SenCacheConfig(pairs, 1e9, 1e9, max_consecutive_skips=most)) <= budget
    assert computed(IntervalConfig(most)) <= budget < computed(IntervalConfig(most - 1))


def not_finite_frames(clip, latents):
    raise not_finite("the autoencoder")


def test_a_reference_that_is_not_finite_ends_the_trials(study, monkeypatch):
    """It is not reported as an error of each candidate."""
    monkeypatch.setattr(Clips, "frames", not_finite_frames)
    some = [Candidate("half", IntervalConfig(2), {}, {})]
    with pytest.raises(ValueError, match="a reference run failed: the autoencoder gives"):
        tried(some, Trials(study, 2), 0.5)


def test_a_candidate_whose_frames_are_not_finite_is_dropped(study, monkeypatch, caplog):
    trials = Trials(study, 2)
    assert set(trials.targets) == {FULL}
    half, third = (Candidate(f"every {k}", IntervalConfig(k), {}, {}) for k in (2, 3))
    ((_, figures),) = tried([half], trials, 0.5)
    assert figures[FULL] > 0
    monkeypatch.setattr(Clips, "frames", not_finite_frames)
    assert tried([half, third], trials, 0.5) == [(half, figures), (third, {})]
    assert any(text.startswith("every 3 is not used: the autoencoder") for text in caplog.messages)


@pytest.mark.parametrize(
    ("budget", "count", "every", "skips"), [(1, 5, 5, 5), (2, 5, 4, 5), (1, 1, 1, 1), (3, 5, 2, 2)]
)
def test_a_budget_that_a_rival_cannot_keep_has_its_longest_rhythm(budget, count, every, skips):
    assert (interval(budget, count), bwcache_skips(budget, count)) == (every, skips)


def test_a_threshold_is_raised_until_real_runs_keep_to_the_budget(study, monkeypatch):
    seen, counts = [], iter([6.0, 5.0, 4.2])

    def try_policy(policy):
        seen.append(policy)
        return next(counts), 0.0

    monkeypatch.setattr(study, "try_policy", try_policy)
    assert teacache_for(study, 4, None) == seen[-1]
    assert len(seen) == 3
    assert seen[0].threshold < seen[1].threshold < seen[2].threshold


def test_new_fields_of_a_config_are_no_other_run():
    assert changed_fields(SyntheticConfig()) == {}
    assert changed_fields(SyntheticConfig(guidance_scale=2.0, seed=3)) == {"guidance_scale": 2.0, "seed": 3}


def test_a_policys_name_tells_what_it_says_beyond_its_defaults():
    plain = ScheduleConfig(computed=(0, 4, 9))
    assert policy_key(plain) == policy_key(ScheduleConfig(computed=(0, 4, 9), forecast=Hold(), device="auto"))
    others = [ScheduleConfig(computed=(0, 5, 9)), replace(plain, forecast=Linear()), IntervalConfig(3)]
    assert len({policy_key(policy) for policy in (plain, *others)}) == 4
    assert policy_key(TeaCacheConfig(0.1)).startswith("TeaCacheConfig ")
