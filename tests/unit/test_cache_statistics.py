"""The numbers, the line and the picture of what a cache did."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from videosys.cache import StepRecord
from videosys.cache.statistics import cache_statistics, decision_digest, plot_steps, readable
from videosys.utils.chart import SIZE, Axis, Chart, padded

STEPS = [
    StepRecord(0, 1000.0, None, None, None, True),
    StepRecord(1, 900.0, 0.25, 0.5, 0.5, False, bytes_held=3 * 2**20),
    StepRecord(2, 800.0, 0.75, 1.5, 2.0, True, bytes_held=2**20),
    StepRecord(3, 700.0, None, None, None, True, reused=4),
]


def test_statistics():
    found = cache_statistics(STEPS)
    assert (found.computed, found.total, found.reused, found.bytes_held) == (3, 4, 4, 3 * 2**20)
    assert (found.mean_distance, found.largest_distance) == (0.5, 0.75)
    assert str(found) == (
        "computed 3 of 4 steps, 4 branches reused, distances 0.5 on average, 0.75 at most, cache 3.0 MiB, "
        f"decisions {decision_digest(STEPS)}"
    )


def test_statistics_without_a_cache():
    found = cache_statistics(STEPS[:1])
    assert str(found) == f"computed 1 of 1 steps, decisions {decision_digest(STEPS[:1])}"
    assert (found.mean_distance, found.largest_distance) == (None, None)
    assert cache_statistics([]).total == 0


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (7, "7 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (20_480, "20.0 KiB"),
        (2**20 - 1, "1024.0 KiB"),
        (3 * 2**20 // 2, "1.5 MiB"),
        (5 * 2**30, "5.0 GiB"),
        (2**41, "2048.0 GiB"),
    ],
)
def test_bytes_are_said_in_their_own_unit(count, text):
    assert readable(count) == text
    assert f"cache {text}, " in str(cache_statistics([replace(STEPS[0], bytes_held=count)]))


def test_the_digest_is_of_the_decisions_alone():
    other = StepRecord(1, 901.0, 0.3, 0.6, 0.6, False, bytes_held=7)
    assert decision_digest([STEPS[0], other]) == decision_digest(STEPS[:2])
    assert decision_digest([STEPS[0], StepRecord(1, 900.0, 0.25, 0.5, 0.5, True)]) != decision_digest(
        STEPS[:2]
    )
    assert decision_digest([StepRecord(0, 1.0, None, None, None, True, reused=1)]) != decision_digest(
        STEPS[:1]
    )
    assert len(decision_digest(STEPS)) == 8


def ink(path):
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert pixels.shape == (SIZE[1], SIZE[0], 3)
    return pixels


@pytest.mark.parametrize("threshold", [None, 1.0])
def test_a_picture_of_the_steps(threshold, tmp_path):
    path = plot_steps(STEPS, tmp_path / "new" / "steps.png", threshold)
    pixels = ink(path)
    blue, red, green = (
        (np.abs(pixels - np.array(color)).sum(axis=2) < 30).sum()
        for color in ((31, 95, 168), (196, 67, 43), (47, 143, 78))
    )
    assert blue > 100
    assert red > 100
    assert (green > 100) == (threshold is not None)
    assert [item.name for item in path.parent.iterdir()] == ["steps.png"]


def test_a_picture_of_broadcasts_has_the_branches_that_each_step_reused(tmp_path, monkeypatch):
    steps = [
        StepRecord(i, 1000.0 - i, None, None, None, True, reused=reused) for i, reused in enumerate((0, 8, 4))
    ]
    drawn = []
    monkeypatch.setattr(Chart, "save", lambda chart, path: drawn.append(chart) or path)
    plot_steps(steps, tmp_path / "a.png")
    assert drawn[0].curves == {"branches reused": [(0, 0.0), (1, 8.0), (2, 4.0)]}
    assert drawn[0].title == "computed 3 of 3 steps, 12 branches reused"
    plot_steps(STEPS, tmp_path / "b.png")  # where distances were measured, they are drawn
    assert list(drawn[1].curves) == ["relative L1 of the signal", "accumulated"]


def test_a_fixed_schedule_has_a_picture_too(tmp_path):
    steps = [StepRecord(i, 1000.0 - i, None, None, None, i % 2 == 0) for i in range(5)]
    assert ink(plot_steps(steps, tmp_path / "a.png")).min() < 60


def test_an_empty_picture_is_refused(tmp_path):
    with pytest.raises(ValueError, match="nothing: there is no point to draw"):
        Chart("nothing", "x", "y", {"a": [(0.0, math.nan)]}).save(tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_axes_have_round_ticks():
    assert Axis(0, 100, 0.0, 1.0).ticks() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert Axis(0, 100, -30.0, 19.0).ticks() == pytest.approx([-30, -20, -10, 0, 10])
    assert Axis(10, 110, 0.0, 2.0)(1.0) == 60
    assert padded([3.0, 3.0]) == pytest.approx((2.7, 3.3))
    assert padded([0.0]) == (-0.1, 0.1)
