"""The timeline of this ComfyUI: fed by its progress events and by the sampler, read over the routes."""

import atexit
import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

import torch

from ...comfy_adapters import memory, progress, routes
from ..errors import BadInputError
from .node_table import leak_line, table
from .readings import reset_peak
from .requests import refuse_unknown, switches, whole_number
from .run_probe import comfy_memory, read_everything
from .sampler import RATES_HZ, Sampler
from .samples import Sample, now_s, take_quick_sample, take_sample
from .timeline import CAPACITY, COLUMNS, NUM_RUNS, Mark, Timeline

log = logging.getLogger("fast_sprites")

EVENT = "fast-sprites.memory"
MAX_ROWS_PER_EVENT = 500


def _take() -> Sample:
    return take_sample(memory.compute_device())


def _publish(seq: int, changes: int) -> bool:
    rows = TIMELINE.rows_since(seq, MAX_ROWS_PER_EVENT)
    news: dict[str, Any] = {"rows": rows}
    if TIMELINE.position[1] != changes:
        news |= {"runs": TIMELINE.changed_runs_json(changes), "marks": TIMELINE.marks_json()}
    return routes.broadcast(EVENT, news)


TIMELINE = Timeline()
SAMPLER = Sampler(TIMELINE, _take, _publish, routes.num_tabs)


class _RunListener:
    """Turns ComfyUI's progress events into runs and spans."""

    def run_started(self) -> None:
        TIMELINE.start_run(now_s())
        SAMPLER.set_busy(True)

    def node_started(self, key: str, node_id: str, class_type: str) -> None:
        TIMELINE.start_node(key, node_id, class_type, take_quick_sample(memory.compute_device()))

    def node_finished(self, key: str) -> None:
        TIMELINE.finish_node(key, take_quick_sample(memory.compute_device()))

    def run_ended(self) -> None:
        device = memory.compute_device()
        held_gib = comfy_memory().held_in_torch_gib(str(device))
        TIMELINE.end_run(take_quick_sample(device), held_gib)
        SAMPLER.set_busy(False)


def start() -> None:
    """Follow ComfyUI's runs and answer under /fast-sprites/; without a server, as in a test, only the runs are followed."""
    if lacks := progress.follow_runs(_RunListener()):
        log.warning("The memory's history shows no nodes: %s", lacks)
    if not routes.is_server_there():
        return
    routes.add_get("/fast-sprites/readings", readings)
    routes.add_get("/fast-sprites/history", history)
    routes.add_get("/fast-sprites/spans", spans)
    routes.add_get("/fast-sprites/table", node_table)
    routes.add_post("/fast-sprites/reset", reset)
    routes.add_post("/fast-sprites/free", free)
    # A daemon thread inside torch while the interpreter goes down can crash it.
    atexit.register(SAMPLER.stop)


def mark_probe(node_id: str | None, extra_pnginfo: Mapping[str, Any] | None) -> None:
    """Remember that a MemoryProbe read the memory now; called by code, outside a graph, it has no `node_id` and no mark."""
    if node_id is None:
        return
    workflow = (extra_pnginfo or {}).get("workflow")
    workflow_id = workflow.get("id") if isinstance(workflow, dict) else None
    TIMELINE.mark(Mark(now_s(), node_id, workflow_id if isinstance(workflow_id, str) else None))


def readings(query: Mapping[str, str]) -> Any:
    """Answer with one whole reading; `device` chooses among several GPUs."""
    refuse_unknown(query, ["device"])
    device = memory.compute_device()
    num_devices = torch.cuda.device_count() if device.type == "cuda" else 1
    if "device" in query:
        index = whole_number(query, "device", 0, 0, num_devices - 1)
        device = torch.device(device.type, index) if device.type == "cuda" else device
    try:
        reading = read_everything(device)
    except RuntimeError as error:
        raise BadInputError(f"{device} does not answer: {error}") from error
    return {"num_devices": num_devices, **dataclasses.asdict(reading)}


def history(query: Mapping[str, str]) -> Any:
    """Answer with samples newer than `since`, at most `limit`, and keep sampling for 90 s if `rate_hz` is given."""
    refuse_unknown(query, ["since", "limit", "rate_hz"])
    since = whole_number(query, "since", 0, 0, 10**15 - 1)
    limit = whole_number(query, "limit", CAPACITY, 1, CAPACITY)
    if "rate_hz" in query:
        rate_hz = whole_number(query, "rate_hz", 4, min(RATES_HZ), max(RATES_HZ))
        if rate_hz not in RATES_HZ:
            raise BadInputError(f"rate_hz is {rate_hz}; it must be one of {', '.join(map(str, RATES_HZ))}.")
        SAMPLER.watch(rate_hz)
    return {
        "columns": COLUMNS,
        "now_s": round(now_s(), 3),
        "rows": TIMELINE.rows_since(since, limit),
        # One that asks again has the older ones.
        "runs": TIMELINE.spans_json(2 if since else NUM_RUNS),
        "marks": TIMELINE.marks_json(),
        "problem": TIMELINE.problem,
    }


def spans(query: Mapping[str, str]) -> Any:
    """Answer with the spans of the last `runs` prompts."""
    refuse_unknown(query, ["runs"])
    return {"runs": TIMELINE.spans_json(whole_number(query, "runs", 1, 1, NUM_RUNS))}


def node_table(query: Mapping[str, str]) -> Any:
    """Answer with peak and growth of each node of `run`, by default of the last finished one, and the leak line."""
    refuse_unknown(query, ["run"])
    runs = TIMELINE.runs()
    finished = {run.number: run for run in runs if run.end is not None}
    if "run" in query:
        number = whole_number(query, "run", 0, 0, 10**15 - 1)
        if number not in finished:
            known = f"{min(finished)} to {max(finished)}" if finished else "none yet"
            raise BadInputError(f"run is {number}; runs that have a table: {known}.")
    else:
        number = max(finished, default=0)
    return {
        "run": number or None,
        "rows": table(finished[number]) if number else [],
        "num_left_out": finished[number].num_left_out if number else 0,
        "leak": leak_line(runs),
    }


def reset(body: Any) -> Any:
    """Start torch's peak anew, where torch keeps one; with `history` also forget samples, finished runs and marks."""
    chosen = switches(body, {"peak": True, "history": False})
    if chosen["peak"]:
        try:
            chosen["peak"] = reset_peak(memory.compute_device())
        except RuntimeError as error:
            raise BadInputError(f"The device does not answer: {error}") from error
    if chosen["history"]:
        TIMELINE.clear()
    return {"reset": [name for name, is_chosen in chosen.items() if is_chosen]}


def free(body: Any) -> Any:
    """Ask ComfyUI to unload models and to drop its cached results once no prompt runs."""
    chosen = switches(body, {"models": True, "results": True})
    routes.request_free(**chosen)
    return {"requested": [name for name, is_chosen in chosen.items() if is_chosen]}
