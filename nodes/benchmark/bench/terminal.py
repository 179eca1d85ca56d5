"""Progress and summary on a terminal: plain lines, or rich's if it is installed."""

import sys
import time
from typing import Any

from . import markdown
from .record import Record, Run, ScenarioRecord, SideRecord


class PlainProgress:
    """One line a run, on stderr."""

    def __init__(self) -> None:
        """The time counts from the first scenario."""
        self._end = 0.0

    def scenario_started(self, scenario: ScenarioRecord, number: int, total: int, budget_s: float) -> None:
        """Print the scenario's heading."""
        self._end = time.monotonic() + budget_s
        self._say(f"[{number}/{total}] {scenario.name}: {scenario.title}, up to {budget_s:.0f} s")

    def run_done(self, side: SideRecord, kind: str, run: Run) -> None:
        """Print one run and the time left."""
        left = max(0.0, self._end - time.monotonic())
        disturbed = f" ({run.disturbances[0]})" if run.disturbances else ""
        self._say(f"  {side.name:12} {kind:9} {run.server_s:8.3f} s, {left:4.0f} s left{disturbed}")

    def _say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


def summary(record: Record) -> None:
    """Print every scenario's table."""
    for scenario in record.scenarios:
        print(f"\n{scenario.name}: {scenario.title} ({markdown.card(record)})")
        _print_table(markdown.HEADER, markdown.rows(scenario))
    if record.partial:
        print(f"\nPartial: {record.partial}")


def _print_table(header: tuple[str, ...], rows: list[list[str]]) -> None:
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        print(_plain_table(header, rows))
        return
    table = Table(*header)
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def _plain_table(header: tuple[str, ...], rows: list[list[str]]) -> str:
    """Sides as columns: a row for each figure, so that it fits into 80 characters."""
    lines: list[Any] = [[name, *values] for name, *values in zip(header, *rows, strict=True) if any(values)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(rows) + 1)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)
