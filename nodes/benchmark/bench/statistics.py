"""What repeated times allow to be said: medians with exact intervals, and differences that exceed the noise."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

LEVEL = 0.95
MIN_RATIOS = 3  # of two, Student's t makes an interval that tells nothing (its factor is 637)
SMALLEST_EFFECT = 0.01  # ratios nearer to 1 are called no difference, however many runs were made

# Student's t, two-sided 99.9 %, for 1 to 30 degrees of freedom (NIST/SEMATECH e-Handbook, 1.3.6.7.2); then the normal's.
_T_999 = (
    636.619, 31.599, 12.924, 8.610, 6.869, 5.959, 5.408, 5.041, 4.781, 4.587, 4.437, 4.318, 4.221, 4.140, 4.073,
    4.015, 3.965, 3.922, 3.883, 3.850, 3.819, 3.792, 3.768, 3.745, 3.725, 3.707, 3.690, 3.674, 3.659, 3.646,
)  # fmt: skip
_T_999_LARGE = 3.646  # of 30 degrees of freedom: on the safe side of every larger number


@dataclass(frozen=True)
class Median:
    """A median and the interval that holds the true one with probability `level`, whatever the distribution."""

    value: float
    low: float
    high: float
    level: float
    num_runs: int

    @property
    def half_width(self) -> float:
        """Half the interval, relative to the median."""
        return (self.high - self.low) / 2 / self.value


def median(values: Sequence[float]) -> Median:
    """The median with an interval between two of the ordered values, as narrow as 95 % allows.

    Exact for any continuous distribution (order statistics, W. J. Conover, Practical Nonparametric Statistics, 3.2). Fewer than
    six values reach less than 95 %: then it is smallest to largest, and `level` says how much that is.
    """
    ordered = sorted(values)
    count = len(ordered)
    outside = 0  # values left out at either end
    while outside + 1 < (count + 1) // 2 and _coverage(count, outside + 1) >= LEVEL:
        outside += 1
    return Median(statistics.median(ordered), ordered[outside], ordered[count - 1 - outside], _coverage(count, outside), count)


def _coverage(count: int, outside: int) -> float:
    return 1 - 2 * sum(math.comb(count, below) for below in range(outside + 1)) / 2**count


@dataclass(frozen=True)
class Ratio:
    """How many times as long the one takes as the other, with its 99.9 % interval.

    `verdict` is "slower" or "faster" where the interval lies wholly on one side of 1 and the ratio differs from 1 by at least
    `SMALLEST_EFFECT`, "no difference" where that is not shown, and "too few runs" for fewer than `MIN_RATIOS`.
    """

    value: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """Say what the interval shows."""
        if math.isinf(self.high):
            return "too few runs"
        if abs(self.value - 1) < SMALLEST_EFFECT or self.low <= 1 <= self.high:
            return "no difference"
        return "slower" if self.value > 1 else "faster"


def paired_ratio(base: Sequence[float], other: Sequence[float]) -> Ratio:
    """The ratio other/base of runs made in turn, round by round, so that what slows a whole round cancels out.

    Student's t on the logarithms of the rounds' ratios; a slow spell within one round widens the interval.
    """
    logs = [math.log(b / a) for a, b in zip(base, other, strict=False)]
    if len(logs) < MIN_RATIOS:
        value = math.exp(statistics.mean(logs)) if logs else math.nan
        return Ratio(value, 0.0, math.inf)
    centre = statistics.mean(logs)
    margin = _t_999(len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs))
    return Ratio(math.exp(centre), _exp(centre - margin), _exp(centre + margin))


def unpaired_ratio(base: Sequence[float], other: Sequence[float]) -> Ratio:
    """The ratio other/base of runs of two sessions (Welch's t on logarithms)."""
    if min(len(base), len(other)) < MIN_RATIOS:
        value = statistics.median(other) / statistics.median(base) if base and other else math.nan
        return Ratio(value, 0.0, math.inf)
    logs = [[math.log(value) for value in values] for values in (base, other)]
    errors = [statistics.variance(values) / len(values) for values in logs]
    centre = statistics.mean(logs[1]) - statistics.mean(logs[0])
    spread = sum(errors)
    if spread == 0:
        return Ratio(math.exp(centre), math.exp(centre), math.exp(centre))
    freedom = spread**2 / sum(error**2 / (len(values) - 1) for error, values in zip(errors, logs, strict=True))
    margin = _t_999(int(freedom)) * math.sqrt(spread)
    return Ratio(math.exp(centre), _exp(centre - margin), _exp(centre + margin))


def _t_999(freedom: int) -> float:
    return _T_999[freedom - 1] if freedom <= len(_T_999) else _T_999_LARGE


def _exp(value: float) -> float:
    return math.exp(min(value, 700.0))  # e^710 is no double any more
