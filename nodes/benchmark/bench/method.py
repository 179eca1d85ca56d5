"""How a scenario is measured: its sides in turn, warm-up apart, until the medians are known well enough or the time is over."""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ...engine.errors import PackError
from . import statistics
from .record import Rejected, Run, SideRecord

MAX_REJECTED = 3  # in a row: then something answers every seed from a cache


class RejectedRunError(PackError):
    """A run that must not be counted."""


class FailedRunError(PackError):
    """The side cannot draw: a node raised an error."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """When a scenario has been measured enough.

    `budget_s` is for the whole scenario, first runs and warm-up included; the round that is under way when it ends is finished.
    Medians are known well enough when half of every side's 95 % interval is at most `tight` of its median.
    """

    budget_s: float
    tight: float = 0.01
    min_rounds: int = 6  # fewer values have no 95 % interval
    max_rounds: int = 40
    num_warm_ups: int = 1


class Watch(Protocol):
    """Sees every run as it ends."""

    def run_done(self, side: SideRecord, kind: str, run: Run) -> None:
        """`kind` is "first run", "warm-up" or "run"."""
        ...


Draw = Callable[[int, int], Awaitable[Run]]  # (number of the side, seed)


async def alternate(
    sides: Sequence[SideRecord],
    draw: Draw,
    limits: Limits,
    seeds: Callable[[], int],
    watch: Watch,
    clock: Callable[[], float] = time.monotonic,
) -> str:
    """Fill the sides' warm-ups and runs, A B A B, both with the same seed each round; return why no more rounds were made.

    `limits.budget_s` counts from now. A side that fails drops out with its reason; the others go on.
    """
    end = clock() + limits.budget_s
    for _ in range(limits.num_warm_ups):
        await _round(sides, draw, seeds, watch, "warm-up")
    for num_rounds in range(limits.max_rounds):
        alive = [side for side in sides if not side.failure]
        if not alive:
            return "no side could draw"
        if num_rounds and clock() >= end - _last_round_s(alive) / 2:
            return f"the budget of {limits.budget_s:.0f} s ended"
        if num_rounds >= limits.min_rounds and all(_is_tight(side, limits.tight) for side in alive):
            return f"every median is known within {limits.tight:.1%}"
        await _round(sides, draw, seeds, watch, "run")
    return f"{limits.max_rounds} rounds were made"


async def _round(sides: Sequence[SideRecord], draw: Draw, seeds: Callable[[], int], watch: Watch, kind: str) -> None:
    """One run of every side with one seed, which is another one for a side whose run was rejected."""
    seed = seeds()
    for number, side in enumerate(sides):
        run = None if side.failure else await _counted_run(number, side, draw, seed, seeds)
        if run is not None:
            (side.warm_ups if kind == "warm-up" else side.runs).append(run)
            watch.run_done(side, kind, run)


async def _counted_run(number: int, side: SideRecord, draw: Draw, seed: int, seeds: Callable[[], int]) -> Run | None:
    for _ in range(MAX_REJECTED):
        try:
            return await draw(number, seed)
        except RejectedRunError as error:  # noqa: PERF203
            side.rejected.append(Rejected(seed, str(error)))
            seed = seeds()
        except FailedRunError as error:
            side.failure = str(error)
            return None
    side.failure = f"{MAX_REJECTED} runs in a row were rejected: {side.rejected[-1].reason}"
    return None


def _last_round_s(sides: Sequence[SideRecord]) -> float:
    return sum(side.runs[-1].wall_s for side in sides)


def _is_tight(side: SideRecord, tight: float) -> bool:
    median = statistics.median(side.times_s)
    return median.level >= statistics.LEVEL and median.half_width <= tight
