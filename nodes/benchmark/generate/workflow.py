"""The workflow that `generate` runs: any API graph with SpritePrompts, BatchSpriteSampler and SaveSprites."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from ...engine.errors import BadInputError
from ...engine.sprites.file_names import FORMATS
from ...engine.sprites.prompts import written
from ...engine.sprites.request import picture_number
from ..client import ComfyClient
from ..documents import is_graph
from ..pack import WORKFLOWS
from .request import GenerateRequest, Job

DEFAULT_WORKFLOW = WORKFLOWS / "sprites_to_disk.json"
LISTED_CHECKPOINTS = 5

Graph = dict[str, Any]


@dataclass(frozen=True)
class SpriteNodes:
    """Ids of the nodes that a job sets."""

    prompts: str
    sampler: str
    save: str


def sprite_nodes(graph: Graph) -> SpriteNodes:
    """The three nodes that a job sets; raises BadInputError if they are not there once each, or a job could not set them."""

    if not is_graph(graph):
        raise BadInputError("The workflow is not in API format: export it with File > Export (API).")

    def only(class_type: str) -> str:
        found = [node_id for node_id, node in graph.items() if node["class_type"] == class_type]
        if len(found) != 1:
            raise BadInputError(
                f"The workflow has {len(found)} {class_type} nodes; generate sets one SpritePrompts, one BatchSpriteSampler and one "
                f"SaveSprites, as in {DEFAULT_WORKFLOW.name}."
            )
        return found[0]

    nodes = SpriteNodes(only("SpritePrompts"), only("BatchSpriteSampler"), only("SaveSprites"))
    format_ = graph[nodes.save]["inputs"].get("format", FORMATS[0])
    if format_ not in FORMATS:
        raise BadInputError(f"The workflow's SaveSprites has the format {format_!r}; generate knows {' and '.join(FORMATS)}.")
    return nodes


def configured(request: GenerateRequest) -> Graph:
    """The request's workflow with its checkpoint, prefix, suffix and negative."""
    nodes = sprite_nodes(request.workflow)
    graph = {node_id: {**node, "inputs": dict(node["inputs"])} for node_id, node in request.workflow.items()}
    shared = {"prefix": request.prefix, "suffix": request.suffix, "negative": request.negative}
    graph[nodes.prompts]["inputs"] |= {name: text for name, text in shared.items() if text is not None}
    if request.checkpoint is not None:
        loaders = [node for node in graph.values() if "ckpt_name" in node["inputs"]]
        if not loaders:
            raise BadInputError("A checkpoint is named, but the workflow has no node that loads one; leave --checkpoint out.")
        for node in loaders:
            node["inputs"]["ckpt_name"] = request.checkpoint
    save = graph[nodes.save]["inputs"]
    save["prompts"] = [nodes.prompts, 2]
    if "sprites" not in save:
        save["seeds"] = [nodes.sampler, 1]
    return graph


def job_graph(graph: Graph, nodes: SpriteNodes, job: Job) -> Graph:
    """The graph that draws the sprites of `job`."""
    sprites = job.sprites
    first = graph[nodes.sampler]["inputs"].get("first_picture", 0)
    widgets = {
        nodes.prompts: {
            "prompts": "\n".join(written(sprite.prompt) for sprite in sprites),
            "count": len(sprites),
            "alternatives": "pick",
        },
        nodes.sampler: {
            "count": len(sprites),
            "seed": sprites[0].seed,
            "seed_mode": "list",
            "seed_list": ", ".join(str(sprite.seed) for sprite in sprites),
            "first_picture": picture_number(first, sprites[0].index),
        },
        nodes.save: {"first_index": sprites[0].index + 1},
    }
    return {
        node_id: {**node, "inputs": {**node["inputs"], **widgets.get(node_id, {})}} if node_id in widgets else node
        for node_id, node in graph.items()
    }


def file_extension(graph: Graph, nodes: SpriteNodes) -> str:
    """The extension of the files that the graph saves."""
    return f".{graph[nodes.save]['inputs'].get('format', FORMATS[0])}"


async def check_server(client: ComfyClient, address: str, graph: Graph) -> None:
    """Raise BadInputError if the server lacks nodes of the graph, or a checkpoint that it loads."""
    declared: dict[str, Any] = {}
    for class_type in sorted({node["class_type"] for node in graph.values()}):
        declared |= await client.object_info(class_type)
    missing = [node["class_type"] for node in graph.values() if node["class_type"] not in declared]
    if missing:
        raise BadInputError(
            f"ComfyUI at {address} has no node {', '.join(dict.fromkeys(missing))}: install Fast Sprites (or the pack of that node) there "
            "and restart it."
        )
    if "first_picture" not in _inputs(declared["BatchSpriteSampler"]):
        raise BadInputError(
            f"ComfyUI at {address} has an older Fast Sprites, whose sampler cannot begin in the middle of a batch: update it there and "
            "restart."
        )
    for node in graph.values():
        name, known = node["inputs"].get("ckpt_name"), _options(declared[node["class_type"]], "ckpt_name")
        if isinstance(name, str) and known is not None and name not in known:
            some = ", ".join(known[:LISTED_CHECKPOINTS]) + (", ..." if len(known) > LISTED_CHECKPOINTS else "")
            raise BadInputError(
                f"ComfyUI at {address} has no checkpoint {name!r}: name one of {some or 'none (put a file into models/checkpoints)'} "
                "with --checkpoint."
            )


def _inputs(node: Mapping[str, Any]) -> dict[str, Any]:
    return {**node["input"].get("required", {}), **node["input"].get("optional", {})}


def _options(node: Mapping[str, Any], name: str) -> list[str] | None:
    """The choices of a Combo, which older nodes declare as a bare list."""
    kind, *settings = _inputs(node).get(name, (None,))
    if isinstance(kind, list):
        return list(cast("list[str]", kind))
    return settings[0].get("options") if settings else None
