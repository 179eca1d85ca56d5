"""A whole benchmark on one server: its scenarios one after the other into one record."""

import dataclasses
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

from ..client import connect
from . import graphs, scenarios
from .fidelity import FidelityError, compare_pictures
from .graphs import Graph
from .machine import watch_device
from .method import FailedRunError, Limits, Watch, alternate
from .record import Record, Run, ScenarioRecord, SideRecord, without_folder
from .scenarios import Choices, Scenario, Side, SideGraph, StockGraphs
from .session import Drawn, Session, reports_of

ORDER = "all sides in turn, round by round, with the round's seed"
FIDELITY_ROUNDS = 2  # rounds whose pictures are compared
NUM_ALONE = 2  # pictures drawn one by one where a side's batch cannot be compared with stock's


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured: bundled scenarios, or a workflow of the user's own instead."""

    scenarios: Sequence[Scenario]
    sides: Sequence[Side]
    workflow: Path | None = None
    choices: Choices = field(default_factory=Choices)
    limits: Limits
    """`budget_s` is that of the whole benchmark here, shared evenly by the scenarios."""
    first_runs: bool = True
    seed: int | None = None

    def method(self) -> dict[str, Any]:
        """How it is measured, for the record."""
        limits = dataclasses.asdict(self.limits)
        chosen = {name: value for name, value in dataclasses.asdict(self.choices).items() if value is not None}
        return {"order": ORDER, "previews": "off", "first_runs": self.first_runs, **limits, **chosen}


class Progress(Watch, Protocol):
    """Shows how far the benchmark is."""

    def scenario_started(self, scenario: ScenarioRecord, number: int, total: int, budget_s: float) -> None:
        """Scenario `number` of `total` begins and may take `budget_s` seconds."""
        ...


def utc_now() -> str:
    """The time to the second, as ISO 8601."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


async def run_plan(address: str, plan: Plan, record: Record, progress: Progress, save: Callable[[], None]) -> None:
    """Measure everything in `plan` into `record`, calling `save` before each scenario and after every run; what is measured stays when this raises.

    Raises PackError: ClientError for the server's troubles, BadInputError for what it lacks.
    """
    async with connect(address) as client:
        stats = await client.system_stats()
        device = watch_device(address, stats)
        record.machine = {"card": device.limits(), **_without_paths(stats)}
        record.notes += [device.note] if device.note else []
        session = Session(client, await client.object_info(), device)
        await session.require_idle()
        choices = _checked(plan.choices, session, plan)
        record.method["checkpoint"] = choices.checkpoint
        defaults = session.optimizer_defaults()
        prepared = list(_prepare(plan, choices, session, defaults))
        end = time.monotonic() + plan.limits.budget_s
        seeds = _seeds(plan.seed)
        for number, (scenario, sides) in enumerate(prepared):
            budget_s = max(0.0, end - time.monotonic()) / (len(prepared) - number)
            record.scenarios.append(scenario)
            save()  # a file that cannot be written is told before anything is drawn for it
            progress.scenario_started(scenario, number + 1, len(prepared), budget_s)
            measuring = Measuring(session, scenario, sides, _SavingWatch(progress, save))
            limits = dataclasses.replace(plan.limits, budget_s=budget_s)
            try:
                await measuring.run(limits, seeds, plan.first_runs)
            finally:
                measuring.compare()
                save()


def _seeds(first: int | None) -> Callable[[], int]:
    """Seeds that no earlier benchmark on this server has used, unless the user names the first."""
    numbers: Iterator[int] = iter(range(random.SystemRandom().randrange(2**40) if first is None else first, 2**63))
    return lambda: next(numbers)


def _checked(choices: Choices, session: Session, plan: Plan) -> Choices:
    """The choices, with the server's only checkpoint if none was named; raises BadInputError for files that it lacks."""
    names = session.files("CheckpointLoaderSimple", "ckpt_name")
    if choices.checkpoint is not None:
        session.require_file(choices.checkpoint, "CheckpointLoaderSimple", "ckpt_name", "--checkpoint")
    elif plan.workflow is None and len(names) == 1:
        choices = dataclasses.replace(choices, checkpoint=names[0])
    if choices.lora is not None:
        session.require_file(choices.lora, "LoraLoader", "lora_name", "--lora")
    if choices.controlnet is not None:
        session.require_file(choices.controlnet, "ControlNetLoader", "control_net_name", "--controlnet")
    return choices


def _prepare(
    plan: Plan, choices: Choices, session: Session, defaults: dict[str, graphs.Widgets]
) -> Iterator[tuple[ScenarioRecord, list[SideGraph]]]:
    """Every scenario's record and prompts, so that what cannot run is refused before anything is measured."""
    jobs: list[tuple[Scenario, StockGraphs]] = []
    if plan.workflow is not None:
        own = Scenario(plan.workflow.stem, "a workflow of the user's own", plan.workflow.name)
        stock = scenarios.stock_graph(graphs.read_graph(plan.workflow), choices)
        jobs.append((own, StockGraphs(stock, stock)))
    jobs += [(scenario, scenarios.base_graphs(scenario, choices, session.output_types)) for scenario in plan.scenarios]
    for scenario, base in jobs:
        session.require_nodes({**base.stock, **base.own})
        for node in base.stock.values():
            if node["class_type"] == "CheckpointLoaderSimple":
                session.require_file(node["inputs"]["ckpt_name"], "CheckpointLoaderSimple", "ckpt_name", "--checkpoint")
        sides = scenarios.side_graphs(base, plan.sides, session.output_types, defaults)
        records = [SideRecord(side.side.name, side.side.title, side.side.lossy, _optimizers(side.graph)) for side in sides]
        sha256 = scenarios.workflow_hash({**base.own, **base.stock})
        yield ScenarioRecord(scenario.name, scenario.title, scenario.workflow, sha256, records, scenario.num_pictures), sides


def _optimizers(graph: Graph) -> dict[str, dict[str, Any]]:
    return {
        node["class_type"]: {name: value for name, value in node["inputs"].items() if graphs.as_link(value) is None}
        for node in graph.values()
        if node["class_type"] in graphs.OPTIMIZERS
    }


class Measuring:
    """One scenario under way: `run` fills its sides' runs, `compare` their fidelity from the pictures that came so far."""

    def __init__(self, session: Session, scenario: ScenarioRecord, sides: Sequence[SideGraph], watch: Watch) -> None:
        """Nothing is measured yet."""
        self._session, self._scenario, self._sides, self._watch = session, scenario, sides, watch
        self._pictures: list[dict[int, list[bytes]]] = [{} for _ in sides]  # by side and seed
        self._alone: dict[int, list[bytes]] = {}

    async def run(self, limits: Limits, seeds: Callable[[], int], first_runs: bool) -> None:
        """Measure within `limits`; raises ClientError if the server goes away."""
        start = time.monotonic()
        if first_runs:
            seed = seeds()
            for number, side in enumerate(self._scenario.sides):
                await self._first_run(number, side, seed)
        left_s = max(0.0, limits.budget_s - (time.monotonic() - start))
        left = dataclasses.replace(limits, budget_s=left_s)
        self._scenario.stopped = await alternate(self._scenario.sides, self._draw, left, seeds, self._watch)

    async def _first_run(self, number: int, side: SideRecord, seed: int) -> None:
        try:
            drawn, side.memory = await self._session.first_run(self._sides[number], seed)
        except FailedRunError as error:
            side.failure = str(error)
            return
        side.first_run = drawn.run
        self._count(drawn)
        side.reports = reports_of(self._sides[number], drawn.history)
        self._watch.run_done(side, "first run", drawn.run)

    async def _draw(self, number: int, seed: int) -> Run:
        drawn = await self._session.draw(self._sides[number], seed)
        side = self._scenario.sides[number]
        self._count(drawn)
        side.reports = side.reports or reports_of(self._sides[number], drawn.history)
        if len(side.runs) < FIDELITY_ROUNDS:
            self._pictures[number][seed] = await self._session.pictures(drawn)
        if not side.runs and not self._alone:
            await self._draw_alone(self._sides[number].alone, seed, len(self._pictures[number][seed]))
        return drawn.run

    async def _draw_alone(self, alone: SideGraph | None, seed: int, count: int) -> None:
        """Draw the first pictures of a warm-up on ComfyUI's own nodes, one by one; nothing is timed here."""
        if alone is not None:
            draws = [await self._session.draw(alone, seed + number) for number in range(min(count, NUM_ALONE))]
            self._alone[seed] = [picture for drawn in draws for picture in await self._session.pictures(drawn)]

    def _count(self, drawn: Drawn) -> None:
        self._scenario.num_pictures = self._scenario.num_pictures or len(drawn.history.images)

    def compare(self) -> None:
        """Compare the pictures of equal seeds; the warm-up's too, which were drawn like the others."""
        for number, side in enumerate(self._scenario.sides[1:], start=1):
            pictures, expected = self._pictures[number], self._alone if self._sides[number].alone else self._pictures[0]
            pairs = [(expected[seed], pictures[seed]) for seed in sorted(set(expected) & set(pictures))]
            reference = [picture for pair in pairs for picture in pair[0]]
            other = [picture for pair in pairs for picture in pair[1][: len(pair[0])]]
            if not reference and not other:
                continue
            try:
                side.fidelity = compare_pictures(reference, other)
            except FidelityError as error:
                side.failure = side.failure or str(error)


class _SavingWatch:
    """Passes runs on and saves the record."""

    def __init__(self, progress: Watch, save: Callable[[], None]) -> None:
        self._progress, self._save = progress, save

    def run_done(self, side: SideRecord, kind: str, run: Run) -> None:
        self._progress.run_done(side, kind, run)
        self._save()


def _without_paths(stats: dict[str, Any]) -> dict[str, Any]:
    """The server's own words about itself, less where it lies on the disk."""
    system = dict(stats["system"])
    system["argv"] = [without_folder(argument) for argument in system.get("argv", ())[1:]]
    return {"system": system, "devices": stats["devices"]}
