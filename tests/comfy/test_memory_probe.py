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


def test_dynamic_vrams_pages_are_told_from_what_torch_holds(probe, tiny_sdxl, monkeypatch):
    import comfy.memory_management
    import comfy.model_management

    comfy.model_management.load_models_gpu([tiny_sdxl.model])
    in_torch, patcher = tiny_sdxl.model.loaded_size(), type(tiny_sdxl.model)
    monkeypatch.setattr(comfy.memory_management, "aimdo_enabled", True)
    monkeypatch.setattr(patcher, "is_dynamic", lambda self: self.model is tiny_sdxl.model.model)
    monkeypatch.setattr(patcher, "loaded_size", lambda self: self.model.model_loaded_weight_memory + 2**30)
    _, report, readings = probe().result
    held = json.loads(readings)["comfyui"]
    sdxl = next(model for model in held["models"] if model["name"] == "SDXL")
    assert (sdxl["outside_torch_gib"], held["dynamic_vram_gib"]) == (1, 1)
    assert sdxl["resident_gib"] == pytest.approx(1 + in_torch / 2**30)
    assert "DynamicVRAM: 1.0 GiB of weights outside torch" in report


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


class Followed:
    """Notes what ComfyUI tells about prompts and nodes."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, ...]] = []

    def run_started(self) -> None:
        self.heard.append(("run",))

    def node_started(self, key: str, node_id: str, class_type: str) -> None:
        self.heard.append(("node", key, node_id, class_type))

    def node_finished(self, key: str) -> None:
        self.heard.append(("done", key))

    def run_ended(self) -> None:
        self.heard.append(("end",))


@pytest.fixture
def followed(pack_nodes):
    import sys

    module = sys.modules[pack_nodes["MemoryProbe"].__module__.rpartition(".")[0] + ".comfy_adapters.progress"]
    listener = Followed()
    module.follow_runs(listener)
    yield listener
    # The handler stays with ComfyUI: only a restart takes it out, or another one of the same name.
    sys.modules[module.__name__].follow_runs(Followed())


def latent(**inputs: int) -> dict[str, Any]:
    return {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, **inputs}}


def probe_node(source: str, **inputs: Any) -> dict[str, Any]:
    widgets = {"label": "", "reset_peak": False, "snapshot": "", "compare_with": ""}
    return {"class_type": "MemoryProbe", "inputs": {"value": [source, 0], **widgets, **inputs}}


def test_every_executed_node_of_every_run_is_followed(followed):
    queue({"1": latent(), "2:1": probe_node("1")}, times=2)
    first = [
        ("run",),
        ("node", "1", "1", "EmptyLatentImage"),
        ("done", "1"),
        ("node", "2:1", "2:1", "MemoryProbe"),
        ("done", "2:1"),
    ]
    assert followed.heard[:6] == [*first, ("end",)]
    second = followed.heard[6:]
    assert (second[0], second[-1]) == (("run",), ("end",))
    assert [event for event in second if event[0] == "node"] == [("node", "2:1", "2:1", "MemoryProbe")]  # the other is cached


def test_a_run_that_fails_ends_too(followed):
    with pytest.raises(AssertionError):
        queue({"1": latent(), "2": probe_node("1", compare_with="never taken")})
    assert [event[0] for event in followed.heard] == ["run", "node", "done", "node", "end"]
    queue({"1": latent(width=128), "2": probe_node("1")})
    assert [event[0] for event in followed.heard[5:]] == ["run", "node", "done", "node", "done", "end"]


def test_progress_that_starts_outside_a_prompt_is_ignored(followed):
    from comfy_execution.graph import DynamicPrompt
    from comfy_execution.progress import reset_progress_state

    reset_progress_state("", DynamicPrompt({}))
    assert followed.heard == []


def test_the_timeline_has_the_run_and_the_probes_mark(pack_nodes):
    import sys

    run_timeline = sys.modules[pack_nodes["MemoryProbe"].__module__.rpartition(".")[0] + ".engine.memory.run_timeline"]
    run_timeline.start()
    queue({"1": latent(width=192), "5": probe_node("1")})
    answer = run_timeline.node_table({})
    assert [(row["node_id"], row["class_type"]) for row in answer["rows"]] == [("1", "EmptyLatentImage"), ("5", "MemoryProbe")]
    assert all(row["peak_process_gib"] > 0 and row["peak_allocated_gib"] is None for row in answer["rows"])
    marks = run_timeline.history({})["marks"]
    assert (marks[-1]["node_id"], marks[-1]["workflow_id"]) == ("5", None)
    assert not run_timeline.SAMPLER.is_running  # nobody watches
