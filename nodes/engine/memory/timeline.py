"""What the memory did over the last minutes: samples, the nodes that ran, and where probes stood.

The start and the end of every node are samples too, so that a run leaves a curve when nobody watches.
"""

import threading
from collections import deque
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from .samples import Sample

CAPACITY = 7200
"""Samples kept: half an hour at 4 Hz, six minutes at 20 Hz."""
NUM_RUNS = 20
MAX_SPANS = 500
"""Nodes kept of one run; graphs that expand into loops have more."""
MAX_MARKS = 200
COLUMNS = ("seq", "time_s", "active_gib", "reserved_gib", "driver_gib", "ram_gib", "process_gib", "graphs_gib")
"""Order of the numbers in a row of the history; from the third on they are a sample's."""


@dataclass
class Span:
    """One execution of a node."""

    node_id: str
    """As the workflow names it: `2:1` is node 1 inside subgraph node 2."""
    class_type: str
    start: Sample
    end: Sample | None = None
    peak_allocated_gib: float | None = None
    peak_process_gib: float = 0.0
    """Highest of all samples between start and end, both included."""

    def see(self, sample: Sample) -> None:
        """Let a sample raise the peaks."""
        if sample.allocated_gib is not None:
            self.peak_allocated_gib = max(self.peak_allocated_gib or 0.0, sample.allocated_gib)
        self.peak_process_gib = max(self.peak_process_gib, sample.process_gib)


@dataclass
class Run:
    """One prompt, from its start to its end, success or not."""

    number: int
    start_s: float
    end: Sample | None = None
    held_gib: float = 0.0
    """What models and CUDA graphs held of torch's memory when the run ended: they stay on purpose."""
    spans: list[Span] = field(default_factory=list)
    num_left_out: int = 0
    """Executions beyond the first 500."""
    last_change: int = 0
    """The timeline's count of changes when this run last changed."""


@dataclass(frozen=True)
class Mark:
    """A MemoryProbe that a run passed."""

    time_s: float
    node_id: str
    workflow_id: str | None
    """None for a prompt that did not come from a workflow, as one queued by API."""


class Timeline:
    """Bounded in every part; safe to use from several threads."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        """Make an empty timeline that keeps the last `capacity` samples."""
        self._lock = threading.Lock()
        self._rows: deque[tuple[int | float | None, ...]] = deque(maxlen=capacity)
        self._runs: deque[Run] = deque(maxlen=NUM_RUNS)
        self._marks: deque[Mark] = deque(maxlen=MAX_MARKS)
        self._open: dict[str, Span] = {}
        self._seq = 0
        self._num_runs = 0
        self._num_changes = 0
        self.problem = ""
        """Why the last sample has no figures of the device; empty if it has."""

    def add(self, sample: Sample) -> None:
        """Append a sample and forget the oldest one beyond the capacity."""
        with self._lock:
            self._append(sample)
            for span in self._open.values():
                span.see(sample)

    def _append(self, sample: Sample) -> None:
        self._seq += 1
        figures = (getattr(sample, name) for name in COLUMNS[2:])
        rounded = (None if figure is None else round(figure, 4) for figure in figures)
        self._rows.append((self._seq, round(sample.time_s, 3), *rounded))
        self.problem = sample.problem

    def start_run(self, time_s: float) -> None:
        """Begin a prompt."""
        with self._lock:
            self._open.clear()
            self._num_runs += 1
            self._runs.append(Run(self._num_runs, time_s))
            self._count_change(self._runs[-1])

    def start_node(self, key: str, node_id: str, class_type: str, sample: Sample) -> None:
        """Begin a node of the last run; a node that starts again, as after lazy inputs, counts from there."""
        with self._lock:
            if not self._runs or self._runs[-1].end is not None:
                return
            run = self._runs[-1]
            if key in self._open:
                run.spans.remove(self._open.pop(key))
            if len(run.spans) >= MAX_SPANS:
                run.num_left_out += 1
                return
            self._append(sample)
            span = Span(node_id, class_type, sample)
            span.see(sample)
            self._open[key] = span
            run.spans.append(span)
            self._count_change(run)

    def finish_node(self, key: str, sample: Sample) -> None:
        """End a node; ones that never started were cached and leave no span."""
        with self._lock:
            span = self._open.pop(key, None)
            if span is not None:
                self._append(sample)
                span.see(sample)
                span.end = sample
                self._count_change(self._runs[-1])

    def end_run(self, sample: Sample, held_gib: float) -> None:
        """End the prompt; nodes that were interrupted or failed end with it."""
        with self._lock:
            for span in self._open.values():
                span.see(sample)
                span.end = sample
            self._open.clear()
            if self._runs:
                self._runs[-1].end = sample
                self._runs[-1].held_gib = held_gib
                self._count_change(self._runs[-1])

    def _count_change(self, run: Run) -> None:
        self._num_changes += 1
        run.last_change = self._num_changes

    def mark(self, mark: Mark) -> None:
        """Remember where a probe stood."""
        with self._lock:
            self._marks.append(mark)
            self._num_changes += 1

    def clear(self) -> None:
        """Forget samples, finished runs and marks; numbers go on, so that a reader notices."""
        with self._lock:
            running = [run for run in self._runs if run.end is None]
            self._rows.clear()
            self._marks.clear()
            self._runs.clear()
            self._runs.extend(running)
            self._num_changes += 1

    @property
    def position(self) -> tuple[int, int]:
        """Return the number of the last sample and the count of changes to runs and marks."""
        return self._seq, self._num_changes

    def rows_since(self, seq: int, limit: int) -> list[tuple[int | float | None, ...]]:
        """Return the newest rows after number `seq`, at most `limit`, oldest first; columns are COLUMNS."""
        with self._lock:
            num_new = min(len(self._rows), max(self._seq - seq, 0), limit)
            return list(islice(reversed(self._rows), num_new))[::-1]

    def runs(self) -> list[Run]:
        """Return the kept runs, oldest first; the last one may still grow."""
        with self._lock:
            return list(self._runs)

    def spans_json(self, num_runs: int) -> list[dict[str, Any]]:
        """Return the last runs with their spans; `end_s` is None while one lasts."""
        with self._lock:
            return [_run_json(run) for run in list(self._runs)[-num_runs:]]

    def changed_runs_json(self, changes: int) -> list[dict[str, Any]]:
        """Return the runs that have changed after that count of changes, oldest first, as `spans_json` does."""
        with self._lock:
            return [_run_json(run) for run in self._runs if run.last_change > changes]

    def marks_json(self) -> list[dict[str, Any]]:
        """Return the probes' marks, oldest first."""
        with self._lock:
            return [
                {"time_s": round(mark.time_s, 3), "node_id": mark.node_id, "workflow_id": mark.workflow_id}
                for mark in self._marks
            ]


def _run_json(run: Run) -> dict[str, Any]:
    return {
        "run": run.number,
        "start_s": round(run.start_s, 3),
        "end_s": None if run.end is None else round(run.end.time_s, 3),
        "num_left_out": run.num_left_out,
        "spans": [
            {
                "node_id": span.node_id,
                "class_type": span.class_type,
                "start_s": round(span.start.time_s, 3),
                "end_s": None if span.end is None else round(span.end.time_s, 3),
            }
            for span in run.spans
        ],
    }
