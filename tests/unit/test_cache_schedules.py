"""Caches whose computed steps are known beforehand: interval, schedule, MagCache."""

from __future__ import annotations

import json

import pytest
import torch

from videosys.cache import (
    Fitted,
    Hold,
    IntervalConfig,
    Linear,
    MagCacheConfig,
    RunSpec,
    ScheduleConfig,
    resolve_cache,
    start,
)
from videosys.parallel import Parallel

RUN = RunSpec("latte", "ddim", 8, 8, (2, 4, 4), 7.5, "abc")


def never(kind):
    raise AssertionError("a fixed cache looks at no signal")


def computed(config, count):
    def gather(row):
        raise AssertionError("a fixed cache exchanges nothing")

    cache = start(config, [1 - i / count for i in range(count)], gather)
    x = torch.zeros(3)
    for step in range(count):
        cache.begin_step(step, 1000.0 - step)
        if cache.should_compute(never):
            cache.store(x, x + step)
        else:
            assert torch.equal(cache.reuse(x), x + max(done.step for done in cache.steps if done.computed))
    assert [record.distance for record in cache.steps] == [None] * count
    done = [record.step for record in cache.steps if record.computed]
    assert sorted(config.computed_steps(count)) == done  # it says the forced steps too
    return done


@pytest.mark.parametrize(
    ("every", "count", "expected"),
    [(1, 4, [0, 1, 2, 3]), (2, 7, [0, 2, 4, 6]), (3, 8, [0, 3, 6, 7]), (99, 5, [0, 4]), (2, 1, [0])],
)
def test_interval(every, count, expected):
    assert computed(IntervalConfig(every), count) == expected


@pytest.mark.parametrize(
    ("steps", "expected"),
    [((0, 2, 3, 7), [0, 2, 3, 7]), ((2,), [0, 2, 7]), ((), [0, 7]), (tuple(range(8)), list(range(8)))],
)
def test_schedule(steps, expected):
    assert computed(ScheduleConfig(computed=steps), 8) == expected


def test_magcache_skips_while_the_errors_add_up_to_little():
    # After step 1 (20 % of 8 is 1 step): products 0.9, 0.9 * 0.9, ... Errors 0.1, then 0.1 + 0.19.
    config = MagCacheConfig(ratios=(1.0,) + (0.9,) * 7, threshold=0.3, max_skips=9)
    assert computed(config, 8) == [0, 3, 6, 7]
    assert computed(MagCacheConfig(ratios=(1.0,) * 8, max_skips=2), 8) == [0, 3, 6, 7]
    assert computed(MagCacheConfig(ratios=(1.0,) * 8, retention=0.5, max_skips=9), 8) == [0, 1, 2, 3, 7]
    assert computed(MagCacheConfig(ratios=(0.5,) * 8, threshold=0.0), 8) == list(range(8))


def test_a_schedule_comes_from_a_file_with_its_forecast(tmp_path):
    path = tmp_path / "schedule.json"
    path.write_text(
        json.dumps({"model": "latte", "evaluations": 8, "computed": [0, 3], "forecast": "linear"})
    )
    settled = resolve_cache(ScheduleConfig(file=str(path)), lambda: RUN)
    assert settled == ScheduleConfig(computed=(0, 3), forecast=Linear())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"computed": [0, 3], "model": "opensora"}, "was made with model opensora, this run has latte"),
        ({"computed": [0, 3], "scheduler": "rflow"}, "was made with scheduler rflow"),
        ({"computed": [0, 3], "num_inference_steps": 30}, "was made with num_inference_steps 30"),
        ({"computed": [0, 3], "evaluations": 9}, "was made with evaluations 9"),
        ({"computed": [0, 3], "weights_hash": "0abc"}, "was made with weights_hash 0abc"),
        ({"computed": [0, 8]}, "has step 8; the steps are 0 to 7"),
        ({"computed": [3, 0]}, "strictly increasing"),
        ({"computed": [0, 0]}, "strictly increasing"),
        ({"computed": [-1]}, "0 or more"),
        ({"computed": []}, "computed is missing or empty"),
        ({}, "computed is missing or empty"),
        ({"computed": "all"}, "computed: must be a list"),
        ({"computed": [0], "step": 3}, "unknown key"),
        ({"computed": [0], "forecast": "linnear"}, "did you mean 'linear'"),
        (
            {"computed": [0], "forecast": {"name": "fitted", "weights_per_step": [[1.0]]}},
            "must have one for each of the 8 steps",
        ),
        ([0, 3], "must contain a JSON object"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(content, message, tmp_path):
    path = tmp_path / "schedule.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        resolve_cache(ScheduleConfig(file=str(path)), lambda: RUN)


def test_a_file_for_another_size_is_used_with_a_warning(tmp_path, caplog):
    path = tmp_path / "schedule.json"
    path.write_text(json.dumps({"computed": [0, 3], "size": [2, 8, 8], "guidance_scale": 7.5}))
    assert resolve_cache(ScheduleConfig(file=str(path)), lambda: RUN).computed == (0, 3)
    (record,) = caplog.records
    assert "was made with size (2, 8, 8), this run has (2, 4, 4)" in record.getMessage()


@pytest.mark.parametrize("text", ["{", "\x00", '{"computed": [NaN]}'])
def test_what_is_no_json_is_refused(text, tmp_path):
    path = tmp_path / "schedule.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"schedule\.json"):
        resolve_cache(ScheduleConfig(file=str(path)), lambda: RUN)
    with pytest.raises(ValueError, match="no such file"):
        resolve_cache(ScheduleConfig(file=str(tmp_path / "other.json")), lambda: RUN)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: IntervalConfig(0), "cache.every is 0"),
        (lambda: IntervalConfig(2.5), "every must be a whole number"),
        (lambda: ScheduleConfig(), "exactly one of cache.computed"),
        (lambda: ScheduleConfig(computed=(0,), file="a.json"), "exactly one of"),
        (lambda: ScheduleConfig(file="a.json", forecast=Linear()), "the file has the forecast"),
        (lambda: ScheduleConfig(computed=(2, 1)), "strictly increasing"),
        (
            lambda: start(MagCacheConfig(), [0.0] * 8, Parallel().gather_rows),
            "cache.ratios is missing",
        ),
        (lambda: MagCacheConfig(ratios=(1.0, 0.0)), "above 0"),
        (lambda: MagCacheConfig(ratios=(1.0,), threshold=-1.0), "cache.threshold is -1.0"),
        (lambda: MagCacheConfig(ratios=(1.0,), max_skips=0), "max_skips 0"),
        (lambda: start(ScheduleConfig(computed=(9,)), [0.0] * 8, Parallel().gather_rows), "has step 9"),
        (lambda: start(ScheduleConfig(file="a"), [0.0] * 8, Parallel().gather_rows), "resolve_cache"),
        (
            lambda: start(MagCacheConfig(ratios=(1.0,)), [0.0] * 8, Parallel().gather_rows),
            "there are 8 steps",
        ),
        (
            lambda: resolve_cache(ScheduleConfig(computed=(0,), forecast=Fitted(((),))), lambda: RUN),
            "must have one for each of the 8",
        ),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_explicit_steps_are_checked_before_anything_is_loaded():
    with pytest.raises(ValueError, match="has step 8"):
        resolve_cache(ScheduleConfig(computed=(0, 8)), lambda: RUN)
    assert resolve_cache(ScheduleConfig(computed=(0, 7), forecast=Hold()), lambda: RUN).computed == (0, 7)
