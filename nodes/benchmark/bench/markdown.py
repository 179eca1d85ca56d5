"""A record as Markdown: what a person reads first, and pastes into an issue."""

import itertools
from collections.abc import Iterator
from typing import Any

from . import statistics
from .record import Fidelity, PeakMemory, Record, Run, ScenarioRecord, SideRecord

HEADER = (
    "",
    "median s",
    "interval s",
    "runs",
    "s / picture",
    "pictures / min",
    "speed-up",
    "fidelity to stock",
    "peak GiB",
    "first run s",
)


LOW_CLOCK = 0.95  # of the median clock; cards under load move by a few percent


def markdown(record: Record) -> str:
    """The whole report."""
    parts = ["# Fast Sprites benchmark", *_about(record)]
    for scenario in record.scenarios:
        parts += [f"## {scenario.name}: {scenario.title}", table(scenario), *_remarks(scenario)]
    return "\n\n".join([*parts, METHOD]) + "\n"


METHOD = """## How to read this

*median*: seconds of a prompt on the server, from the start of its execution to its end, saving included. *interval*: where the true median
lies with the probability given (exact, from order statistics; six runs reach 95 %). *speed-up*: stock's time divided by this side's, from
rounds in which every side drew the same seed in turn, with its 99.9 % interval; a difference is only called one if that interval excludes
1 and it is at least 1 %. *fidelity*: the worst picture against stock's picture of the same seed. *peak*: of the first run, from an empty
card; the driver's figure where it could be read, else torch's reserved memory and DynamicVRAM's weights, else the process's RAM.
*first run*: with loading, compiling and autotuning; in no other figure."""


def _about(record: Record) -> Iterator[str]:
    if record.partial:
        yield f"**Partial: {record.partial}**"
    machine, method = record.machine, record.method
    rows = {
        "card": card(record),
        "driver": machine.get("card", {}).get("driver", ""),
        "power limit": _with_unit(machine.get("card", {}).get("power_limit_w"), "W"),
        "ComfyUI": machine["system"].get("comfyui_version", ""),
        "torch": machine["system"].get("pytorch_version", ""),
        "Python": machine["system"].get("python_version", "").split(" ")[0],
        "system": machine["system"].get("os", ""),
        "server's flags": " ".join(machine["system"].get("argv", [])),
        "pack": record.pack_version,
        "command": f"`{record.command}`",
        "measured": f"{record.started_utc} to {record.finished_utc or '?'}",
        "checkpoint": method.get("checkpoint") or "each workflow's own",
    }
    yield "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows.items() if value)])
    if record.notes:
        yield "\n".join(f"- {note}" for note in record.notes)


def card(record: Record) -> str:
    """The device as the driver or the server calls it."""
    device: dict[str, Any] = record.machine["devices"][0]
    return record.machine.get("card", {}).get("name") or device["name"]


def _with_unit(value: Any, unit: str) -> str:
    return f"{value} {unit}" if value is not None else ""


def table(scenario: ScenarioRecord) -> str:
    """One scenario's sides as a Markdown table."""
    lines = ["| " + " | ".join(HEADER) + " |", "|" + " --- |" * len(HEADER)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows(scenario)])


def rows(scenario: ScenarioRecord) -> list[list[str]]:
    """The cells of the table, a row for each side; a speed without its fidelity is never among them."""
    base = scenario.sides[0]
    return [_row(base, side, scenario.num_pictures) for side in scenario.sides]


def _row(base: SideRecord, side: SideRecord, pictures: int) -> list[str]:
    name = f"{side.name} (lossy)" if side.lossy else side.name
    first = f"{side.first_run.server_s:.2f}" if side.first_run else ""
    peak = peak_gib(side.memory)
    ending = ["" if peak is None else f"{peak[0]:.2f} ({peak[1]})", first]
    if not side.runs:
        return [name, side.failure or "not measured", *[""] * 6, *ending]
    if side is not base and side.fidelity is None:
        return [name, "not shown: no saved picture to compare with stock's", "", str(len(side.runs)), *[""] * 4, *ending]
    median = statistics.median(side.times_s)
    per_picture = [f"{median.value / pictures:.3f}", f"{60 * pictures / median.value:.1f}"] if pictures else ["", ""]
    return [
        name,
        f"{median.value:.3f}",
        f"{median.low:.3f} to {median.high:.3f} ({median.level:.0%})",
        str(median.num_runs),
        *per_picture,
        "" if side is base else speed_up(base, side),
        "" if side is base or side.fidelity is None else fidelity_text(side.fidelity),
        *ending,
    ]


def speed_up(base: SideRecord, side: SideRecord) -> str:
    """How many times as fast a side is as the base, with interval and verdict."""
    if not base.runs:
        return f"{base.name} drew nothing"
    ratio = statistics.paired_ratio(base.times_s, side.times_s)
    if ratio.verdict == "too few runs":
        return f"{1 / ratio.value:.2f}x (fewer than {statistics.MIN_RATIOS} rounds: no interval)"
    high = f"{1 / ratio.low:.2f}" if ratio.low > 0.001 else "any"
    return f"{1 / ratio.value:.2f}x ({1 / ratio.high:.2f} to {high}): {ratio.verdict}"


def fidelity_text(fidelity: Fidelity) -> str:
    """The worst picture in a few words."""
    if fidelity.worst_psnr_db is None:
        return f"identical ({fidelity.num_pictures} pictures)"
    worst = f"PSNR {fidelity.worst_psnr_db:.1f} dB, SSIM {fidelity.worst_ssim:.4f}, error {fidelity.max_error}/255"
    return f"{worst} ({fidelity.num_pictures} pictures)"


def peak_gib(memory: PeakMemory | None) -> tuple[float, str] | None:
    """The peak to compare sides by, and where it comes from."""
    if memory is None:
        return None
    if memory.driver_gib is not None:
        return memory.driver_gib, "driver"
    if memory.torch_reserved_gib is not None:
        return memory.torch_reserved_gib + (memory.dynamic_vram_gib or 0.0), "torch"
    return memory.process_ram_gib, "RAM"


def _remarks(scenario: ScenarioRecord) -> Iterator[str]:
    yield "\n".join(f"- {line}" for line in _remark_lines(scenario))
    for side in scenario.sides:
        if side.reports:
            yield f"What the optimisers said on *{side.name}*:\n\n```\n" + "\n".join(side.reports) + "\n```"


def _remark_lines(scenario: ScenarioRecord) -> Iterator[str]:
    if scenario.stopped:
        yield f"Measured until {scenario.stopped}."
    yield from _same_as_before(scenario.sides)
    for side in scenario.sides:
        yield f"*{side.name}*: {side.title}" + (". " + time_shares(side.runs) if side.runs else "")
        if side.failure:
            yield f"*{side.name}*: {side.failure.rstrip('.')}."
        if side.rejected:
            yield f"*{side.name}*: {len(side.rejected)} runs were not counted: {side.rejected[0].reason}."
        if conditions := _conditions(side.runs):
            yield f"*{side.name}*: {conditions}."
        disturbed = [reasons for reasons in disturbances(side.runs) if reasons]
        if disturbed:
            reasons = sorted({reason for found in disturbed for reason in found})
            yield f"*{side.name}*: {len(disturbed)} of {len(side.runs)} runs were disturbed: {'; '.join(reasons)}."


def _conditions(runs: list[Run]) -> str:
    """The card's clock, heat and power over all runs."""
    devices = [run.device for run in runs if run.device]
    if not devices:
        return ""
    clocks = [device.sm_clock_mhz for device in devices if device.sm_clock_mhz is not None]
    heat = [device.temperature_c for device in devices if device.temperature_c is not None]
    power = [device.power_w for device in devices if device.power_w is not None]
    words = [f"at {min(clocks)} to {max(clocks)} MHz"] if clocks else []
    words += [f"up to {max(heat)} degrees C"] if heat else []
    words += [f"up to {max(power):.0f} W"] if power else []
    return f"the card ran {', '.join(words)}" if words else ""


def disturbances(runs: list[Run]) -> list[list[str]]:
    """What may have slowed each run down; a clock can only be called low beside those of the other runs."""
    clocks = [run.device.sm_clock_mhz if run.device else None for run in runs]
    told = [clock for clock in clocks if clock is not None]
    usual = statistics.median(told).value if told else 0.0
    low = f"the card's clock was more than {1 - LOW_CLOCK:.0%} below its median"
    return [
        run.disturbances + ([low] if clock is not None and clock < LOW_CLOCK * usual else [])
        for run, clock in zip(runs, clocks, strict=True)
    ]


def _same_as_before(sides: list[SideRecord]) -> Iterator[str]:
    """The rungs of a ladder that add nothing on this machine."""
    for before, side in itertools.pairwise(sides):
        if side.reports and before.reports and _applied(side) == _applied(before):
            yield f"*{side.name}* applies the same as *{before.name}* on this machine, for the reasons given below."


def _applied(side: SideRecord) -> set[str]:
    return {line for report in side.reports for line in report.splitlines() if line.startswith("applied: ")}


def median_spans_s(runs: list[Run]) -> dict[str, float]:
    """Median seconds by class of node."""
    names = {name: None for run in runs for name in run.spans_s}
    return {name: statistics.median([run.spans_s.get(name, 0.0) for run in runs]).value for name in names}


def time_shares(runs: list[Run]) -> str:
    """Where the time of the runs goes, nodes below one percent left out."""
    total = statistics.median([run.server_s for run in runs]).value
    shares = [f"{name} {seconds:.2f} s" for name, seconds in median_spans_s(runs).items() if seconds > 0.01 * total]
    steps = [run.step_s for run in runs if run.step_s is not None]
    step = f"; a step {statistics.median(steps).value * 1000:.1f} ms" if steps else ""
    return ", ".join(shares) + step
