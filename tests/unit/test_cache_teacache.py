"""TeaCache on invented signals whose distances have a closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from videosys.cache import StepRecord, TeaCacheConfig, start
from videosys.cache.teacache import l1_sums, polynomial, relative_l1
from videosys.parallel import Parallel

IDENTITY = (1.0, 0.0)
ALWAYS = 1e9  # a threshold that nothing reaches


def alone(row: torch.Tensor) -> torch.Tensor:
    return Parallel().gather_rows(row)


def run(config, signals, timesteps=None, gather_rows=alone):
    """The cache after one generation whose signals are tensors, or numbers that fill small ones."""
    cache = start(config, [1 - i / len(signals) for i in range(len(signals))], gather_rows, 9)
    for step, value in enumerate(signals):
        tensor = value if isinstance(value, torch.Tensor) else torch.full((2, 3), float(value))
        cache.begin_step(step, 1000.0 - step if timesteps is None else timesteps[step])
        if cache.should_compute(lambda kind, tensor=tensor: tensor):
            cache.store(tensor, tensor + 1)
        else:
            cache.reuse(tensor)
    return cache


def computed(cache):
    return [record.step for record in cache.steps if record.computed]


def grown(rates):
    """Signals that change by these shares of themselves."""
    return [float(value) for value in np.cumprod([1.0, *(1 + rate for rate in rates)])]


def test_changes_add_up_until_the_threshold_and_start_again():
    cache = run(TeaCacheConfig(0.25, IDENTITY), grown([0.1] * 9))
    # 0.1, 0.2, 0.3 >= 0.25: every third step after the first, and the last one.
    assert computed(cache) == [0, 3, 6, 9]
    sums = [record.accumulated for record in cache.steps]
    assert sums[0] is None
    assert sums[9] is None
    assert sums[1:9] == pytest.approx([0.1, 0.2, 0.3, 0.1, 0.2, 0.3, 0.1, 0.2])


def test_reaching_the_threshold_exactly_computes():
    cache = run(TeaCacheConfig(0.5, IDENTITY), [1, 1.25, 1.5625, 1.5625, 1.5625])
    assert cache.steps[2].accumulated == 0.5
    assert computed(cache) == [0, 2, 4]


@pytest.mark.parametrize("coefficients", [IDENTITY, (0.0,), (2.0, -1.0, 0.0), (-1.0, 0.0)])
def test_threshold_zero_computes_unless_the_rescaled_sum_is_negative(coefficients):
    cache = run(TeaCacheConfig(0.0, coefficients), grown([0.1, -0.2, 0.7]))
    negative = [r.accumulated is not None and r.accumulated < 0 for r in cache.steps]
    assert [not record.computed for record in cache.steps] == negative


def test_threshold_zero_computes_unchanged_signals_too():
    assert computed(run(TeaCacheConfig(0.0, IDENTITY), [3.0] * 5)) == [0, 1, 2, 3, 4]


def test_an_unchanged_signal_never_computes_between_first_and_last():
    assert computed(run(TeaCacheConfig(1e-12, IDENTITY), [3.0] * 6)) == [0, 5]


def test_the_distance_is_to_the_step_before_also_when_it_was_skipped():
    # To the last *computed* step these would be 1, 2, 3; to the step before they are 1, 1/2, 1/3.
    cache = run(TeaCacheConfig(ALWAYS, IDENTITY), [1, 2, 3, 4, 5])
    assert [r.distance for r in cache.steps[1:4]] == pytest.approx([1, 1 / 2, 1 / 3])


def test_the_distance_is_relative_to_the_former_signal():
    assert run(TeaCacheConfig(ALWAYS, IDENTITY), [4, 1, 0.5, 0]).steps[1].distance == 0.75


def test_signs_do_not_cancel():
    before, after = torch.tensor([2.0, -2.0]), torch.tensor([3.0, -3.0])
    assert l1_sums(after, before) == (2.0, 4.0)
    assert l1_sums(-before, before) == (8.0, 4.0)


@pytest.mark.parametrize(
    "coefficients", [(1.0, 0.0), (3.0,), (0.5, -2.0, 3.0, 0.25), (217.5, -118.3, 26.9, -0.05, 0.05)]
)
@pytest.mark.parametrize("x", [0.0, 0.1, -0.3, 2.5])
def test_the_polynomial_is_numpys(coefficients, x):
    assert polynomial(coefficients, x) == pytest.approx(float(np.polyval(coefficients, x)), rel=1e-14)


def test_the_sum_is_of_rescaled_distances():
    rates = [0.1, 0.2, 0.3]
    cache = run(TeaCacheConfig(ALWAYS, (2.0, 1.0, 0.5)), [*grown(rates), 7.0])
    rescaled = [float(np.polyval((2.0, 1.0, 0.5), rate)) for rate in rates]
    assert [r.rescaled for r in cache.steps[1:4]] == pytest.approx(rescaled)
    assert [r.accumulated for r in cache.steps[1:4]] == pytest.approx(list(np.cumsum(rescaled)))


def test_a_polynomial_below_zero_subtracts_as_published_unless_it_has_a_floor():
    changes, falling = grown([0.5, 0.1, 0.5, 0.1, 0.1, 0.1]), (-1.0, 0.2)  # -0.3 at 0.5, 0.1 at 0.1
    published, own = (run(TeaCacheConfig(0.15, falling, floor=floor), changes) for floor in (False, True))
    sums = [[record.accumulated for record in cache.steps[1:6]] for cache in (published, own)]
    assert sums[0] == pytest.approx([-0.3, -0.2, -0.5, -0.4, -0.3])
    assert sums[1] == pytest.approx([0.0, 0.1, 0.1, 0.2, 0.1])
    assert (computed(published), computed(own)) == ([0, 6], [0, 4, 6])
    assert [polynomial(falling, x, floor=True) for x in (0.5, 0.0)] == [0.0, 0.2]
    assert math.isnan(polynomial(falling, math.nan, floor=True))  # which computes, with a floor too


def test_without_coefficients_the_distance_is_not_rescaled():
    plain, identity = (run(TeaCacheConfig(0.25, c), grown([0.1] * 6)) for c in (None, IDENTITY))
    assert plain.steps == identity.steps


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_computes_and_does_not_last(bad):
    cache = run(TeaCacheConfig(ALWAYS, IDENTITY), [1, 1, bad, 1, 1, 1, 1])
    # The steps that see it before or after them compute; then the sum starts from nothing.
    assert computed(cache) == [0, 2, 3, 6]
    assert cache.steps[4].accumulated == 0.0


def test_a_signal_of_zeros_computes():
    cache = run(TeaCacheConfig(ALWAYS, IDENTITY), [1, 0, 0, 1, 1, 1])
    # Step 1 changes by 1/1; steps 2 and 3 are compared with zeros.
    assert computed(cache) == [0, 2, 3, 5]
    assert math.isnan(cache.steps[2].distance)
    assert math.isnan(cache.steps[3].distance)


@pytest.mark.parametrize("timesteps", [[1000, 1000, 500, 500], [0, 0, 0, 0], [1, 2, 3, 1]])
def test_first_and_last_are_forced_by_index_whatever_the_timesteps(timesteps):
    cache = run(TeaCacheConfig(ALWAYS, IDENTITY), [1, 1, 1, 1], timesteps)
    assert computed(cache) == [0, 3]
    assert [record.timestep for record in cache.steps] == timesteps


def test_one_step_is_first_and_last():
    assert computed(run(TeaCacheConfig(ALWAYS, IDENTITY), [1])) == [0]


@pytest.mark.parametrize(("most", "expected"), [(1, [0, 2, 4, 6, 7]), (2, [0, 3, 6, 7]), (None, [0, 7])])
def test_skips_in_a_row_are_bounded(most, expected):
    config = TeaCacheConfig(ALWAYS, IDENTITY, max_consecutive_skips=most)
    assert computed(run(config, [1] * 8)) == expected


def test_skips_are_counted_anew_after_a_step_that_the_threshold_computed():
    config = TeaCacheConfig(0.5, IDENTITY, max_consecutive_skips=2)
    assert computed(run(config, [1, 1, 2, 2, 2, 2, 2, 2])) == [0, 2, 5, 7]


@pytest.mark.parametrize("kind", ["modulated", "timestep"])
def test_the_kind_of_signal_is_that_of_the_config(kind):
    asked = []
    cache = start(TeaCacheConfig(signal=kind), [1.0], alone)
    cache.begin_step(0, 1000.0)
    cache.should_compute(lambda name: asked.append(name) or torch.ones(1))
    assert asked == [kind]


def test_records_tell_what_was_compared():
    cache = run(TeaCacheConfig(0.4, (2.0, 0.0)), [1, 1.25, 1.25, 2.0])
    assert cache.steps == [
        StepRecord(0, 1000.0, None, None, None, True),
        StepRecord(1, 999.0, 0.25, 0.5, 0.5, True),
        StepRecord(2, 998.0, 0.0, 0.0, 0.0, False),
        StepRecord(3, 997.0, None, None, None, True),
    ]


def test_half_precision_signals_are_summed_in_float64():
    # In float16 the sum would be infinite, in bfloat16 it would be rounded.
    ones = torch.ones(100_000, dtype=torch.float16)
    assert l1_sums(ones * 3, ones) == (200_000.0, 100_000.0)
    assert l1_sums(ones.bfloat16() * 3, ones.bfloat16()) == (200_000.0, 100_000.0)


def test_a_signal_of_another_shape_is_an_error_and_never_broadcast():
    with pytest.raises(RuntimeError, match=r"signal was \(2, 3\) and is \(1, 3\)"):
        run(TeaCacheConfig(ALWAYS), [torch.ones(2, 3), torch.ones(1, 3), 1])


class Ranks:
    """Plays the other ranks of a replica: each brings its own sums, and agrees in the rest."""

    def __init__(self, *others: tuple[float, float], change=None):
        self.others, self.change, self.rows = others, change, []

    def __call__(self, row: torch.Tensor) -> torch.Tensor:
        assert row.dtype == torch.float64
        self.rows.append(row.tolist())
        rows = torch.stack([row, *(torch.cat((row[:4], torch.tensor(sums))) for sums in self.others)])
        if self.change is not None:
            rows[-1, self.change] += 1
        return rows


def test_sums_of_ranks_are_added_and_not_averaged():
    ranks = Ranks((0.0, 90.0), (4.0, 4.0))
    cache = run(
        TeaCacheConfig(ALWAYS, IDENTITY), [torch.ones(6), torch.full((6,), 2.0), 1], gather_rows=ranks
    )
    assert cache.steps[1].distance == (6 + 0 + 4) / (6 + 90 + 4)  # the mean of ratios would be 2/3


def test_a_rank_without_tokens_takes_part():
    ranks = Ranks((3.0, 4.0))
    empty = torch.ones(0, 5)
    assert (
        run(TeaCacheConfig(ALWAYS, IDENTITY), [empty, empty, empty], gather_rows=ranks).steps[1].distance
        == 0.75
    )


def test_a_row_says_request_settings_step_and_sum():
    ranks = Ranks()
    run(TeaCacheConfig(ALWAYS, IDENTITY), [1, 2, 3, 4], gather_rows=ranks)
    assert len(ranks.rows) == 2  # forced steps need no exchange
    assert [row[0] for row in ranks.rows] == [9.0, 9.0]
    assert ranks.rows[0][1] == ranks.rows[1][1]
    assert [row[2:] for row in ranks.rows] == [[1.0, 0.0, 6.0, 6.0], [2.0, 1.0, 6.0, 12.0]]


def test_other_settings_have_another_digest():
    digests = set()
    for config in (
        TeaCacheConfig(),
        TeaCacheConfig(0.2),
        TeaCacheConfig(coefficients=(2.0, 0.0)),
        TeaCacheConfig(signal="timestep"),
    ):
        ranks = Ranks()
        run(config, [1, 2, 3], gather_rows=ranks)
        digests.add(ranks.rows[0][1])
    assert len(digests) == 4


@pytest.mark.parametrize("column", [0, 1, 2, 3])
def test_ranks_that_disagree_are_an_error(column):
    with pytest.raises(RuntimeError, match="ranks of one video disagree"):
        run(TeaCacheConfig(ALWAYS), [1, 2, 3], gather_rows=Ranks((1.0, 1.0), change=column))


def test_the_sum_over_ranks_is_exact():
    rows = torch.tensor([[0, 0, 0, 0, value, 1.0] for value in (1e100, 1.0, -1e100)], dtype=torch.float64)
    assert relative_l1(rows) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threshold": -0.1}, "cache.threshold is -0.1; it must be 0 or more"),
        ({"threshold": math.nan}, "cache.threshold is nan"),
        ({"coefficients": ()}, "one or more finite numbers"),
        ({"coefficients": (1.0, math.nan)}, "one or more finite numbers"),
        ({"coefficients": (math.inf,)}, "one or more finite numbers"),
        ({"signal": "output"}, "signal must be one of 'modulated', 'timestep', got 'output'"),
        ({"threshold": "0.1"}, "threshold must be a number, got '0.1'"),
        ({"coefficients": ("a",)}, "coefficients must be a list of a number or null, got"),
        ({"max_consecutive_skips": 2.5}, "max_consecutive_skips must be a whole number or null, got 2.5"),
        ({"max_consecutive_skips": 0}, "cache.max_consecutive_skips is 0; it must be 1 or more"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        TeaCacheConfig(**changes)
