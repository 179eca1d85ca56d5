"""MemoryProbe inside a real ComfyUI on the CPU."""

import asyncio
import copy
import json
from typing import Any

import pytest


@pytest.fixture
def probe(pack_nodes):
    node = pack_nodes["MemoryProbe"].PREPARE_CLASS_CLONE(None)

    def run(value: Any = None, label: str = "", reset_peak: bool = False, snapshot: str = "", compare_with: str = "") -> Any:
        return node.execute(value=value, label=label, reset_peak=reset_peak, snapshot=snapshot, compare_with=compare_with)

    return run


def test_value_passes_untouched_and_the_report_is_shown(probe):
    value = object()
    output = probe(value, "after decode")
    passed, report, _ = output.result
    assert passed is value
    assert report.startswith("after decode\n")
    assert output.ui == {"text": [report]}


def test_models_that_comfyui_holds_are_named(probe, tiny_sdxl):
    import comfy.model_management

    comfy.model_management.load_models_gpu([tiny_sdxl.model])
    readings = json.loads(probe().result[2])
    held = next(model for model in readings["comfyui"]["models"] if model["name"] == "SDXL")  # ComfyUI lists the latest first
    assert held["size_gib"] == pytest.approx(tiny_sdxl.model.model_size() / 1024**3)
    assert held["resident_gib"] == held["size_gib"]
    assert readings["comfyui"]["dynamic_vram_gib"] is None


def test_on_a_cpu_the_report_says_what_is_absent(probe):
    _, report, readings = probe(reset_peak=True).result
    assert json.loads(readings)["torch"] is None
    assert "GPU" in report.splitlines()[-1]
    assert "The peak counts from here" not in report


def test_snapshots_compare(probe):
    probe(snapshot="before")
    assert "Since 'before' (GiB): " in probe(compare_with="before").result[1]
    with pytest.raises(ValueError, match="compare_with is 'nothing', but no probe has taken that snapshot"):
        probe(compare_with="nothing")


def test_socket_types_follow_what_is_connected(pack_nodes):
    schema = pack_nodes["MemoryProbe"].GET_SCHEMA()
    assert schema.inputs[0].template.template_id == schema.outputs[0].template.template_id


class Server:
    """As much of PromptServer as PromptExecutor needs; notes which nodes ran."""

    client_id: str | None = None
    last_node_id = None

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.errors: list[Any] = []

    def send_sync(self, event: str, data: Any, sid: Any = None) -> None:
        if event == "executing" and data.get("node"):
            self.ran.append(data["node"])
        if event == "execution_error":
            self.errors.append(data)


def queue(graph: dict[str, Any], *, times: int = 1) -> list[list[str]]:
    """Validate and execute a graph, several times on one executor; returns the nodes that ran each time."""
    import execution

    server = Server()
    executor = execution.PromptExecutor(server, cache_args={"ram": 0.0, "ram_inactive": 0.0, "lru": 0})
    ran = []
    for i in range(times):
        prompt = copy.deepcopy(graph)  # every POST makes its own; ComfyUI notes in it what has changed
        valid, error, outputs, node_errors = asyncio.run(execution.validate_prompt(str(i), prompt, None))
        assert valid, (error, node_errors)
        server.ran.clear()
        executor.execute(prompt, str(i), {"client_id": "test"}, outputs)
        assert server.errors == []
        json.dumps(prompt, allow_nan=False)  # SaveImage writes the prompt into its PNGs, with what ComfyUI has noted in it
        ran.append(list(server.ran))
    return ran


def test_probe_runs_in_every_prompt_and_nodes_above_it_do_not(pack_nodes):
    widgets = {"reset_peak": False, "snapshot": "", "compare_with": ""}
    graph = {
        "1": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "2": {"class_type": "MemoryProbe", "inputs": {"value": ["1", 0], "label": "here", **widgets}},
        "3": {"class_type": "MemoryProbe", "inputs": {"value": ["1", 0], "label": "here", **widgets}},  # a twin reads for itself
    }
    first, second = queue(graph, times=2)
    assert (first[0], sorted(first), sorted(second)) == ("1", ["1", "2", "3"], ["2", "3"])
