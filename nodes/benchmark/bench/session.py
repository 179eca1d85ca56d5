"""Draws a benchmark's prompts on a server and reads what it says about each."""

import asyncio
import contextlib
import copy
import itertools
import json
import statistics
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from ...engine.errors import BadInputError
from ..client import Cached, Cancelled, ClientError, ComfyClient, Event, Failed, History, NodeStarted, Step
from . import graphs
from .graphs import Graph, OutputTypes, Widgets
from .machine import DeviceWatch
from .method import FailedRunError, RejectedRunError
from .record import PeakMemory, Run
from .scenarios import SideGraph

PREFIX = "fast-sprites-bench/"  # a folder of its own among the server's outputs
FREE_S = 1.0  # POST /free wakes the server's worker, which then works before it takes the next prompt
MAX_NAMES = 5


@dataclass(frozen=True)
class Drawn:
    """One run and what it left."""

    run: Run
    history: History


class Session:
    """A server that is benchmarked: what it has, and runs on it."""

    def __init__(self, client: ComfyClient, info: Mapping[str, Any], device: DeviceWatch) -> None:
        """`info` is the declaration of every node of the server (GET /object_info)."""
        self.client, self._info, self._device = client, info, device
        self.output_types: OutputTypes = {name: node.get("output", ()) for name, node in info.items()}
        self._ends = {name for name, node in info.items() if node.get("output_node")}

    def optimizer_defaults(self) -> dict[str, Widgets]:
        """The optimisers' widget values as the server declares them; raises BadInputError if it lacks the nodes."""
        for class_type in (*graphs.OPTIMIZERS, "MemoryProbe"):
            if class_type not in self._info:
                raise BadInputError(
                    f"The server has no node {class_type}: install Fast Sprites in its custom_nodes folder and restart it, "
                    "or start one with --start and --pack."
                )
        return {class_type: self._defaults(class_type) for class_type in graphs.OPTIMIZERS}

    def _defaults(self, class_type: str) -> Widgets:
        declared: dict[str, Any] = self._info[class_type]["input"].get("required", {})
        return {name: spec[1]["default"] for name, spec in declared.items() if len(spec) > 1 and "default" in spec[1]}

    def files(self, class_type: str, widget: str) -> list[str]:
        """The files that a loader of this server offers."""
        kind, *settings = self._info[class_type]["input"]["required"][widget]
        return [str(name) for name in (cast(list[Any], kind) if isinstance(kind, list) else settings[0].get("options", ()))]

    def require_file(self, name: str, class_type: str, widget: str, option: str) -> None:
        """Raise BadInputError unless the loader offers the file."""
        names = self.files(class_type, widget)
        if name not in names:
            shown = ", ".join(names[:MAX_NAMES]) + (f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else "")
            raise BadInputError(f"The server has no {name} ({widget}); it has {shown or 'none'}: name one with {option}.")

    def require_nodes(self, graph: Graph) -> None:
        """Raise BadInputError if the graph has nodes that the server lacks."""
        missing = sorted({node["class_type"] for node in graph.values()} - set(self._info))
        if missing:
            raise BadInputError(f"The server lacks nodes of this workflow: {', '.join(missing)}: install their packs.")

    async def require_idle(self) -> None:
        """Raise ClientError if the server works for somebody else."""
        waiting = await self.client.queue_length()
        if waiting:
            raise ClientError(f"The server's queue holds {waiting} prompts: wait until it is empty, or cancel them.")

    async def draw(self, side: SideGraph, seed: int) -> Drawn:
        """Draw one prompt; raises FailedRunError if a node fails and RejectedRunError if the sampler came from the cache."""
        return await self._draw(side.prompt(seed, f"{PREFIX}{side.side.name}"), graphs.seed_nodes(side.graph), seed)

    async def first_run(self, side: SideGraph, seed: int) -> tuple[Drawn, PeakMemory | None]:
        """Draw one prompt from an empty card, with probes before sampling and at the end."""
        for _ in range(2):  # the second wakes a worker that collected garbage when the first came (main.py, prompt_worker, 0.30)
            await self.client.free()
            await asyncio.sleep(FREE_S)
        prompt = side.prompt(seed, f"{PREFIX}{side.side.name}")
        ends = [node_id for node_id, node in side.graph.items() if node["class_type"] in self._ends]
        probed = _with_probes(prompt, graphs.upstream(prompt, ends), self.output_types)
        drawn = await self._draw(probed, graphs.seed_nodes(side.graph), seed)
        texts = drawn.history.outputs.get("bench-readings", {}).get("text", ())
        return drawn, _peak_memory(json.loads(texts[0]), drawn.run) if texts else None

    async def _draw(self, prompt: Graph, seeded: Sequence[str], seed: int) -> Drawn:
        disturbances = ["another client's prompt was in the queue"] if await self.client.queue_length() else []
        start = time.perf_counter()
        prompt_id = await self.client.queue(prompt, extra_data={"preview_method": "none"})
        timeline = Timeline(prompt)
        last: Event | None = None
        with self._device.watching() as watched:
            try:
                async for last in self.client.follow(prompt_id):
                    timeline.add(last, time.perf_counter())
            except asyncio.CancelledError:
                with contextlib.suppress(ClientError):
                    await self.client.cancel(prompt_id)
                raise
        end = time.perf_counter()
        if isinstance(last, Failed):
            raise FailedRunError(f"{last.node_type} failed: {last.exception_type}: {' '.join(last.message.split())}")
        if isinstance(last, Cancelled):
            raise ClientError("Somebody cancelled the benchmark's prompt on the server.")
        cached = timeline.cached & set(seeded)
        if cached:
            raise RejectedRunError(f"{prompt[min(cached)]['class_type']} came from ComfyUI's cache")
        job = await self.client.job(prompt_id)
        history = await self.client.history(prompt_id)
        run = Run(
            seed=seed,
            server_s=(job["execution_end_time"] - job["execution_start_time"]) / 1000,
            wall_s=end - start,
            spans_s=timeline.spans_s(end),
            step_s=timeline.step_s(),
            device=watched.sample(),
            disturbances=disturbances + watched.disturbances(),
        )
        return Drawn(run, history)

    async def pictures(self, drawn: Drawn) -> list[bytes]:
        """The files that a run saved."""
        return [await self.client.image(ref) for ref in drawn.history.images]


def reports_of(side: SideGraph, history: History) -> list[str]:
    """What the side's optimiser nodes said."""
    own = [node_id for node_id, node in side.graph.items() if node["class_type"] in graphs.OPTIMIZERS]
    return ["\n".join(history.outputs[node_id]["text"]) for node_id in own if "text" in history.outputs.get(node_id, {})]


class Timeline:
    """Turns the events of one prompt into seconds by class of node."""

    def __init__(self, prompt: Graph) -> None:
        """Nothing has happened yet."""
        self._prompt = prompt
        self._starts: list[tuple[str, float]] = []
        self._steps: dict[str, list[tuple[int, float]]] = {}  # node id -> (value of the bar, time)
        self.cached: set[str] = set()

    def add(self, event: Event, now_s: float) -> None:
        """Note one event at the time when it came."""
        match event:
            case Cached(node_ids):
                self.cached.update(node_ids)
            case NodeStarted(node_id):
                self._starts.append((node_id, now_s))
            case Step(node_id, value, _):
                self._steps.setdefault(node_id, []).append((value, now_s))
            case _:
                pass

    def spans_s(self, end_s: float) -> dict[str, float]:
        """Seconds by class of node, in the order in which they ran."""
        spans: dict[str, float] = {}
        for (node_id, start), (_, end) in itertools.pairwise([*self._starts, ("", end_s)]):
            name = self._prompt[node_id]["class_type"] if node_id in self._prompt else "nodes made by a node"
            spans[name] = spans.get(name, 0.0) + end - start
        return {name: round(seconds, 4) for name, seconds in spans.items()}

    def step_s(self) -> float | None:
        """Median seconds of a step of the node that reported most often.

        ComfyUI drops reports within 0.1 s of another, but never a bar's first (comfy/utils.py, ProgressBar.update_absolute): later ones
        may stand for several steps, and the first says by how much a step moves the bar.
        """
        reports = max(self._steps.values(), key=len) if self._steps else []
        steps_s: list[float] = []
        for (before, earlier), (after, later) in itertools.pairwise(reports):
            num_steps = round((after - before) / max(1, reports[0][0]))
            steps_s += [(later - earlier) / num_steps] * num_steps if num_steps > 0 else []
        return round(statistics.median(steps_s), 4) if steps_s else None


def _with_probes(prompt: Graph, running: Collection[str], output_types: OutputTypes) -> Graph:
    """A copy that starts torch's peak anew before the first sampling and reads the memory at the end.

    `running` are the ids of the nodes that an output needs: a probe must not make others run.
    """
    probed = copy.deepcopy(prompt)
    widgets = {"label": "", "reset_peak": False, "snapshot": "", "compare_with": ""}
    seeded = set(graphs.seed_nodes(prompt))
    upstreams = {
        node_id: graphs.upstream(prompt, [node_id]) for node_id in running if output_types.get(prompt[node_id]["class_type"])
    }
    depths = {node_id: len(found) for node_id, found in upstreams.items() if found & seeded}
    samplers = [node_id for node_id in depths if "LATENT" in output_types[prompt[node_id]["class_type"]]]
    if samplers:
        sampler = min(samplers, key=lambda node_id: depths[node_id])
        for name, link in graphs.links_of(prompt[sampler]).items():  # on every link, for any of them may be ready last
            reset = f"bench-reset-{name}"
            probed[reset] = {"class_type": "MemoryProbe", "inputs": {**widgets, "value": list(link), "reset_peak": True}}
            probed[sampler]["inputs"][name] = [reset, 0]
    if depths:
        last = max(depths, key=lambda node_id: depths[node_id])
        # Its last output: Save Sprites blocks its first where it streams.
        end = [last, len(output_types[prompt[last]["class_type"]]) - 1]
        probed["bench-probe"] = {"class_type": "MemoryProbe", "inputs": {**widgets, "value": end}}
        probed["bench-readings"] = {"class_type": "PreviewAny", "inputs": {"source": ["bench-probe", 2]}}
    return probed


def _peak_memory(reading: dict[str, Any], run: Run) -> PeakMemory:
    torch: dict[str, Any] = reading["torch"] or {}
    return PeakMemory(
        torch_allocated_gib=torch.get("peak_allocated_gib"),
        torch_reserved_gib=torch.get("peak_reserved_gib"),
        dynamic_vram_gib=reading["comfyui"]["dynamic_vram_gib"],
        driver_gib=run.device.used_gib if run.device else None,
        process_ram_gib=reading["host"]["process_gib"],
    )
