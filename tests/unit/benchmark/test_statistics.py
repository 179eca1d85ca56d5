"""Medians with exact intervals, and ratios that tell a difference from noise."""

import itertools
import math
import random

import pytest
from fast_sprites.nodes.benchmark.bench import statistics
from fast_sprites.nodes.benchmark.bench.statistics import median, paired_ratio, unpaired_ratio


def test_six_values_reach_95_percent_between_smallest_and_largest():
    found = median([6.0, 1.0, 5.0, 2.0, 4.0, 3.0])
    assert (found.value, found.low, found.high, found.num_runs) == (3.5, 1.0, 6.0, 6)
    assert found.level == pytest.approx(1 - 2 / 2**6)
    assert median([1.0, 2.0, 3.0]).level == pytest.approx(0.75)


def test_one_value_is_its_own_interval_and_promises_nothing():
    found = median([2.0])
    assert (found.value, found.low, found.high) == (2.0, 2.0, 2.0)
    assert found.level == 0.0


@pytest.mark.parametrize("count", range(1, 41))
def test_the_interval_is_the_narrowest_that_holds_95_percent(count: int):
    found = median([float(value) for value in range(count)])
    outside = int(found.low)
    assert found.high == count - 1 - outside
    missed = sum(math.comb(count, below) for below in range(outside + 1)) * 2
    assert found.level == pytest.approx(1 - missed / 2**count)
    if outside:
        assert found.level >= 0.95
    if outside + 1 < (count + 1) // 2:
        missed += 2 * math.comb(count, outside + 1)
        assert 1 - missed / 2**count < 0.95


def test_the_interval_holds_the_true_median_as_often_as_it_says():
    numbers = random.Random(1)
    draws = [median([numbers.lognormvariate(0.0, 0.3) for _ in range(11)]) for _ in range(2000)]
    held = sum(found.low <= 1.0 <= found.high for found in draws) / len(draws)
    assert draws[0].level - 0.02 < held < draws[0].level + 0.02


def inside_t(quantile: float, freedom: int) -> float:
    """The probability that Student's t lies within +-quantile: with t = sqrt(n) tan(a) the density is that of cos(a)^(n-1)."""
    angle = math.atan(quantile / math.sqrt(freedom))
    steps = 20_000
    middles = (angle * (2 * step + 1) / (2 * steps) for step in range(steps))
    area = sum(math.cos(middle) ** (freedom - 1) for middle in middles) * angle / steps
    return 2 * area * math.gamma((freedom + 1) / 2) / (math.sqrt(math.pi) * math.gamma(freedom / 2))


@pytest.mark.parametrize("freedom", [1, 2, 3, 5, 10, 20, 29, 30])
def test_students_t_is_as_the_table_says(freedom: int):
    assert inside_t(statistics._T_999[freedom - 1], freedom) == pytest.approx(0.999, abs=2e-6)  # the table has three decimals


def test_students_t_falls_with_the_number_of_runs():
    assert list(statistics._T_999) == sorted(statistics._T_999, reverse=True)
    assert inside_t(statistics._T_999_LARGE, 100) > 0.999


def test_a_ratio_of_exact_times_is_exact():
    found = paired_ratio([1.0, 2.0, 4.0], [0.5, 1.0, 2.0])
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))
    assert found.verdict == "faster"
    assert unpaired_ratio([1.0] * 3, [2.0] * 3).verdict == "slower"


def test_what_slows_a_whole_round_cancels_out():
    drift = [1.0, 1.5, 2.5, 4.0, 7.0]
    numbers = random.Random(2)
    base = [slow * numbers.gauss(1.0, 0.005) for slow in drift]
    other = [1.2 * slow * numbers.gauss(1.0, 0.005) for slow in drift]
    found = paired_ratio(base, other)
    assert found.verdict == "slower"
    assert found.low < 1.2 < found.high
    assert unpaired_ratio(base, other).verdict == "no difference"


@pytest.mark.parametrize("runs", [[2.0], [2.0, 2.0]])
def test_too_few_runs_say_so(runs: list[float]):
    found = paired_ratio([1.0] * len(runs), runs)
    assert (found.verdict, found.value) == ("too few runs", pytest.approx(2.0))
    assert unpaired_ratio([1.0, 1.1, 1.2], runs).verdict == "too few runs"
    assert math.isnan(paired_ratio([], []).value)


def test_three_wild_rounds_show_nothing():
    assert paired_ratio([1.0, 1.0, 1.0], [0.5, 2.1, 0.8]).verdict == "no difference"


def test_less_than_a_percent_is_no_difference():
    assert paired_ratio([1.0, 1.0, 1.0], [1.009, 1.009, 1.009]).verdict == "no difference"
    assert paired_ratio([1.0, 1.0, 1.0], [1.011, 1.011, 1.011]).verdict == "slower"


def test_sessions_of_different_noise_hold_the_true_ratio():
    numbers = random.Random(3)
    missed = 0
    for _ in range(2000):
        base = [numbers.lognormvariate(0.0, 0.01) for _ in range(8)]
        other = [1.05 * numbers.lognormvariate(0.0, 0.05) for _ in range(12)]
        found = unpaired_ratio(base, other)
        missed += not found.low <= 1.05 <= found.high
    assert missed < 8  # two are expected


def test_verdicts_follow_the_interval():
    for low, high in itertools.combinations([0.8, 0.9, 1.1, 1.2], 2):
        ratio = statistics.Ratio((low + high) / 2, low, high)
        expected = "faster" if high < 1 else "slower" if low > 1 else "no difference"
        assert ratio.verdict == expected
