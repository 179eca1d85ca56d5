"""What `fast-sprites bench` makes of records: report and compare."""

import argparse
import sys
from pathlib import Path

from ...engine.errors import BadInputError
from ..bench import plots, terminal
from ..bench.compare import compare_records
from ..bench.markdown import markdown
from ..bench.record import Record, read_record

REGRESSION = 3  # exit status: 1 is an error, 2 wrong arguments


def write_reports(record: Record, path: Path) -> None:
    """Write a record, its Markdown and, with matplotlib, its plots beside it, and print the summary."""
    record.write(path)
    path.with_suffix(".md").write_text(markdown(record), encoding="utf-8")
    written = {"record": path, "report": path.with_suffix(".md")}
    if plots.is_available() and plots.has_data(record):
        plots.draw_page(record, path.with_suffix(".png"))
        written["plots"] = path.with_suffix(".png")
    terminal.summary(record)
    print()
    for name, file in written.items():
        print(f"{name}: {file}")
    if not plots.is_available():
        print("plots: need matplotlib (pip install matplotlib), then `fast-sprites bench report` draws them from the record")


def run_report(options: argparse.Namespace) -> int:
    """`bench report`."""
    record = read_record(options.record)
    for path in options.out:
        if path.suffix == ".md":
            path.write_text(markdown(record), encoding="utf-8")
        elif path.suffix in plots.FORMATS:
            if not plots.is_available():
                raise BadInputError(f"{path}: plots need matplotlib, which is not installed: pip install matplotlib.")
            if not plots.has_data(record):
                raise BadInputError(f"{path}: there is nothing to plot, the record holds no finished round.")
            plots.draw_page(record, path)
        else:
            raise BadInputError(f"{path}: the report is written as .md, .png or .svg.")
    terminal.summary(record)
    return 0


def run_compare(options: argparse.Namespace) -> int:
    """`bench compare`: 3 if something got slower by more than the threshold."""
    old, new = read_record(options.old), read_record(options.new)
    comparison = compare_records(old, new, options.threshold_pct / 100, options.relative)
    print(comparison.text())
    if comparison.has_regression:
        print(f"fast-sprites bench compare: slower by more than {options.threshold_pct:g} %, beyond the noise", file=sys.stderr)
        return REGRESSION
    return 0
