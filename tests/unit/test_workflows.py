"""The bundled workflow files: they parse, hang together, and name only nodes that exist."""

import ast
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..conftest import PACK_ROOT

FOLDER = PACK_ROOT / "workflows"
WORKFLOWS = sorted(FOLDER.glob("*.json"))
CORE_NODES = {
    "CheckpointLoaderSimple",
    "CLIPTextEncode",
    "EmptyLatentImage",
    "KSampler",
    "MarkdownNote",
    "PreviewImage",
    "SaveImage",
    "VAEDecode",
}
EXPECTED = {
    "sprite_optimized", "batch_optimized", "pixel_art_workflow", "sprite_sheet", "sprites_to_disk", "baseline_single", "baseline_batch",
}  # fmt: skip
BROWSER_ONLY = {"MarkdownNote"}
TITLE_HEIGHT = 30  # LiteGraph draws a node's title above its position

each_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def schema_calls() -> Iterator[ast.Call]:
    """Every `io.Schema(...)` in the node files."""
    for path in (PACK_ROOT / "nodes").glob("*.py"):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "io.Schema":
                yield call


def widget_names(schema: ast.Call) -> list[str]:
    """The widgets that a schema declares, in order, with the one that ComfyUI's page adds behind a seed."""
    inputs = next(keyword.value for keyword in schema.keywords if keyword.arg == "inputs")
    assert isinstance(inputs, ast.List)
    names = []
    for call in inputs.elts:
        assert isinstance(call, ast.Call)
        if ast.unparse(call.func).split(".")[1] in {"Int", "Float", "String", "Boolean", "Combo"}:
            names.append(ast.literal_eval(call.args[0]))
            if any(keyword.arg == "control_after_generate" for keyword in call.keywords):
                names.append("control_after_generate")
    return names


def node_id(schema: ast.Call) -> str:
    return next(ast.literal_eval(keyword.value) for keyword in schema.keywords if keyword.arg == "node_id")


OUR_WIDGETS = {node_id(schema): widget_names(schema) for schema in schema_calls()}


def test_all_workflows_are_there() -> None:
    assert {path.stem for path in WORKFLOWS} == EXPECTED


@each_workflow
def test_nodes_are_cores_or_ours(path: Path) -> None:
    types = {node["type"] for node in read(path)["nodes"]}
    assert types <= CORE_NODES | set(OUR_WIDGETS)
    if path.stem.startswith("baseline"):
        assert types <= CORE_NODES


@each_workflow
def test_widget_values_fit_the_schemas(path: Path) -> None:
    ours = [node for node in read(path)["nodes"] if node["type"] in OUR_WIDGETS]
    for node in ours:
        assert len(node["widgets_values"]) == len(OUR_WIDGETS[node["type"]]), node["type"]


@each_workflow
def test_links_agree_with_both_ends(path: Path) -> None:
    workflow = read(path)
    nodes = {node["id"]: node for node in workflow["nodes"]}
    assert len(nodes) == len(workflow["nodes"])
    assert workflow["last_node_id"] >= max(nodes)
    links = {link[0]: link for link in workflow["links"]}
    assert len(links) == len(workflow["links"])
    for number, source, source_slot, target, target_slot, _ in links.values():
        assert number in nodes[source]["outputs"][source_slot]["links"]
        assert nodes[target]["inputs"][target_slot]["link"] == number
    ends = [entry["link"] for node in nodes.values() for entry in node["inputs"] if entry["link"] is not None]
    assert sorted(ends) == sorted(links)


@each_workflow
def test_nodes_do_not_overlap(path: Path) -> None:
    def box(node: dict[str, Any]) -> tuple[float, float, float, float]:
        (x, y), (width, height) = node["pos"], node["size"]
        return x, y - TITLE_HEIGHT, x + width, y + height

    for first, second in itertools.combinations(read(path)["nodes"], 2):
        (left, top, right, bottom), (left2, top2, right2, bottom2) = box(first), box(second)
        apart = right <= left2 or right2 <= left or bottom <= top2 or bottom2 <= top
        assert apart, f"{first['type']} overlaps {second['type']}"


@each_workflow
def test_every_node_stands_in_one_group(path: Path) -> None:
    workflow = read(path)
    for node in workflow["nodes"]:
        (x, y), (width, height) = node["pos"], node["size"]
        homes = [
            group["title"]
            for group in workflow["groups"]
            for left, top, wide, high in [group["bounding"]]
            if left <= x and top <= y - TITLE_HEIGHT and x + width <= left + wide and y + height <= top + high
        ]
        assert len(homes) == 1, f"{node['type']}: {homes}"


@each_workflow
def test_opened_copies_get_an_id_and_a_view_of_their_own(path: Path) -> None:
    workflow = read(path)
    assert "id" not in workflow
    assert "ds" not in workflow["extra"]


@each_workflow
def test_a_note_says_what_to_change_first(path: Path) -> None:
    notes = [node for node in read(path)["nodes"] if node["type"] == "MarkdownNote"]
    assert [note["title"] for note in notes] == ["Change these first"]
    assert "**1. Checkpoint**" in notes[0]["widgets_values"][0]


@each_workflow
def test_api_twin_has_the_same_nodes(path: Path) -> None:
    twin = read(FOLDER / "api" / path.name)
    nodes = {str(node["id"]): node["type"] for node in read(path)["nodes"] if node["type"] not in BROWSER_ONLY}
    assert {number: node["class_type"] for number, node in twin.items()} == nodes


def test_api_files_have_a_workflow() -> None:
    assert {path.stem for path in (FOLDER / "api").glob("*.json")} == EXPECTED


@each_workflow
def test_thumbnail_is_a_small_jpeg(path: Path) -> None:
    picture = path.with_suffix(".jpg").read_bytes()
    assert picture[:3] == b"\xff\xd8\xff"
    assert len(picture) < 100_000


@pytest.mark.parametrize(
    ("name", "steps", "cfg", "count"),
    [
        ("sprite_optimized", 20, 8, 1),
        ("baseline_single", 20, 8, 1),
        ("batch_optimized", 20, 8, 8),
        ("baseline_batch", 20, 8, 8),
        ("pixel_art_workflow", 25, 9, 8),
    ],
)
def test_quality_settings(name: str, steps: int, cfg: float, count: int) -> None:
    prompt = read(FOLDER / "api" / f"{name}.json")
    sampler = next(node["inputs"] for node in prompt.values() if "sampler_name" in node["inputs"])
    size = next(node["inputs"] for node in prompt.values() if "width" in node["inputs"])
    assert (sampler["steps"], sampler["cfg"]) == (steps, cfg)
    assert (sampler["sampler_name"], sampler["scheduler"], sampler["denoise"]) == ("euler_ancestral", "karras", 1)
    assert (size["width"], size["height"]) == (1024, 1024)
    assert size.get("count", size.get("batch_size")) == count


def test_baselines_draw_what_the_optimised_ones_draw() -> None:
    for ours, baseline in (("sprite_optimized", "baseline_single"), ("batch_optimized", "baseline_batch")):
        texts = [
            [node["inputs"]["text"] for node in read(FOLDER / "api" / f"{name}.json").values() if "text" in node["inputs"]]
            for name in (ours, baseline)
        ]
        assert texts[0] == texts[1]


def test_every_node_has_a_help_page() -> None:
    pages = {path.stem: path.read_text(encoding="utf-8") for path in (PACK_ROOT / "web" / "docs").glob("*.md")}
    assert set(pages) == set(OUR_WIDGETS)


@pytest.mark.parametrize("name", sorted(OUR_WIDGETS))
def test_help_page_names_every_widget(name: str) -> None:
    page = (PACK_ROOT / "web" / "docs" / f"{name}.md").read_text(encoding="utf-8")
    missing = [widget for widget in OUR_WIDGETS[name] if widget != "control_after_generate" and widget not in page]
    assert missing == []


@each_workflow
def test_a_missing_checkpoint_is_offered_by_the_page(path: Path) -> None:
    (loader,) = (node for node in read(path)["nodes"] if node["type"] == "CheckpointLoaderSimple")
    (model,) = loader["properties"]["models"]
    assert [model["name"]] == loader["widgets_values"]
    assert model["directory"] == "checkpoints"
    assert re.fullmatch(rf"https://huggingface\.co/\S+/{re.escape(model['name'])}\?download=true", model["url"])
