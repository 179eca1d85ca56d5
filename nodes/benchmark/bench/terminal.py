"""Progress and summary on a terminal: plain lines, or rich's if it is installed."""

import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from . import markdown
from .record import Record, Run, ScenarioRecord, SideRecord


class PlainProgress:
    """One line a run, on stderr."""

    def __init__(self) -> None:
        """The time counts from the first scenario."""
        self.end = 0.0
        self._told: set[str] = set()

    def scenario_started(self, scenario: ScenarioRecord, number: int, total: int, budget_s: float) -> None:
        """Print the scenario's heading."""
        self.end = time.monotonic() + budget_s
        self.say(f"[{number}/{total}] {scenario.name}: {scenario.title}, {budget_s:.0f} s and at least one round")

    def run_done(self, side: SideRecord, kind: str, run: Run) -> None:
        """Print one run and the time left for its scenario."""
        self.say(f"  {side.name:12} {kind:9} {run.server_s:8.3f} s, {self.left_s:4.0f} s left")
        for reason in set(run.disturbances) - self._told:
            self.say(f"  disturbed: {reason}")
            self._told.add(reason)

    @property
    def left_s(self) -> float:
        """Seconds until the scenario's budget ends."""
        return max(0.0, self.end - time.monotonic())

    def say(self, line: str) -> None:
        """Print a line."""
        print(line, file=sys.stderr, flush=True)


class RichProgress(PlainProgress):
    """The same lines above a bar that shows how much of the scenario's time is over."""

    def __init__(self, bar: Any) -> None:
        """`bar` is a running rich.progress.Progress."""
        super().__init__()
        self._bar, self._task, self._budget_s = bar, None, 0.0

    def scenario_started(self, scenario: ScenarioRecord, number: int, total: int, budget_s: float) -> None:
        """Begin the bar anew."""
        super().scenario_started(scenario, number, total, budget_s)
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._budget_s = budget_s
        self._task = self._bar.add_task(f"{number}/{total} {scenario.name}", total=budget_s)

    def run_done(self, side: SideRecord, kind: str, run: Run) -> None:
        """Move the bar."""
        super().run_done(side, kind, run)
        self._bar.update(self._task, completed=self._budget_s - self.left_s)

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        self._bar.console.print(line, markup=False, highlight=False)


@contextmanager
def make_progress() -> Generator[PlainProgress, None, None]:
    """What shows the progress during the block: a bar on a terminal with rich, else lines."""
    if not sys.stderr.isatty():
        yield PlainProgress()
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    except ImportError:
        yield PlainProgress()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} % of its time"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        yield RichProgress(bar)


# A ladder's sides stand below one another, so that fewer figures fit beside them.
FEW_SIDES = 3
MANY_SIDES = ("", "median s", "runs", "speed-up", "fidelity to stock", "peak GiB")


def summary(record: Record) -> None:
    """Print every scenario's table."""
    for scenario in record.scenarios:
        print(f"\n{scenario.name}: {scenario.title} ({markdown.card(record)})")
        _print_table(*_layout(markdown.rows(scenario)))
    if record.partial:
        print(f"\nPartial: {record.partial}")


def _layout(rows: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """Header and rows that fit a terminal: sides beside one another if they are few."""
    if len(rows) > FEW_SIDES:
        kept = [markdown.HEADER.index(name) for name in MANY_SIDES]
        return list(MANY_SIDES), [[row[column] for column in kept] for row in rows]
    header, *figures = [[name, *values] for name, *values in zip(markdown.HEADER, *rows, strict=True)]
    return header, [figure for figure in figures if any(figure[1:])]


def _print_table(header: list[str], rows: list[list[str]]) -> None:
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        print(plain_table(header, rows))
        return
    table = Table()
    for cell in header:
        table.add_column(Text(cell))
    for row in rows:
        table.add_row(*map(Text, row))  # Text, for a record may come from anywhere and rich reads [markup] in strings
    Console().print(table)


def plain_table(header: list[str], rows: list[list[str]]) -> str:
    """The table as aligned text."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)
