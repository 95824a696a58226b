"""Forecasts in closed form, with every cache that keeps residuals."""

from __future__ import annotations

import math

import pytest
import torch

from videosys.cache import (
    Fitted,
    Hermite,
    Hold,
    IntervalConfig,
    Linear,
    ResidualCache,
    Taylor,
    TeaCacheConfig,
    start,
)
from videosys.config import config_to_dict, load_config
from videosys.models.latte.pipeline import LatteConfig
from videosys.parallel import Parallel

TIMES = [1.0, 0.9, 0.7, 0.4, 0.3, 0.1]


def follow(cache, computed, residual, times=TIMES):
    """The residual of each step: computed in these, and forecast in the others."""
    used = []
    x = torch.zeros(2, 3, dtype=torch.float64)
    for step, time in enumerate(times):
        cache.begin_step(step, 1000 * time)
        after = x + residual(time)
        used.append(cache.store(x, after) if step in computed else cache.reuse(x))
    return [float(value[0, 0]) for value in used]


def test_hold_takes_the_last_one():
    used = follow(ResidualCache(TIMES, Hold()), {0, 2}, lambda t: t)
    assert used == [1.0, 1.0, 0.7, 0.7, 0.7, 0.7]


def test_linear_is_exact_for_what_is_linear_in_time():
    used = follow(ResidualCache(TIMES, Linear()), {0, 1}, lambda t: 3 - 5 * t)
    assert used == pytest.approx([3 - 5 * t for t in TIMES])


def test_linear_follows_the_line_through_the_last_two():
    used = follow(ResidualCache(TIMES, Linear()), {0, 2, 3}, lambda t: t * t)
    assert used[1] == 1.0  # one residual yet
    for step in (4, 5):  # through (0.7, 0.49) and (0.4, 0.16)
        slope = (0.49 - 0.16) / (0.7 - 0.4)
        assert used[step] == pytest.approx(0.16 + slope * (TIMES[step] - 0.4))


def test_a_forecast_step_is_no_point_of_the_line():
    cache = ResidualCache(TIMES, Linear())
    follow(cache, {0, 1}, lambda t: t)
    assert [step for step, _ in cache.history] == [1, 0]


def test_equal_times_hold():
    times = [500.0, 450.0, 450.0, 400.0]  # as PNDM's Runge-Kutta steps
    used = follow(ResidualCache(times, Linear()), {0, 1, 2}, lambda t: t, times)
    assert used[3] == 450.0


@pytest.mark.parametrize("damping", [0.0, 0.5, 1.0])
def test_damping_scales_the_slope(damping):
    used = follow(ResidualCache(TIMES, Linear(damping=damping)), {0, 1}, lambda t: t)
    assert used[4] == pytest.approx(0.9 + damping * (0.3 - 0.9))


def test_beyond_the_largest_gap_the_value_stays():
    used = follow(ResidualCache(TIMES, Linear(max_gap=2)), {0, 1}, lambda t: t)
    assert used[2:] == pytest.approx([0.7, 0.4, 0.4, 0.4])


def test_fitted_weights_are_those_of_the_step():
    weights = ((), (), (), (2.0,), (0.5, 0.25), (1.0, -1.0, 3.0))
    used = follow(ResidualCache(TIMES, Fitted(weights)), {0, 1, 2}, lambda t: t)
    assert used[3:] == pytest.approx([1.4, 0.5 * 0.7 + 0.25 * 0.9, 0.7 - 0.9 + 3 * 1.0])


def test_fitted_holds_before_there_are_residuals_enough():
    used = follow(ResidualCache(TIMES, Fitted(((), (5.0, 5.0), ()))), {0}, lambda t: t)
    assert used == [1.0] * 6


INDICES = range(30)
UNEVEN = (10, 7, 2)  # d1 = 3, d2 = 5


def predict(forecast, step, computed, values):
    weights = forecast.weights(step, computed, INDICES)
    return sum(weight * value for weight, value in zip(weights, values))


def test_taylor_has_backward_differences():
    """f = s^2 at 0, 5, 10 has D1 = 15 and D2 = 2: 100 + 15 * 3 + 2 * 9 / 2; the parabola itself has 169."""
    squares = [100, 25, 0]
    assert predict(Taylor(2), 13, (10, 5, 0), squares) == pytest.approx(154)
    assert predict(Taylor(1), 13, (10, 5), squares) == pytest.approx(100 + 3 * 15)
    assert predict(Hermite(2), 13, (10, 5, 0), squares) == pytest.approx(100 + 15 * 1.5 + 2 * 1.75 / 2)


def test_taylors_weights_in_closed_form():
    j, d1, d2 = 4, 3, 5
    expected = (
        1 + j / d1 + j**2 / (2 * d1**2),
        -j / d1 - j**2 / (2 * d1) * (1 / d1 + 1 / d2),
        j**2 / (2 * d1 * d2),
    )
    assert Taylor(2).weights(14, UNEVEN, INDICES) == pytest.approx(expected)


@pytest.mark.parametrize("computed", [UNEVEN, (10, 5, 0), (3, 2, 1), (10, 9)])
@pytest.mark.parametrize("gap", [1, 2, 5])
def test_order_1_is_linear_in_step_numbers(computed, gap):
    step = computed[0] + gap
    for mine, other in (
        (Taylor(1), Linear()),
        (Hermite(1), Linear(damping=0.5)),
        (Hermite(1, 0.5**0.5), Linear()),
    ):
        expected = other.weights(step, computed, INDICES)
        assert mine.weights(step, computed, INDICES) == pytest.approx(expected)


@pytest.mark.parametrize(("j", "basis"), [(0, -0.5), (1, -0.25), (2, 0.5), (3, 1.75), (4, 3.5)])
def test_hermites_second_polynomial(j, basis):
    d1, d2 = 3, 5
    weights = Hermite(2).weights(10 + j, UNEVEN, INDICES)
    assert weights[2] == pytest.approx(basis / (2 * d1 * d2))
    assert weights[0] == pytest.approx(1 + 0.5 * j / d1 + basis / (2 * d1**2))


@pytest.mark.parametrize("forecast", [Taylor(1), Taylor(2), Hermite(1), Hermite(2), Hermite(2, 0.3)])
def test_what_is_constant_stays(forecast):
    for computed in ((4,), (4, 3), UNEVEN):
        for step in range(computed[0] + 1, 20):
            weights = forecast.weights(step, computed, INDICES)
            assert sum(weights) == pytest.approx(1)
            assert len(weights) <= len(computed)


@pytest.mark.parametrize(("kind", "line"), [(Taylor, 1.0), (Hermite, 0.5)])
def test_the_order_grows_with_the_residuals(kind, line):
    assert kind(2).weights(9, (4,), INDICES) == (1.0,)
    assert kind(2).weights(9, (4, 2), INDICES) == pytest.approx((1 + line * 2.5, -line * 2.5))


def test_equal_times_do_not_stop_what_goes_by_steps():
    times = [500.0, 450.0, 450.0, 400.0]
    used = follow(ResidualCache(times, Taylor()), {0, 1, 2}, lambda t: t, times)
    assert used[3] == 450.0
    used = follow(ResidualCache(times, Taylor()), {0, 1}, lambda t: t, times)
    assert used[2:] == [400.0, 350.0]


@pytest.mark.parametrize(
    ("forecast", "count"),
    [(Hold(), 1), (Linear(), 2), (Fitted(((1.0, 2.0, 3.0),)), 3)]
    + [(kind(order), order + 1) for kind in (Taylor, Hermite) for order in (1, 2)],
)
def test_no_more_residuals_are_kept_than_are_used(forecast, count):
    cache = ResidualCache(TIMES, forecast)
    follow(cache, {0, 1, 2, 3, 4, 5}, lambda t: t)
    assert [step for step, _ in cache.history] == [5, 4, 3][:count]
    cache.record(computed=True)
    assert cache.steps[-1].bytes_held == count * 6 * 8


def test_holding_keeps_every_bit():
    x, after = torch.randn(50, generator=torch.Generator().manual_seed(1)), torch.randn(50)
    for forecast in (Hold(), Linear(), Linear(damping=0.0), Fitted()):
        cache = ResidualCache([1.0, 0.5], forecast)
        cache.begin_step(0, 1.0)
        cache.store(x, after)
        cache.begin_step(1, 0.5)
        assert torch.equal(cache.reuse(x), x + (after - x))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Linear(damping=-0.1), "forecast.damping is -0.1"),
        (lambda: Linear(damping=math.nan), "forecast.damping is nan"),
        (lambda: Linear(max_gap=0), "forecast.max_gap is 0"),
        (lambda: Fitted(((1.0, 1.0, 1.0, 1.0),)), r"weights_per_step\[0\]"),
        (lambda: Fitted(((), (math.inf,))), r"weights_per_step\[1\]"),
        (lambda: Taylor(order=0), "forecast.order is 0; it must be 1 or 2"),
        (lambda: Taylor(order=3), "forecast.order is 3"),
        (lambda: Hermite(order=-1), "forecast.order is -1"),
        (lambda: Hermite(contraction=0.0), "forecast.contraction is 0.0"),
        (lambda: Hermite(contraction=1.5), "forecast.contraction is 1.5"),
        (lambda: Hermite(contraction=math.nan), "forecast.contraction is nan"),
        (
            lambda: TeaCacheConfig(forecast="linear"),
            "forecast must be Hold or Linear or Fitted or Taylor or Hermite",
        ),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("override", "forecast"),
    [
        ("cache.forecast=linear", Linear()),
        ("cache.forecast={name: linear, damping: 0.5, max_gap: 3}", Linear(0.5, 3)),
        ("cache.forecast={name: fitted, weights_per_step: [[], [1, 0.5]]}", Fitted(((), (1.0, 0.5)))),
        ("cache.forecast=hold", Hold()),
        ("cache.forecast=taylor", Taylor()),
        ("cache.forecast={name: hermite, order: 1, contraction: 0.4}", Hermite(1, 0.4)),
    ],
)
def test_a_forecast_is_named_in_a_config(override, forecast, tmp_path):
    config = load_config(LatteConfig, overrides=["cache=interval", override])
    assert config.cache == IntervalConfig(2, forecast)
    plain = config_to_dict(config)["cache"]
    again = load_config(LatteConfig, overrides=[f"cache={plain}".replace("None", "null").replace("'", "")])
    assert again == config


@pytest.mark.parametrize("config", [TeaCacheConfig(1e9, (1.0, 0.0), Linear()), IntervalConfig(3, Linear())])
def test_decision_and_forecast_are_chosen_apart(config):
    cache = start(config, TIMES, Parallel().gather_rows)
    assert cache.forecast == Linear()
