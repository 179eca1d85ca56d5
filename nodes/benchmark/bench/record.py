"""The record of a benchmark: everything that was measured, as one JSON file of a known version."""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast, get_type_hints

from ...engine.errors import PackError
from ..documents import fits, read_document
from ..files import write_durably

SCHEMA = "fast-sprites-bench"
VERSION = 1
SHORTEST_S, LONGEST_S = 1e-6, 1e9
Part = TypeVar("Part")


class RecordError(PackError):
    """A file that is no record, or none that this version reads."""


@dataclass
class DeviceSample:
    """The card during a run, by its driver: the median clock, the rest at its highest; None for what it does not tell."""

    sm_clock_mhz: int | None
    temperature_c: int | None
    power_w: float | None
    used_gib: float | None
    throttled_by: list[str]
    """The driver's reasons to slow down that say something is wrong: heat, power brake, hardware."""
    other_processes: int | None
    """Processes that compute on the card beside one, which is taken for ComfyUI."""


@dataclass
class Run:
    """One prompt: `server_s` from its start to its end on the server, `wall_s` as the client saw it, queue included."""

    seed: int
    server_s: float
    wall_s: float
    spans_s: dict[str, float]
    """Seconds by class of node; what comes from ComfyUI's cache takes none."""
    step_s: float | None
    """Median time of a step of the sampler, off its progress reports."""
    device: DeviceSample | None = None
    disturbances: list[str] = field(default_factory=list[str])


@dataclass
class Rejected:
    """A run that was not counted."""

    seed: int
    reason: str


@dataclass
class PeakMemory:
    """Peaks of one run from an empty card, in GiB; None where there is nothing to read (torch's on a CPU)."""

    torch_allocated_gib: float | None
    torch_reserved_gib: float | None
    dynamic_vram_gib: float | None
    """Weights that ComfyUI's DynamicVRAM holds outside torch when the pictures are decoded."""
    driver_gib: float | None
    """Highest use of the whole card that the driver showed during the run, other processes included."""
    process_ram_gib: float
    """RAM of the server's process when the pictures are decoded."""


@dataclass(frozen=True)
class Fidelity:
    """Pictures against stock's of the same seeds: the worst and the mean; `worst_psnr_db` is None where all are identical."""

    num_pictures: int
    num_identical: int
    worst_psnr_db: float | None
    mean_psnr_db: float | None
    worst_ssim: float
    mean_ssim: float
    max_error: int
    """Largest difference of one channel of one pixel, of 255."""


@dataclass
class SideRecord:
    """One side of a scenario. `first_run` starts from an empty card: loading, compiling, autotuning."""

    name: str
    title: str
    lossy: bool
    optimizers: dict[str, dict[str, Any]]
    """The optimiser nodes' widget values, by class; empty for stock."""
    reports: list[str] = field(default_factory=list[str])
    """What the optimiser nodes said that they applied and refused."""
    first_run: Run | None = None
    warm_ups: list[Run] = field(default_factory=list[Run])
    runs: list[Run] = field(default_factory=list[Run])
    rejected: list[Rejected] = field(default_factory=list[Rejected])
    memory: PeakMemory | None = None
    fidelity: Fidelity | None = None
    failure: str = ""
    """Why it drew no more, or what makes its pictures incomparable, one sentence: a node's error, out of memory included."""

    @property
    def times_s(self) -> list[float]:
        """Server-side seconds of the counted runs."""
        return [run.server_s for run in self.runs]


@dataclass
class ScenarioRecord:
    """One scenario; the first side is what the others are compared with."""

    name: str
    title: str
    workflow: str
    workflow_sha256: str
    sides: list[SideRecord]
    num_pictures: int = 0
    """Pictures that one run draws; 0 if none was drawn or their number is not known."""
    stopped: str = ""
    """Why no more rounds were made."""


@dataclass
class Record:
    """A whole benchmark."""

    command: str
    started_utc: str
    pack_version: str
    machine: dict[str, Any]
    """The server's system_stats (versions, devices, flags) and the card's limits as the driver gives them."""
    method: dict[str, Any]
    scenarios: list[ScenarioRecord] = field(default_factory=list[ScenarioRecord])
    notes: list[str] = field(default_factory=list[str])
    finished_utc: str = ""
    partial: str = ""
    """Why the benchmark ended early, one sentence; empty for a whole one."""

    def to_json(self) -> str:
        """The file's text."""
        return json.dumps({"schema": SCHEMA, "version": VERSION, **dataclasses.asdict(self)}, indent=1) + "\n"

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all; raises OSError."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, self.to_json().encode())


def without_folder(argument: str) -> str:
    """A command-line argument less the folder of this machine that it may name."""
    return argument.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]


def read_record(path: Path) -> Record:
    """The record in a file; raises RecordError with one sentence."""
    content = read_document(path, str(path), "name a record that `fast-sprites bench` wrote", RecordError)
    fields = cast(dict[str, Any], content) if isinstance(content, dict) else {}
    if fields.pop("schema", None) != SCHEMA:
        raise RecordError(f"{path} is no benchmark record: name a JSON file that `fast-sprites bench` wrote.")
    version = fields.pop("version", None)
    if version != VERSION:
        raise RecordError(f"{path} has schema version {version}; this command reads version {VERSION}: update the pack.")
    try:
        record = _part(Record, fields, {"scenarios": _scenario})
        _require_facts(record.machine)
        return record
    except (TypeError, AttributeError) as error:
        raise RecordError(f"{path} is damaged: {error}.") from error


def _require_facts(machine: dict[str, Any]) -> None:
    """Raise TypeError where a report would not find what it says about the machine."""
    system, devices, card = machine.get("system"), machine.get("devices"), machine.get("card", {})
    if not isinstance(system, dict) or not isinstance(card, dict) or not fits(devices, list[dict[str, Any]]) or not devices:
        raise TypeError("machine lacks system or devices")
    facts = cast(dict[str, Any], system)
    if not isinstance(devices[0].get("name"), str) or not fits(facts.get("argv", []), list[str]):
        raise TypeError("machine names no device, or flags that are no words")
    if not isinstance(facts.get("python_version", ""), str):
        raise TypeError("machine has a version of Python that is no text")


def _part(kind: type[Part], content: dict[str, Any], inside: dict[str, Callable[[Any], Any]]) -> Part:
    """Build a dataclass whose fields in `inside` are lists or single parts themselves."""
    if not isinstance(content, dict):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"{kind.__name__} is no object")
    values = dict(content)
    for name, build in inside.items():
        value = values.get(name)
        if isinstance(value, list):
            values[name] = [build(item) for item in cast(list[Any], value)]
        elif value is not None:
            values[name] = build(value)
    for name, wanted in get_type_hints(kind).items():
        if name in values and not fits(values[name], wanted):
            raise TypeError(f"{name} of {kind.__name__} has another type")
    return kind(**values)


def _scenario(content: dict[str, Any]) -> ScenarioRecord:
    scenario = _part(ScenarioRecord, content, {"sides": _side})
    if not scenario.sides or scenario.num_pictures < 0:
        raise TypeError("a scenario has no sides or fewer pictures than none")
    return scenario


def _side(content: dict[str, Any]) -> SideRecord:
    inside: dict[str, Callable[[Any], Any]] = {
        "first_run": _run,
        "warm_ups": _run,
        "runs": _run,
        "rejected": lambda item: _part(Rejected, item, {}),
        "memory": lambda item: _part(PeakMemory, item, {}),
        "fidelity": lambda item: _part(Fidelity, item, {}),
    }
    return _part(SideRecord, content, inside)


def _run(content: dict[str, Any]) -> Run:
    run = _part(Run, content, {"device": lambda item: _part(DeviceSample, item, {})})
    if not SHORTEST_S <= run.server_s <= LONGEST_S:
        raise TypeError(f"a run took {run.server_s} s")
    return run
