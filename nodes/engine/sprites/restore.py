"""The workflow that draws one sprite of a batch alone, for the metadata of its file."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .prompts import written
from .request import picture_number
from .seeds import EXACT_IN_BROWSERS

SAMPLER_WIDGETS = (
    "count", "width", "height", "seed", "control_after_generate", "seed_mode", "steps", "cfg", "sampler_name", "scheduler", "denoise",
    "micro_batch", "seed_list", "draw", "first_picture",
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
    prompt: Mapping[str, Any], save_node_id: str, i: int, index: int, seed: int | None, line: str | None
) -> list[NodeEdit]:
    """Return what must change in the graph for it to draw sprite `i` (from 0) alone, with this number, seed and prompt line."""
    wanted = []
    if seed is not None:
        values = {"count": 1, "seed": seed, "control_after_generate": "fixed", "seed_mode": "increment", "seed_list": ""}
        if seed > EXACT_IN_BROWSERS:  # text loses no digits there
            values |= {"seed_mode": "list", "seed_list": str(seed)}
        wanted += [(socket, "BatchSpriteSampler", SAMPLER_WIDGETS, values) for socket in ("seeds", "sprites")]
    if line is not None:
        wanted.append(
            (
                "prompts",
                "SpritePrompts",
                PROMPT_WIDGETS,
                {"prompts": written(line), "count": 1, "control_after_generate": "fixed"},
            )
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
            if widgets is SAMPLER_WIDGETS:
                first = prompt[link[0]]["inputs"].get("first_picture", 0)
                values = {**values, "first_picture": picture_number(first, i)}
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


def is_page_graph(content: Any) -> bool:
    """Whether this is a graph as ComfyUI's page saves it, as far as edits touch it: clients of the API send what they like."""
    if not isinstance(content, dict) or not isinstance(content.get("definitions") or {}, dict):
        return False
    inner = (content.get("definitions") or {}).get("subgraphs") or []
    return _has_nodes(content) and _are_dicts(inner) and all(isinstance(g.get("id"), str) and _has_nodes(g) for g in inner)


def _has_nodes(graph: dict[str, Any]) -> bool:
    links = graph.get("links") or []
    return (
        _are_dicts(graph.get("nodes"))
        and all(_is_node(node) for node in graph["nodes"])
        and isinstance(links, list)
        # Links are lists in a workflow and objects in the definition of a subgraph.
        and all("id" in link if isinstance(link, dict) else isinstance(link, list) and len(link) > 0 for link in links)
    )


def _is_node(node: dict[str, Any]) -> bool:
    inputs, outputs = node.get("inputs") or [], node.get("outputs") or []
    return (
        isinstance(node.get("id"), int | str)
        and isinstance(node.get("type"), str)
        and _are_dicts(inputs)
        and all(_is_socket(socket) for socket in inputs)
        and _are_dicts(outputs)
        and all(isinstance(output.get("links") or [], list) for output in outputs)
    )


def _is_socket(socket: dict[str, Any]) -> bool:
    widget = socket.get("widget") or {}
    return isinstance(widget, dict) and isinstance(widget.get("name", ""), str)


def _are_dicts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def edit_workflow(workflow: Mapping[str, Any], edits: list[NodeEdit]) -> dict[str, Any]:
    """Return the browser's graph (see `is_page_graph`) with the edits; links into edited widgets are taken off.

    Nodes that are not found stay as they are.
    """
    edited = _copied(workflow)
    inner = (workflow.get("definitions") or {}).get("subgraphs")
    if inner:
        edited["definitions"] = {**workflow["definitions"], "subgraphs": [_copied(graph) for graph in inner]}
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
        if isinstance(named := node.get("widgets_values_named"), dict):  # of pages from 1.58 on, which may read these instead
            node["widgets_values_named"] = {**named, **edit.values}
        for socket in node.get("inputs") or ():
            if (socket.get("widget") or {}).get("name") in edit.values and socket.get("link") is not None:
                _unlink(graph, socket)
    return edited


def _copied(graph: Mapping[str, Any]) -> dict[str, Any]:
    """As deep a copy as edits need: what a client nests inside may be deeper than copy.deepcopy can go."""
    nodes = []
    for node in graph["nodes"]:
        copied = dict(node)
        if node.get("inputs"):
            copied["inputs"] = [dict(socket) for socket in node["inputs"]]
        if node.get("outputs"):
            copied["outputs"] = [{**o, "links": list(o["links"])} if o.get("links") else o for o in node["outputs"]]
        if isinstance(node.get("widgets_values"), list):
            copied["widgets_values"] = list(node["widgets_values"])
        nodes.append(copied)
    return {**graph, "nodes": nodes}


def _find(workflow: dict[str, Any], node_id: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Return the graph that holds the node, and the node."""
    definitions = {graph["id"]: graph for graph in (workflow.get("definitions") or {}).get("subgraphs") or ()}
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
    return next((node for node in (graph or {}).get("nodes", ()) if str(node["id"]) == node_id), None)


def _unlink(graph: dict[str, Any], socket: dict[str, Any]) -> None:
    link_id, socket["link"] = socket["link"], None
    links = graph.get("links") or ()
    graph["links"] = [link for link in links if (link["id"] if isinstance(link, dict) else link[0]) != link_id]
    for node in graph["nodes"]:
        for output in node.get("outputs") or ():
            if link_id in (output.get("links") or ()):
                output["links"].remove(link_id)
