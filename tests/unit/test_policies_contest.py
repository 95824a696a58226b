"""What a comparison takes for its own at a number of computed steps."""

from __future__ import annotations

from dataclasses import replace

import pytest

import videosys.calibration.study as studies
from eval.policies.contest import Contest
from tests.synthetic import SyntheticConfig, SyntheticPipeline, opened
from videosys.cache import Hold, IntervalConfig, Linear, ScheduleConfig, TeaCacheConfig
from videosys.calibration.calibrate import teacache_for
from videosys.calibration.journal import policy_key
from videosys.calibration.study import Study, changed_fields

STAIRCASE = [5, 5, 2, 2, 2, 9, 9, 1, 1, 1]


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.setattr(studies, "open_pipeline", opened(SyntheticPipeline(STAIRCASE)))
    return Study(SyntheticConfig(), ["one", "three"], ["four 4"], tmp_path, quiet=True)


def learnt(study, budget=5):
    contest = Contest(study, bench=None, work=None, most_runs=20)
    contest.learn(budget)
    return contest, contest.searches[budget]["quality"]


def test_the_best_frames_are_chosen(study):
    contest, quality = learnt(study)
    assert quality[contest.selection[5]] == max(quality.values()) > 60
    assert contest.candidates[5][contest.selection[5]].computed == (0, 2, 5, 7, 9)
    assert set(contest.searches[5]["scores"]) >= {"schedule, hold", "schedule, damped", "searched, curved"}
    assert quality.keys() <= contest.candidates[5].keys()
    assert {"TeaCache, hold", "MagCache, hold"} <= contest.candidates[5].keys()


def test_a_rule_is_chosen_where_it_is_better(study, monkeypatch):
    def try_policy(policy):
        return 5.0, 99.0 if isinstance(policy, TeaCacheConfig) else 20.0

    monkeypatch.setattr(study, "try_policy", try_policy)
    assert learnt(study)[0].selection[5].startswith("TeaCache")


def test_what_computes_more_than_the_budget_is_not_chosen(study, monkeypatch):
    def try_policy(policy):
        return (6.0, 99.0) if isinstance(policy, TeaCacheConfig) else (5.0, 20.0)

    monkeypatch.setattr(study, "try_policy", try_policy)
    contest, quality = learnt(study)
    assert not any(name.startswith("TeaCache") for name in quality)
    assert not contest.selection[5].startswith("TeaCache")


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
