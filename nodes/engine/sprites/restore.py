"""The workflow that draws one sprite of a batch alone, for the metadata of its file."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SAMPLER_WIDGETS = (
    "count", "width", "height", "seed", "control_after_generate", "seed_mode", "steps", "cfg", "sampler_name", "scheduler", "denoise",
    "micro_batch", "seed_list", "draw",
)  # fmt: skip
"""Widgets of BatchSpriteSampler in the order of a workflow's `widgets_values`."""

PROMPT_WIDGETS = ("prompts", "prefix", "suffix", "negative", "count", "alternatives", "seed", "control_after_generate")
"""The same of SpritePrompts."""

SAVE_WIDGETS = ("filename", "format", "first_index")
"""The same of SaveSprites."""


@dataclass(frozen=True)
class NodeEdit:
    """New widget values of one node; `node_id` is ComfyUI's unique id, `outer:inner` inside subgraphs."""

    node_id: str
    widgets: tuple[str, ...]
    values: dict[str, Any]


def single_sprite_edits(
    prompt: Mapping[str, Any], save_node_id: str, index: int, seed: int | None, line: str | None
) -> list[NodeEdit]:
    """Return what must change in the graph for it to draw one sprite with this number, seed and prompt line."""
    wanted = []
    if seed is not None:
        values = {"count": 1, "seed": seed, "control_after_generate": "fixed", "seed_mode": "increment", "seed_list": ""}
        wanted += [(socket, "BatchSpriteSampler", SAMPLER_WIDGETS, values) for socket in ("seeds", "sprites")]
    if line is not None:
        wanted.append(
            ("prompts", "SpritePrompts", PROMPT_WIDGETS, {"prompts": line, "count": 1, "control_after_generate": "fixed"})
        )
    inputs = prompt.get(save_node_id, {}).get("inputs", {})
    edits = [NodeEdit(save_node_id, SAVE_WIDGETS, {"first_index": index})] if "first_index" in inputs else []
    for socket, class_type, widgets, values in wanted:
        link = inputs.get(socket)
        if (
            isinstance(link, list)
            and link
            and isinstance(link[0], str)
            and prompt.get(link[0], {}).get("class_type") == class_type
        ):
            edits.append(NodeEdit(link[0], widgets, values))
    return edits


def edit_prompt(prompt: Mapping[str, Any], edits: list[NodeEdit]) -> dict[str, Any]:
    """Return the API graph with the edits; linked inputs become constants."""
    edited = dict(prompt)
    for edit in edits:
        node = edited[edit.node_id]
        values = {name: value for name, value in edit.values.items() if name != "control_after_generate"}
        edited[edit.node_id] = {**node, "inputs": {**node["inputs"], **values}}
    return edited


def edit_workflow(workflow: Any, edits: list[NodeEdit]) -> Any:
    """Return the browser's graph with the edits; links into edited widgets are taken off. Nodes that are not found stay as they are.

    So does what is no such graph at all: clients of the API put there what they like, and the sprite is drawn already.
    """
    try:
        edited = copy.deepcopy(workflow)
        _edit_graph(edited, edits)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RecursionError):
        return workflow
    return edited


def _edit_graph(edited: dict[str, Any], edits: list[NodeEdit]) -> None:
    for edit in edits:
        found = _find(edited, edit.node_id)
        if found is None:
            continue
        graph, node = found
        stored = node.get("widgets_values")
        if isinstance(stored, list):
            for name, value in edit.values.items():
                # Files of an earlier version lack the widgets that came since, which stand last.
                if edit.widgets.index(name) < len(stored):
                    stored[edit.widgets.index(name)] = value
        for socket in node.get("inputs", []):
            if socket.get("widget", {}).get("name") in edit.values and socket.get("link") is not None:
                _unlink(graph, socket)


def _find(workflow: dict[str, Any], node_id: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Return the graph that holds the node, and the node."""
    definitions = {graph["id"]: graph for graph in workflow.get("definitions", {}).get("subgraphs", [])}
    graph: dict[str, Any] | None = workflow
    *outer, last = node_id.split(":")
    for part in outer:
        holder = _node(graph, part)
        graph = None if holder is None else definitions.get(holder["type"])
        if graph is None:
            return None
    node = _node(graph, last)
    return None if node is None or graph is None else (graph, node)


def _node(graph: dict[str, Any] | None, node_id: str) -> dict[str, Any] | None:
    return next((node for node in (graph or {}).get("nodes", []) if str(node["id"]) == node_id), None)


def _unlink(graph: dict[str, Any], socket: dict[str, Any]) -> None:
    link_id, socket["link"] = socket["link"], None
    # Links are lists in a workflow and objects in the definition of a subgraph.
    graph["links"] = [link for link in graph.get("links", []) if (link["id"] if isinstance(link, dict) else link[0]) != link_id]
    for node in graph["nodes"]:
        for output in node.get("outputs", []):
            if link_id in (output.get("links") or []):
                output["links"].remove(link_id)
