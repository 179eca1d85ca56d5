"""What saved workflows rely on: ids, inputs, types, defaults, options and order of every node, as committed in node_surface.json."""

import json
from pathlib import Path
from typing import Any

import pytest

SNAPSHOT = Path(__file__).with_name("node_surface.json")
# Options that the installation decides: ComfyUI's lists and the files in its folders.
OPTIONS_FROM_COMFYUI = {
    ("BatchSpriteSampler", "sampler_name"),
    ("BatchSpriteSampler", "scheduler"),
    ("PixelPalette", "palette_file"),
}
# What a person reads; it may change without breaking a workflow.
WORDS = {"tooltip", "display_name", "placeholder"}


def surface_of(node: Any) -> dict[str, Any]:
    schema = node.GET_SCHEMA()
    inputs = []
    for socket in schema.inputs:
        facts = {key: value for key, value in socket.as_dict().items() if key not in WORDS}
        if (schema.node_id, socket.id) in OPTIONS_FROM_COMFYUI:
            facts["options"] = "from ComfyUI"
        inputs.append({"id": socket.id, "type": socket.get_io_type(), "optional": socket.optional, **facts})
    return {
        "inputs": inputs,
        "outputs": [{"id": socket.id, "type": socket.get_io_type()} for socket in schema.outputs],
        "hidden": sorted(hidden.name for hidden in schema.hidden),
        "is_output_node": schema.is_output_node,
        "category": schema.category,
    }


@pytest.fixture(scope="module")
def surface(pack_nodes) -> dict[str, Any]:
    ours = {
        name: node for name, node in pack_nodes.items() if getattr(node, "GET_SCHEMA", None) and "Fast Sprites" in node.CATEGORY
    }
    return json.loads(json.dumps({name: surface_of(node) for name, node in sorted(ours.items())}))


def test_surface_is_as_committed(surface, request):
    if request.config.getoption("--update-node-surface"):
        SNAPSHOT.write_text(json.dumps(surface, indent=1) + "\n", encoding="utf-8")
        pytest.skip(f"{SNAPSHOT.name} written anew; commit it together with the change of the nodes")
    committed = json.loads(SNAPSHOT.read_text(encoding="utf-8"))
    assert surface == committed, (
        "saved workflows may break; if that is meant, run pytest tests/comfy --update-node-surface and commit"
    )


def test_every_socket_and_node_says_what_it_is(pack_nodes, surface):
    for name in surface:
        schema = pack_nodes[name].GET_SCHEMA()
        assert schema.display_name, name
        assert schema.description, name
        assert all(output.id for output in schema.outputs), name
        silent = [socket.id for socket in (*schema.inputs, *schema.outputs) if not socket.tooltip]
        assert silent == [], f"{name}: give these a tooltip"


def test_defaults_lie_within_their_own_limits(surface):
    for name, node in surface.items():
        for socket in node["inputs"]:
            if "min" in socket:
                assert socket["min"] <= socket["default"] <= socket["max"], (name, socket)
            if isinstance(socket.get("options"), list) and "default" in socket:
                assert socket["default"] in socket["options"], (name, socket)
