"""A record as one page of plots (matplotlib): time and memory against batch, where the time goes, stock beside the others."""

import importlib
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import markdown, statistics
from .record import Record, ScenarioRecord, SideRecord

FORMATS = (".png", ".svg")
BATCH_NAME = re.compile(r"batch(\d+)")
STOCK_COLOUR = "#8c8c8c"
# Okabe and Ito's palette: told apart by colour-blind readers too.
COLOURS = ("#0072b2", "#009e73", "#e69f00", "#cc79a7", "#56b4e9", "#d55e00")


def is_available() -> bool:
    """Tell whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def has_data(record: Record) -> bool:
    """Tell whether there is anything to draw."""
    return any(side.runs for scenario in record.scenarios for side in scenario.sides)


def draw_page(record: Record, path: Path) -> None:
    """Write the page, in the format of the file's name; panels without data are left out."""
    figures: Any = importlib.import_module("matplotlib.figure")
    measured = [scenario for scenario in record.scenarios if any(side.runs for side in scenario.sides)]
    batches = _batches(measured)
    panels: list[Callable[[Any], None]] = [lambda axes: _beside(axes, measured), lambda axes: _where_time_goes(axes, measured)]
    if len(batches) > 1:
        panels.append(lambda axes: _time_against_batch(axes, batches))
        if any(side.memory for scenario in batches.values() for side in scenario.sides):
            panels.append(lambda axes: _memory_against_batch(axes, batches))
    num_bars = sum(len(scenario.sides) for scenario in measured)
    height = max(3.5, 0.4 * num_bars + 1.5)
    rows = (len(panels) + 1) // 2
    figure = figures.Figure(figsize=(15, height + 4.5 * (rows - 1) + 0.6), layout="constrained")
    figure.suptitle(f"{markdown.card(record)}, {record.started_utc[:10]}" + (" (partial)" if record.partial else ""))
    grid = figure.subplots(rows, 2, squeeze=False, gridspec_kw={"height_ratios": [height, 4.5][:rows]})
    for panel, axes in zip(panels, grid.flat, strict=False):
        panel(axes)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _batches(scenarios: list[ScenarioRecord]) -> dict[int, ScenarioRecord]:
    found: dict[int, ScenarioRecord] = {}
    for scenario in scenarios:
        match = BATCH_NAME.fullmatch(scenario.name)
        size = 1 if scenario.name == "single" else int(match[1]) if match else 0
        if size:
            found[size] = scenario
    return dict(sorted(found.items()))


def _colour(number: int) -> str:
    return STOCK_COLOUR if number == 0 else COLOURS[(number - 1) % len(COLOURS)]


def _beside(axes: Any, scenarios: list[ScenarioRecord]) -> None:
    """Median seconds of every side with their intervals; the speed-up and the fidelity beside each bar."""
    labels: list[str] = []
    longest = 0.0
    for scenario in scenarios:
        for number, side in enumerate(scenario.sides):
            if not _is_shown(scenario, side):
                continue
            median = statistics.median(side.times_s)
            longest = max(longest, median.high)
            reach = [[median.value - median.low], [median.high - median.value]]
            axes.barh(len(labels), median.value, xerr=reach, color=_colour(number), capsize=3)
            axes.text(median.high, len(labels), "  " + _bar_text(scenario.sides[0], side), va="center", fontsize=8)
            labels.append(f"{scenario.name}: {side.name}")
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_xlim(0, longest * 1.9)
    axes.set_xlabel("seconds on the server, median and its interval")
    axes.set_title("Stock beside the others")


def _is_shown(scenario: ScenarioRecord, side: SideRecord) -> bool:
    """A speed without its fidelity is not shown."""
    return bool(side.runs) and (side is scenario.sides[0] or side.fidelity is not None)


def _bar_text(base: SideRecord, side: SideRecord) -> str:
    if side is base or side.fidelity is None or not base.runs:
        return f"{statistics.median(side.times_s).value:.2f} s"
    psnr = side.fidelity.worst_psnr_db
    ratio = statistics.paired_ratio(base.times_s, side.times_s)
    return f"{1 / ratio.value:.2f}x ({ratio.verdict}), {'identical' if psnr is None else f'{psnr:.0f} dB'}"


def _where_time_goes(axes: Any, scenarios: list[ScenarioRecord]) -> None:
    """Seconds by class of node, stacked."""
    bars = [
        (f"{s.name}: {side.name}", markdown.median_spans_s(side.runs))
        for s in scenarios
        for side in s.sides
        if _is_shown(s, side)
    ]
    names = list(
        dict.fromkeys(name for _, spans in bars for name, seconds in spans.items() if seconds > 0.01 * sum(spans.values()))
    )
    left = [0.0] * len(bars)
    for number, name in enumerate(names):
        widths = [spans.get(name, 0.0) for _, spans in bars]
        axes.barh(range(len(bars)), widths, left=left, label=name, color=COLOURS[number % len(COLOURS)])
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.set_yticks(range(len(bars)), [label for label, _ in bars])
    axes.invert_yaxis()
    axes.set_xlabel("seconds, median of each kind of node")
    axes.set_title("Where the time goes")
    axes.legend(fontsize=8)


def _side_names(batches: dict[int, ScenarioRecord]) -> list[str]:
    return list(dict.fromkeys(side.name for scenario in batches.values() for side in scenario.sides))


def _time_against_batch(axes: Any, batches: dict[int, ScenarioRecord]) -> None:
    for number, name in enumerate(_side_names(batches)):
        points: list[tuple[int, float, float, float]] = []
        for size, scenario in batches.items():
            for side in scenario.sides:
                if side.name == name and _is_shown(scenario, side):
                    median = statistics.median(side.times_s)
                    points.append((size, median.value / size, median.low / size, median.high / size))
        sizes, values, lows, highs = zip(*points, strict=True) if points else ((), (), (), ())
        reach = [
            [v - low for v, low in zip(values, lows, strict=True)],
            [high - v for v, high in zip(values, highs, strict=True)],
        ]
        axes.errorbar(sizes, values, yerr=reach, marker="o", capsize=3, color=_colour(number), label=name)
    _batch_axis(axes, batches)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("seconds a picture")
    axes.set_title("Time per picture against batch")


def _memory_against_batch(axes: Any, batches: dict[int, ScenarioRecord]) -> None:
    source = ""
    for number, name in enumerate(_side_names(batches)):
        points: list[tuple[int, float]] = []
        for size, scenario in batches.items():
            for side in scenario.sides:
                peak = markdown.peak_gib(side.memory) if side.name == name else None
                if peak is not None:
                    points.append((size, peak[0]))
                    source = peak[1]
        axes.plot([size for size, _ in points], [gib for _, gib in points], marker="o", color=_colour(number), label=name)
    _batch_axis(axes, batches)
    axes.set_ylim(bottom=0)
    axes.set_ylabel(f"peak GiB of a first run ({source})")
    axes.set_title("Memory against batch")


def _batch_axis(axes: Any, batches: dict[int, ScenarioRecord]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(batches), [str(size) for size in batches])
    axes.set_xlabel("pictures a batch")
    axes.legend()
    axes.grid(visible=True, alpha=0.3)
