"""Whatever was measured: more budget never gives a worse plan, and a plan keeps to its goal."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from videosys.cache import BestConfig, IntervalConfig, Setting, choose_setting

quickly = settings(max_examples=100, deadline=None, derandomize=True)
psnr = st.none() | st.floats(1, 90)
rows = st.lists(
    st.builds(
        Setting,
        policy=st.integers(1, 50).map(IntervalConfig),
        computed=st.floats(1, 60),
        speedup=st.floats(1, 9),
        psnr=psnr,
        ssim=st.just(0.9),
        psnr_converged=psnr,
        config=st.sampled_from([{}, {"scheduler": {"name": "unipc"}, "num_inference_steps": 17}]),
    ),
    min_size=1,
    max_size=9,
)
reference = st.sampled_from(["published", "converged"])


LISTED = re.compile(r"(?:([\d.]+)x)?(?: with )?(?:(\d+) evaluations)? at ([\d.]+|inf) dB")


def chosen_by(goal, found, near):
    """(the setting, its PSNR); None where none reaches the goal."""
    try:
        row = choose_setting(BestConfig(**goal, reference=near), found, "file")
    except ValueError:
        return None
    return row, row.near(near)


def chosen(found, name, value, near):
    return chosen_by({name: value}, found, near)


@quickly
@given(rows, st.integers(1, 60), st.integers(0, 60), reference)
def test_more_evaluations_never_give_a_worse_plan(found, least, more, near):
    few, many = (chosen(found, "evaluations", count, near) for count in (least, least + more))
    assert few is None or (many is not None and many[1] >= few[1])
    assert few is None or few[0].computed <= least


@quickly
@given(rows, st.floats(1, 9), st.floats(1, 9), reference)
def test_a_smaller_speedup_never_gives_a_worse_plan(found, one, other, near):
    slow, fast = (chosen(found, "speedup", value, near) for value in sorted((one, other)))
    assert fast is None or (slow is not None and slow[1] >= fast[1])
    assert fast is None or fast[0].speedup >= max(one, other)


@quickly
@given(rows, st.floats(1, 90), st.floats(1, 90), reference)
def test_asking_for_less_quality_never_gives_a_slower_plan(found, one, other, near):
    less, more = (chosen(found, "min_psnr", value, near) for value in sorted((one, other)))
    assert more is None or (less is not None and less[0].speedup >= more[0].speedup)
    assert more is None or more[1] >= max(one, other)


@quickly
@given(
    rows, reference, st.sampled_from([{"speedup": 99}, {"evaluations": 1}, {"speedup": 9, "evaluations": 1}])
)
def test_every_listed_setting_can_be_requested(found, near, goal):
    measured = [row for row in found if row.near(near) is not None]
    if not measured or chosen_by(goal, measured, near):
        return
    with pytest.raises(ValueError, match="; available: ") as caught:
        choose_setting(BestConfig(**goal, reference=near), measured, "file")
    listed = LISTED.findall(str(caught.value))
    assert listed
    assert len(listed) == str(caught.value).count(" dB")
    for speedup, evaluations, quality in listed:
        wanted = {"speedup": speedup, "evaluations": evaluations, "min_psnr": quality}
        numbers = {name: float(value) for name, value in wanted.items() if value}
        numbers |= {"evaluations": int(evaluations)} if evaluations else {}
        assert {*goal} <= {*numbers}
        assert chosen_by(numbers, measured, near) is not None


@given(rows)
@quickly
def test_a_reference_that_was_not_measured_is_an_error(found):
    unmeasured = [row for row in found if row.psnr_converged is None]
    if unmeasured:
        with pytest.raises(ValueError, match="psnr_converged"):
            choose_setting(BestConfig(speedup=1, reference="converged"), unmeasured, "file")
    assert all(row.near("published") in (row.psnr, math.inf) for row in found)
