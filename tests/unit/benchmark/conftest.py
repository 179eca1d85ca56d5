"""Made-up records."""

from collections.abc import Callable
from typing import Any

import pytest
from fast_sprites.nodes.benchmark.bench.record import (
    DeviceSample,
    Fidelity,
    PeakMemory,
    Record,
    Rejected,
    Run,
    ScenarioRecord,
    SideRecord,
)

MakeRecord = Callable[..., Record]
FIDELITY = Fidelity(2, 0, 41.5, 43.0, 0.991, 0.995, 9)


def make_run(server_s: float, seed: int = 1, **values: Any) -> Run:
    spans = {"KSampler": 0.75 * server_s, "VAEDecode": 0.25 * server_s}
    return Run(seed=seed, server_s=server_s, wall_s=server_s + 0.01, spans_s=spans, step_s=server_s / 25, **values)


def make_side(name: str, times_s: list[float], **values: Any) -> SideRecord:
    values.setdefault("fidelity", None if name == "stock" else FIDELITY)
    runs = [make_run(time_s, seed) for seed, time_s in enumerate(times_s)]
    return SideRecord(name, f"the side {name}", lossy=False, optimizers={}, runs=runs, **values)


def make_record(**scenarios: dict[str, list[float]]) -> Record:
    """A record of scenarios with the times of their sides."""
    record = Record(
        command="fast-sprites bench run",
        started_utc="2026-11-22T20:00:00Z",
        finished_utc="2026-11-22T20:10:00Z",
        pack_version="0.1.0",
        machine={
            "card": {"name": "NVIDIA H100", "driver": "580.1", "power_limit_w": 700.0},
            "system": {
                "comfyui_version": "0.30.0",
                "pytorch_version": "2.11.0",
                "python_version": "3.11.7 (main)",
                "os": "linux",
                "argv": ["--fast"],
            },
            "devices": [{"name": "cuda:0 NVIDIA H100 : cudaMallocAsync", "type": "cuda", "index": 0}],
        },
        method={"budget_s": 600.0, "checkpoint": "sdxl.safetensors"},
    )
    for name, sides in scenarios.items():
        made = [make_side(side, times_s) for side, times_s in sides.items()]
        record.scenarios.append(
            ScenarioRecord(name, f"the scenario {name}", "baseline_single", "ab" * 32, made, 1, "the budget of 60 s ended")
        )
    return record


@pytest.fixture
def full_record() -> Record:
    """A record in which nothing is empty."""
    record = make_record(single={"stock": [4.0, 4.1, 4.2, 4.0, 4.1, 4.2], "ours": [2.0, 2.1, 2.0, 2.1, 2.0, 2.1]})
    ours = record.scenarios[0].sides[1]
    ours.lossy = True
    ours.optimizers = {"OptimizeModel": {"engine": "auto"}}
    ours.reports = ["NVIDIA H100: 1 applied, 1 refused\napplied: engine: fast\nrefused: xformers: not installed"]
    ours.first_run = make_run(9.5, seed=77)
    ours.warm_ups = [make_run(2.5, seed=78)]
    ours.rejected = [Rejected(79, "KSampler came from ComfyUI's cache")]
    ours.memory = PeakMemory(5.5, 6.25, 4.75, 12.5, 3.5)
    ours.failure = "VAEDecode failed: OutOfMemoryError: no memory"
    ours.runs[0].device = DeviceSample(1980, 61, 690.5, 12.25, ["heat (software)"], 1)
    ours.runs[0].disturbances = ["the card was slowed down by heat (software)"]
    record.notes = ["A note."]
    record.partial = "stopped by Ctrl-C"
    return record
