"""Graphs in API format: read, changed and freed of what a benchmark must not time."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...engine.errors import BadInputError
from ..documents import read_workflow

Graph = dict[str, dict[str, Any]]  # node id -> {class_type, inputs, _meta}
Link = tuple[str, int]
OutputTypes = Mapping[str, Sequence[str]]  # class_type -> types of its outputs
Widgets = Mapping[str, Any]

OPTIMIZERS = {"OptimizeModel": "model", "OptimizeVAE": "vae"}
PASS_THROUGH = {**OPTIMIZERS, "MemoryProbe": "value"}
SEED_INPUTS = ("seed", "noise_seed")


def read_graph(path: Path) -> Graph:
    """The graph of an API-format file, with every node that it links to; raises BadInputError for anything else."""
    nodes = read_workflow(path)
    missing = sorted({link[0] for node in nodes.values() for link in links_of(node).values()} - set(nodes))
    if missing:
        raise BadInputError(
            f"The workflow {path} has links from nodes that it does not hold: {', '.join(missing)}; export it again."
        )
    return nodes


def as_link(value: Any) -> Link | None:
    """The output that an input is linked to, None for a widget's value."""
    match value:
        case [str(node_id), int(index)] if index >= 0:
            return node_id, index
        case _:
            return None


def links_of(node: Mapping[str, Any]) -> dict[str, Link]:
    """A node's linked inputs by name."""
    found = ((name, as_link(value)) for name, value in node["inputs"].items())
    return {name: link for name, link in found if link is not None}


def with_inputs(graph: Graph, changes: Mapping[str, Widgets]) -> Graph:
    """A copy in which every node of a class named in `changes` has these widget values."""
    changed = copy.deepcopy(graph)
    for node in changed.values():
        node["inputs"].update(changes.get(node["class_type"], {}))
    return changed


def with_widgets(graph: Graph, values: Widgets) -> Graph:
    """A copy in which every widget (not link) named in `values` has that value, whatever its node."""
    changed = copy.deepcopy(graph)
    for node in changed.values():
        node["inputs"].update({name: value for name, value in values.items() if is_widget(node, name)})
    return changed


def is_widget(node: Mapping[str, Any], name: str) -> bool:
    """Tell whether a node has a value of its own for an input."""
    return name in node["inputs"] and as_link(node["inputs"][name]) is None


def rewire(graph: Graph, old: Link, new: Link, keep: Iterable[str] = ()) -> None:
    """Make every input that reads `old` read `new`, except those of the nodes `keep`."""
    for node_id, node in graph.items():
        if node_id in keep:
            continue
        for name, link in links_of(node).items():
            if link == old:
                node["inputs"][name] = list(new)


def without_pass_through(graph: Graph, classes: Mapping[str, str]) -> Graph:
    """A copy without the nodes of `classes` (class -> the input that its first output passes on).

    Nodes that only read another output of theirs (a report, readings) go with them.
    """
    changed = copy.deepcopy(graph)
    for node_id in [node_id for node_id, node in graph.items() if node["class_type"] in classes]:
        node = changed.pop(node_id)
        source = as_link(node["inputs"].get(classes[node["class_type"]]))
        if source is not None:
            rewire(changed, (node_id, 0), source)
        lost = {node_id}
        while lost:
            readers = {other for other, reader in changed.items() if lost & {link[0] for link in links_of(reader).values()}}
            for reader in readers:
                del changed[reader]
            lost = readers
    return changed


def sources_of(graph: Graph, kind: str, output_types: OutputTypes) -> list[Link]:
    """The outputs of type `kind` of nodes that are given none of it: loaders, whatever their class."""
    found: list[Link] = []
    for node_id, node in graph.items():
        given = (_type_of(graph, link, output_types) for link in links_of(node).values())
        if kind in given:
            continue
        found += [(node_id, index) for index, name in enumerate(output_types.get(node["class_type"], ())) if name == kind]
    return found


def _type_of(graph: Graph, link: Link, output_types: OutputTypes) -> str:
    types = output_types.get(graph[link[0]]["class_type"], ())
    return types[link[1]] if link[1] < len(types) else ""


def insert_after(graph: Graph, source: Link, node_id: str, class_type: str, inputs: Widgets) -> bool:
    """Put a node between the output `source` and everything that reads it; False (and nothing done) if nothing does.

    The input that is to read `source` is the one with the value None; the node's first output takes its place.
    """
    if not any(source in links_of(node).values() for node in graph.values()):
        return False
    rewire(graph, source, (node_id, 0))
    graph[node_id] = {
        "class_type": class_type,
        "inputs": {name: list(source) if value is None else value for name, value in inputs.items()},
    }
    return True


def seed_nodes(graph: Graph) -> list[str]:
    """The ids of nodes with a seed of their own."""
    return [node_id for node_id, node in graph.items() if any(is_widget(node, name) for name in SEED_INPUTS)]


def with_seed(graph: Graph, seed: int) -> Graph:
    """A copy in which every seed is `seed`."""
    return with_widgets(graph, dict.fromkeys(SEED_INPUTS, seed))


def with_own_seeds(graph: Graph) -> Graph:
    """A copy in which seeds that other nodes give (a primitive, a seed of several samplers) are widgets."""
    changed = copy.deepcopy(graph)
    for node in changed.values():
        node["inputs"].update(dict.fromkeys(set(SEED_INPUTS) & set(links_of(node)), 0))
    return changed


def upstream(graph: Graph, start: Iterable[str]) -> set[str]:
    """`start` and every node that they depend on."""
    found: set[str] = set()
    waiting = list(start)
    while waiting:
        node_id = waiting.pop()
        if node_id not in found:
            found.add(node_id)
            waiting += [link[0] for link in links_of(graph[node_id]).values()]
    return found


def resting_nodes(graph: Graph) -> Graph:
    """The nodes that depend on no seed: loaders, text encoders and optimisers, whose results ComfyUI can keep."""
    seeded = set(seed_nodes(graph))
    return {node_id: node for node_id, node in graph.items() if not upstream(graph, [node_id]) & seeded}


def with_ids(graph: Graph, names: Mapping[str, str]) -> Graph:
    """A copy in which the nodes named in `names` have other ids."""
    changed = copy.deepcopy(graph)
    for node in changed.values():
        for name, link in links_of(node).items():
            node["inputs"][name] = [names.get(link[0], link[0]), link[1]]
    return {names.get(node_id, node_id): node for node_id, node in changed.items()}
