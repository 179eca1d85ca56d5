"""Per-node peak and growth of a finished run, and the warning that memory stays."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from .timeline import Run, Span

NUM_LEAK_RUNS = 5
MIN_LEAK_GIB = 0.1
"""Least growth over these runs that is worth a line; Python's own heap moves by less."""
MIN_STEP_GIB = 0.004
"""Least growth from run to run: a rise that stops is a cache that has filled."""


def table(run: Run) -> list[dict[str, Any]]:
    """Return one row for each finished node of the run, in the order in which they started; GiB as the names say."""
    return [_row(span) for span in run.spans if span.end is not None]


def _row(span: Span) -> dict[str, Any]:
    start, end = span.start, span.end
    assert end is not None
    peak, is_exact = span.peak_allocated_gib, False
    # torch's peak counts since somebody's reset. Where it rose during the node it is the node's own.
    if end.peak_allocated_gib is not None and start.peak_allocated_gib is not None:
        is_exact = end.peak_allocated_gib > start.peak_allocated_gib
        peak = end.peak_allocated_gib if is_exact else peak
    return {
        "node_id": span.node_id,
        "class_type": span.class_type,
        "seconds": round(end.time_s - start.time_s, 4),
        "peak_allocated_gib": _rounded(peak),
        "is_peak_exact": is_exact,
        "allocated_growth_gib": _difference(start.allocated_gib, end.allocated_gib),
        "reserved_growth_gib": _difference(start.reserved_gib, end.reserved_gib),
        "peak_process_gib": _rounded(span.peak_process_gib),
        "process_growth_gib": _difference(start.process_gib, end.process_gib),
    }


def _rounded(gib: float | None) -> float | None:
    return None if gib is None else round(gib, 4)


def _difference(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else round(after - before, 4)


def leak_line(runs: Sequence[Run]) -> str:
    """Return a sentence if what is left after a run rose in every one of the last five, else an empty text.

    Models that ComfyUI holds and CUDA graphs of this pack are not counted on the device: another model or picture size is no leak.
    """
    ended = [run for run in runs if run.end is not None][-NUM_LEAK_RUNS:]
    if len(ended) < NUM_LEAK_RUNS:
        return ""
    for what, floor_of in (("torch's memory", _device_floor), ("this process's RAM", _process_floor)):
        floors = [floor for run in ended if (floor := floor_of(run)) is not None]
        steps = [after - before for before, after in pairwise(floors)]
        if len(floors) == NUM_LEAK_RUNS and min(steps) >= MIN_STEP_GIB and sum(steps) >= MIN_LEAK_GIB:
            return (
                f"The floor of {what} rose after each of the last {NUM_LEAK_RUNS} runs, by {sum(steps):.1f} GiB in all: "
                "something keeps memory from run to run."
            )
    return ""


def _device_floor(run: Run) -> float | None:
    assert run.end is not None
    return None if run.end.allocated_gib is None else run.end.allocated_gib - run.held_gib


def _process_floor(run: Run) -> float:
    assert run.end is not None
    return run.end.process_gib
