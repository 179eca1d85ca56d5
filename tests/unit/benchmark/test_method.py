"""The alternating method on simulated servers: plants are found, equal servers stay equal, and nothing is counted that must not be."""

import asyncio
import itertools
import random
from collections.abc import Callable, Sequence

import pytest
from fast_sprites.nodes.benchmark.bench.method import MAX_REJECTED, FailedRunError, Limits, RejectedRunError, alternate
from fast_sprites.nodes.benchmark.bench.record import Run, SideRecord
from fast_sprites.nodes.benchmark.bench.statistics import median, paired_ratio

Noise = Callable[[random.Random, float], float]  # (numbers, time since the start) -> factor


def steady(numbers: random.Random, _now: float) -> float:
    return numbers.gauss(1.0, 0.01)


def skewed(numbers: random.Random, _now: float) -> float:
    """A machine with neighbours: mostly 3 %, now and then half as slow again."""
    return numbers.lognormvariate(0.0, 0.03) * (1.5 if numbers.random() < 0.1 else 1.0)


def warming(numbers: random.Random, now: float) -> float:
    """A card that slows down as it heats up."""
    return (1.0 + 0.2 * (1 - 2 ** (-now / 60))) * numbers.gauss(1.0, 0.01)


class SimulatedServer:
    """Draws in made-up time: side N takes `base_s[N]`, times noise."""

    def __init__(self, base_s: Sequence[float], noise: Noise, seed: int) -> None:
        self.base_s, self.noise, self.numbers = base_s, noise, random.Random(seed)
        self.now = 0.0
        self.drawn: list[tuple[int, int]] = []
        self.kinds: list[str] = []

    async def draw(self, number: int, seed: int) -> Run:
        seconds = self.base_s[number] * self.noise(self.numbers, self.now)
        self.now += seconds + 0.05
        self.drawn.append((number, seed))
        return Run(seed=seed, server_s=seconds, wall_s=seconds + 0.05, spans_s={}, step_s=None)

    def run_done(self, side: SideRecord, kind: str, run: Run) -> None:
        assert run.server_s > 0
        self.kinds.append(f"{side.name} {kind}")


def sides(*names: str) -> list[SideRecord]:
    return [SideRecord(name, name, lossy=False, optimizers={}) for name in names or ("A", "B")]


def measure(server: SimulatedServer, measured: list[SideRecord], **limits: float) -> str:
    chosen = Limits(**{"budget_s": 120.0, **limits})  # type: ignore[arg-type]
    seeds = itertools.count(100)
    return asyncio.run(alternate(measured, server.draw, chosen, lambda: next(seeds), server, clock=lambda: server.now))


@pytest.mark.parametrize("noise", [steady, skewed, warming])
@pytest.mark.parametrize(("base_s", "planted_s"), [(2.0, 0.5), (2.0, -0.5), (10.0, -5.0)])
def test_a_planted_delay_is_found_with_its_size_and_sign(noise: Noise, base_s: float, planted_s: float):
    a, b = measured = sides()
    measure(SimulatedServer([base_s, base_s + planted_s], noise, seed=1), measured, budget_s=240.0)
    ratio = paired_ratio(a.times_s, b.times_s)
    assert ratio.verdict == ("slower" if planted_s > 0 else "faster")
    assert ratio.low < 1 + planted_s / base_s < ratio.high
    assert median(b.times_s).value - median(a.times_s).value == pytest.approx(planted_s, rel=0.25)


@pytest.mark.parametrize("noise", [steady, skewed, warming])
def test_equal_servers_show_no_difference_in_20_of_20_runs(noise: Noise):
    verdicts: list[str] = []
    for seed in range(20):
        a, b = measured = sides()
        measure(SimulatedServer([2.0, 2.0], noise, seed), measured, budget_s=80.0)
        verdicts.append(paired_ratio(a.times_s, b.times_s).verdict)
    assert verdicts == ["no difference"] * 20


@pytest.mark.parametrize(("noise", "budget_s"), [(steady, 40.0), (skewed, 40.0), (warming, 40.0), (steady, 600.0)])
def test_false_alarms_are_rarer_than_one_in_a_hundred(noise: Noise, budget_s: float):
    """With the long budget the rounds end by themselves, after a look at the medians each time."""
    alarms = 0
    for seed in range(1000, 1500):
        a, b = measured = sides()
        stopped = measure(SimulatedServer([2.0, 2.0], noise, seed), measured, budget_s=budget_s)
        assert budget_s < 600 or "median is known" in stopped
        alarms += paired_ratio(a.times_s, b.times_s).verdict != "no difference"
    assert alarms < 5


def test_sides_take_turns_with_one_seed_a_round_and_warm_up_is_apart():
    server = SimulatedServer([1.0, 1.0, 1.0], steady, seed=1)
    measured = sides("A", "B", "C")
    stopped = measure(server, measured, max_rounds=3, num_warm_ups=2)
    assert stopped == "3 rounds were made"
    assert server.drawn == [(number, seed) for seed in range(100, 105) for number in range(3)]
    assert server.kinds == [f"{name} {kind}" for kind in ["warm-up"] * 2 + ["run"] * 3 for name in "ABC"]
    for side in measured:
        assert [run.seed for run in side.warm_ups] == [100, 101]
        assert [run.seed for run in side.runs] == [102, 103, 104]


def test_it_stops_when_every_median_is_known():
    measured = sides()
    stopped = measure(SimulatedServer([1.0, 2.0], lambda numbers, _: numbers.gauss(1.0, 0.002), seed=1), measured, budget_s=1e6)
    assert stopped == "every median is known within 1.0%"
    assert 6 <= len(measured[0].runs) < 20
    for side in measured:
        assert median(side.times_s).level >= 0.95
        assert median(side.times_s).half_width <= 0.01


def test_it_stops_when_the_budget_ends():
    server = SimulatedServer([10.0, 20.0], skewed, seed=1)
    stopped = measure(server, sides(), budget_s=200.0, tight=0.0001)
    assert stopped == "the budget of 200 s ended"
    assert 170 < server.now < 230


def test_one_round_is_measured_whatever_the_budget():
    measured = sides()
    measure(SimulatedServer([10.0, 20.0], steady, seed=1), measured, budget_s=0.0)
    assert [len(side.runs) for side in measured] == [1, 1]


class Flaky(SimulatedServer):
    """Raises what `troubles` says for the N-th draw."""

    def __init__(self, troubles: dict[int, BaseException]) -> None:
        super().__init__([1.0, 1.0], steady, seed=1)
        self.troubles = troubles
        self.calls = 0

    async def draw(self, number: int, seed: int) -> Run:
        self.calls += 1
        if self.calls - 1 in self.troubles:
            raise self.troubles[self.calls - 1]
        return await super().draw(number, seed)


def test_a_run_from_the_cache_is_not_counted_but_told():
    a, b = measured = sides()
    measure(Flaky({3: RejectedRunError("KSampler came from ComfyUI's cache")}), measured, max_rounds=4)
    assert len(a.runs) == len(b.runs) == 4
    assert [(rejected.seed, rejected.reason) for rejected in b.rejected] == [(101, "KSampler came from ComfyUI's cache")]
    assert not a.rejected
    assert b.runs[0].seed == 102  # another seed, or it would come from the cache again


def test_a_side_whose_runs_are_all_cached_gives_up():
    measured = sides()
    troubles = {call: RejectedRunError("cached") for call in range(1, 1 + MAX_REJECTED)}
    measure(Flaky(dict(troubles)), measured, max_rounds=2)
    assert measured[1].failure == "3 runs in a row were rejected: cached"
    assert not measured[1].runs
    assert len(measured[0].runs) == 2


def test_a_side_that_runs_out_of_memory_drops_out_and_the_other_goes_on():
    a, b = measured = sides()
    measure(Flaky({3: FailedRunError("KSampler failed: OutOfMemoryError: no memory")}), measured, max_rounds=3)
    assert b.failure == "KSampler failed: OutOfMemoryError: no memory"
    assert not b.runs
    assert len(a.runs) == 3


def test_no_side_left():
    measured = sides()
    stopped = measure(Flaky({0: FailedRunError("no"), 1: FailedRunError("no")}), measured, max_rounds=3)
    assert stopped == "no side could draw"


@pytest.mark.parametrize("trouble", [KeyboardInterrupt(), asyncio.CancelledError(), OSError("the server is gone")])
def test_an_interruption_leaves_what_was_measured_in_pairs(trouble: BaseException):
    a, b = measured = sides()
    with pytest.raises(type(trouble)):
        measure(Flaky({7: trouble}), measured, max_rounds=9)
    assert [run.seed for run in a.runs] == [101, 102, 103]
    assert [run.seed for run in b.runs] == [101, 102]
    assert paired_ratio(a.times_s, b.times_s) == paired_ratio(a.times_s[:2], b.times_s)
