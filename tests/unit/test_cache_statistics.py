"""The numbers, the line and the picture of what a cache did."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from videosys.cache import StepRecord, statistics
from videosys.cache.statistics import cache_statistics, decision_digest, plot_steps, readable
from videosys.utils import plots
from videosys.utils.plots import save_figure

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


@pytest.fixture
def plotted(monkeypatch, tmp_path):
    """(the axes of a plot, {label: [x, y] of its line}), where the PNG file is written too."""

    def plot(steps, threshold=None):
        shown = []
        monkeypatch.setattr(
            statistics, "save_figure", lambda axes, path: shown.append(axes) or save_figure(axes, path)
        )
        path = plot_steps(steps, tmp_path / "new" / "steps.png", threshold)
        assert [item.name for item in path.parent.iterdir()] == ["steps.png"]
        assert Image.open(path).size[0] > 500
        (axes,) = shown
        return axes, {line.get_label(): np.asarray(line.get_data(), float) for line in axes.lines}

    return plot


@pytest.mark.parametrize("threshold", [None, 1.0])
def test_a_plot_of_the_steps(threshold, plotted):
    axes, lines = plotted(STEPS, threshold)
    assert axes.get_title() == "computed 3 of 4 steps, 4 branches reused"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("step", "relative L1 change")
    np.testing.assert_array_equal(lines["of the signal"], [[0, 1, 2, 3], [math.nan, 0.25, 0.75, math.nan]])
    np.testing.assert_array_equal(lines["accumulated, rescaled"][1], [math.nan, 0.5, 2.0, math.nan])
    assert lines["computed"][0].tolist() == [0, 2, 3]
    assert [*lines["threshold"][1]] == [1.0, 1.0] if threshold else "threshold" not in lines
    assert {text.get_text() for text in axes.get_legend().get_texts()} == lines.keys()


def test_a_plot_of_broadcasts_has_the_branches_that_each_step_reused(plotted):
    steps = [
        StepRecord(i, 1000.0 - i, None, None, None, True, reused=reused) for i, reused in enumerate((0, 8, 4))
    ]
    axes, lines = plotted(steps)
    assert lines["branches reused"].tolist() == [[0, 1, 2], [0, 8, 4]]
    assert lines.keys() == {"branches reused", "computed"}
    assert axes.get_title() == "computed 3 of 3 steps, 12 branches reused"


def test_a_fixed_schedule_has_a_plot_too(plotted):
    steps = [StepRecord(i, 1000.0 - i, None, None, None, i % 2 == 0) for i in range(5)]
    _, lines = plotted(steps)
    assert lines["decision"][1].tolist() == [1, 0, 1, 0, 1]
    assert lines["computed"][0].tolist() == [0, 2, 4]


def test_a_plot_without_steps_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no steps to plot"):
        plot_steps([], tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_a_plot_without_matplotlib_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(plots, "has_matplotlib", lambda: False)
    with pytest.raises(ValueError, match=r"plots need matplotlib: pip install -e .*\[plot\]"):
        plot_steps(STEPS, tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []
