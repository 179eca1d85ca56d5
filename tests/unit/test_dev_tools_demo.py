"""The demo's pure parts: fitting workflows, the bar, the table."""

import json
from pathlib import Path
from typing import Any

import pytest
from dev_tools.errors import DevError
from dev_tools.workflow_files import DEMO_WORKFLOWS, Workflow, fitted, load_workflows, set_widgets

PROMPT = {
    "1": {
        "class_type": "CheckpointLoaderSimple",
        "inputs": {"ckpt_name": "sdxl.safetensors"},
        "_meta": {"title": "Load Checkpoint"},
    },
    "2": {"class_type": "BatchSpriteSampler", "inputs": {"width": 1024, "height": 1024, "seed": 1024, "model": ["1", 0]}},
    "3": {"class_type": "EmptyLatentImage", "inputs": {"width": 1024, "height": ["4", 0]}},
    "5": {"class_type": "ImageScale", "inputs": {"width": 1024, "height": 1024}},
}
UI = {
    "nodes": [
        {"id": 1, "inputs": [{"name": "ckpt_name", "widget": {"name": "ckpt_name"}}], "widgets_values": ["sdxl.safetensors"]},
        {
            "id": 2,
            "inputs": [{"name": "model"}, *({"name": n, "widget": {"name": n}} for n in ("count", "seed", "width", "height"))],
            "widgets_values": [8, 1024, "randomize", 1024, 1024],
        },
        {"id": 9, "widgets_values": ["a note"]},
    ]
}


def test_checkpoint_and_size_are_replaced_in_both_forms():
    original = json.dumps([PROMPT, UI])
    workflow = fitted(Workflow("w", PROMPT, UI), "tiny.safetensors", 256)
    assert workflow.prompt["1"]["inputs"] == {"ckpt_name": "tiny.safetensors"}
    assert workflow.prompt["2"]["inputs"] == {"width": 256, "height": 256, "seed": 1024, "model": ["1", 0]}
    assert workflow.prompt["3"]["inputs"] == {"width": 256, "height": ["4", 0]}
    assert workflow.prompt["5"]["inputs"]["width"] == 1024
    assert [node["widgets_values"] for node in workflow.ui["nodes"]] == [
        ["tiny.safetensors"],
        [8, 1024, "randomize", 256, 256],
        ["a note"],
    ]
    assert json.dumps([PROMPT, UI]) == original


def test_a_real_checkpoint_keeps_the_size():
    workflow = fitted(Workflow("w", PROMPT, UI), "sdxl.safetensors", None)
    assert (workflow.prompt, workflow.ui) == (PROMPT, UI)


def test_widgets_behind_a_seed_without_control():
    node: dict[str, Any] = {"inputs": [{"widget": {"name": n}} for n in ("seed", "steps")], "widgets_values": [5, 20]}
    set_widgets(node, {"steps": 30})
    assert node["widgets_values"] == [5, 30]


def test_workflows_are_loaded_by_name(tmp_path: Path):
    (tmp_path / "api").mkdir()
    for name in (*DEMO_WORKFLOWS, "extra"):
        (tmp_path / "api" / f"{name}.json").write_text("{}")
        (tmp_path / f"{name}.json").write_text("{}")
    assert [workflow.name for workflow in load_workflows(tmp_path, None)] == list(DEMO_WORKFLOWS)
    assert [workflow.name for workflow in load_workflows(tmp_path, ["extra"])] == ["extra"]
    with pytest.raises(
        DevError, match=r"There is no workflow 'sprite'.*choose one of batch_optimized, extra, pixel_art_workflow"
    ):
        load_workflows(tmp_path, ["sprite"])


def test_titles():
    workflow = Workflow("w", PROMPT, UI)
    assert [workflow.title(node) for node in ("1", "2", "99")] == ["Load Checkpoint", "BatchSpriteSampler", "99"]
    assert workflow.nodes_of("EmptyLatentImage") == ["3"]
