"""The demo's pure parts: fitting workflows, the bar, the table."""

import json
from pathlib import Path
from typing import Any

import pytest
from dev_tools.console import bar
from dev_tools.contact_sheet import CELL, COLUMNS, GAP, TITLE, write_contact_sheet
from dev_tools.demo import Drawn, WorkflowProgress, summary_of, table
from dev_tools.errors import DevError
from dev_tools.workflow_files import DEMO_WORKFLOWS, Workflow, fitted, load_workflows, set_widgets
from fast_sprites.nodes.benchmark.client import Cached, NodeStarted, Step
from PIL import Image

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


def test_the_tiny_checkpoint_gets_the_cfg_that_it_was_trained_for():
    prompt = {"2": {"class_type": "KSampler", "inputs": {"cfg": 8.0, "steps": 20}}}
    ui = {"nodes": [{"id": 2, "inputs": [{"widget": {"name": n}} for n in ("steps", "cfg")], "widgets_values": [20, 8.0]}]}
    workflow = fitted(Workflow("w", prompt, ui), "tiny.safetensors", 256)
    assert workflow.prompt["2"]["inputs"] == {"cfg": 4.0, "steps": 20}
    assert workflow.ui["nodes"][0]["widgets_values"] == [20, 4.0]


def test_a_real_checkpoint_keeps_size_and_cfg():
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


def test_the_table_names_what_was_refused_once():
    refused = ("refused: CUDA graph: needs the engine",)
    rows = [
        Drawn("sprite_optimized", (Path("a.png"),), "256x256", 6.44, 1.0, refused),
        Drawn("batch_optimized", (Path("b.png"),) * 8, "256x256", 40.0, 1.5, refused),
        Drawn("baseline", (Path("c.png"),), "256x256", 5.0, 1.0, ()),
    ]
    assert table(rows, "VRAM").splitlines() == [
        "workflow          pictures  size     seconds  peak VRAM",
        "----------------  --------  -------  -------  ---------",
        "sprite_optimized  1         256x256  6.4      1.00 GiB",
        "batch_optimized   8         256x256  40.0     1.50 GiB",
        "baseline          1         256x256  5.0      1.00 GiB",
        "",
        "OptimizeModel in sprite_optimized, batch_optimized:",
        "  refused: CUDA graph: needs the engine",
        "",
        "OptimizeModel in baseline:",
        "  nothing applied, nothing refused",
    ]


def test_only_decisions_are_taken_from_a_report():
    report = "CPU: 1 applied, 1 refused\napplied: a: b\nkept: c: d\nrefused: e: f\nnote: g"
    assert summary_of(report) == ["applied: a: b", "refused: e: f"]


def test_the_bar_counts_nodes_and_steps(capsys: pytest.CaptureFixture[str]):
    progress = WorkflowProgress(Workflow("w", PROMPT, UI))
    progress.update(Cached(("1",)))
    progress.update(NodeStarted("2"))
    progress.update(Step("2", 10, 20))
    assert bar((1 + 0.5) / 4) in progress.text()
    assert progress.text().endswith("BatchSpriteSampler 10/20")
    progress.update(NodeStarted("3"))
    assert bar(2 / 4) in progress.text()
    progress.finish("done")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3, "in a pipe: one line for each node and one for the end"
    assert bar(1) in lines[-1]


def test_the_contact_sheet_holds_every_picture(tmp_path: Path):
    pictures = []
    for number in range(6):
        pictures.append(tmp_path / f"{number}.png")
        Image.new("RGB", (16, 8), (number * 40, 0, 200)).save(pictures[-1])
    write_contact_sheet([("one", pictures[:1]), ("five", pictures[1:])], tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        colours = {colour for _, colour in sheet.getcolors(1 << 20) or []}
        assert sheet.width == GAP + COLUMNS * (CELL + GAP)
        assert sheet.height == GAP + 2 * TITLE + 3 * (CELL + GAP)
    assert {(number * 40, 0, 200) for number in range(6)} <= colours
