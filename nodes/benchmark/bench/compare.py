"""Two records side by side: what got faster or slower beyond the noise."""

from collections.abc import Iterator
from dataclasses import dataclass

from . import markdown, statistics
from .record import Record, RecordError, ScenarioRecord, SideRecord


@dataclass(frozen=True)
class Change:
    """One side of one scenario in both records; `ratio` is new time to old, `is_regression` slower by more than the threshold."""

    scenario: str
    side: str
    old_s: float
    new_s: float
    ratio: statistics.Ratio
    is_regression: bool


@dataclass(frozen=True)
class Comparison:
    """All changes, and what makes the records hard to compare or differs beside the times, one sentence each."""

    changes: list[Change]
    notes: list[str]

    @property
    def has_regression(self) -> bool:
        """Tell whether anything got slower by more than the threshold."""
        return any(change.is_regression for change in self.changes)

    def text(self) -> str:
        """The comparison as lines for a terminal."""
        lines = [_line(change) for change in self.changes]
        return "\n".join(lines + [f"note: {note}" for note in self.notes])


def _line(change: Change) -> str:
    ratio = change.ratio
    interval = "" if ratio.verdict == "too few runs" else f" ({ratio.low - 1:+.1%} to {ratio.high - 1:+.1%})"
    mark = "  REGRESSION" if change.is_regression else ""
    times = f"{change.old_s:.3f} s -> {change.new_s:.3f} s"
    return f"{change.scenario:12} {change.side:12} {times}, {ratio.value - 1:+.1%}{interval}: {ratio.verdict}{mark}"


def compare_records(old: Record, new: Record, threshold: float, relative: bool) -> Comparison:
    """Compare times of the same scenario and side; raises RecordError if the records have none in common.

    `threshold` is the least slow-down that counts as a regression, beyond the noise. With `relative` the ratio to stock of the same
    round is compared instead of seconds: for records of two machines, or of one that has changed.
    """
    notes = list(_different_circumstances(old, new))
    changes: list[Change] = []
    before = {scenario.name: scenario for scenario in old.scenarios}
    for scenario in new.scenarios:
        earlier = before.get(scenario.name)
        if earlier is None:
            continue
        if earlier.workflow_sha256 != scenario.workflow_sha256:
            notes.append(
                f"{scenario.name} draws another workflow in the two records (model, size, steps or nodes): not compared."
            )
            continue
        changes += _changes(earlier, scenario, threshold, relative)
        notes += _other_changes(earlier, scenario)
    if not changes:
        raise RecordError(
            "The two records have no measured scenario in common: measure the same scenarios and settings. " + " ".join(notes)
        )
    return Comparison(changes, notes)


def _changes(old: ScenarioRecord, new: ScenarioRecord, threshold: float, relative: bool) -> Iterator[Change]:
    for earlier, later in _common_sides(old, new):
        a, b = earlier.times_s, later.times_s
        if relative:
            a, b = _to_base(old.sides[0], earlier), _to_base(new.sides[0], later)
            if later.name == new.sides[0].name:
                continue
        if not a or not b:
            continue
        ratio = statistics.unpaired_ratio(a, b)
        is_regression = ratio.verdict == "slower" and ratio.value - 1 > threshold
        values = [statistics.median(side.times_s).value for side in (earlier, later)]
        yield Change(new.name, later.name, values[0], values[1], ratio, is_regression)


def _to_base(base: SideRecord, side: SideRecord) -> list[float]:
    return [own / stock for stock, own in zip(base.times_s, side.times_s, strict=False)]


def _common_sides(old: ScenarioRecord, new: ScenarioRecord) -> Iterator[tuple[SideRecord, SideRecord]]:
    before = {side.name: side for side in old.sides}
    for side in new.sides:
        if side.name in before:
            yield before[side.name], side


def _different_circumstances(old: Record, new: Record) -> Iterator[str]:
    def facts(record: Record) -> dict[str, str]:
        system = record.machine.get("system", {})
        driver = record.machine.get("card", {})
        return {
            "card": markdown.card(record),
            "driver": str(driver.get("driver", "?")),
            "power limit": str(driver.get("power_limit_w", "?")),
            "ComfyUI": str(system.get("comfyui_version", "?")),
            "torch": str(system.get("pytorch_version", "?")),
            "checkpoint": str(record.method.get("checkpoint")),
        }

    before, after = facts(old), facts(new)
    for name, value in before.items():
        if after[name] != value:
            yield f"{name}: {value} in the old record, {after[name]} in the new one."
    for record, which in ((old, "old"), (new, "new")):
        if record.partial:
            yield f"The {which} record is partial: {record.partial}"


def _other_changes(old: ScenarioRecord, new: ScenarioRecord) -> Iterator[str]:
    for earlier, later in _common_sides(old, new):
        where = f"{new.name}, {later.name}"
        peaks = [markdown.peak_gib(side.memory) for side in (earlier, later)]
        if peaks[0] and peaks[1] and peaks[0][1] == peaks[1][1] and abs(peaks[1][0] / peaks[0][0] - 1) > 0.05:
            yield f"{where}: peak memory {peaks[0][0]:.2f} -> {peaks[1][0]:.2f} GiB ({peaks[0][1]})."
        if earlier.fidelity and later.fidelity:
            texts = [markdown.fidelity_text(side.fidelity) for side in (earlier, later) if side.fidelity]
            if texts[0] != texts[1]:
                yield f"{where}: fidelity to stock was {texts[0]}, is {texts[1]}."
        if later.failure and not earlier.failure:
            yield f"{where}: no longer draws: {later.failure}."
