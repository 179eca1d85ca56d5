"""Reads the bundled workflows and fits them to the checkpoint at hand."""

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dev_tools.errors import DevError

DEMO_WORKFLOWS = ("sprite_optimized", "batch_optimized", "pixel_art_workflow")
TINY_SIZE = 256  # pixels a side: a 20-step picture of the tiny checkpoint takes seconds on two CPU cores
TINY_CFG = 4.0  # what it was trained for (docs/tiny-sdxl.md); 8 and 9, as the workflows have for SDXL, overdraw it
SEED_CONTROLS = ("fixed", "increment", "decrement", "randomize")


@dataclass(frozen=True)
class Workflow:
    """One workflow: `prompt` in API format, `ui` as the page saves it (both describe the same graph)."""

    name: str
    prompt: dict[str, Any]
    ui: dict[str, Any]

    def title(self, node_id: str) -> str:
        """What the page calls a node."""
        node = self.prompt.get(node_id, {})
        return node.get("_meta", {}).get("title") or node.get("class_type", node_id)

    def nodes_of(self, class_type: str) -> list[str]:
        """The ids of the nodes of one type."""
        return [node_id for node_id, node in self.prompt.items() if node["class_type"] == class_type]


def load_workflows(folder: Path, names: Sequence[str] | None) -> list[Workflow]:
    """The workflows of `folder`/api by name, the three of the demo if none is named."""
    workflows = []
    for name in names or DEMO_WORKFLOWS:
        api, ui = folder / "api" / f"{name}.json", folder / f"{name}.json"
        if not api.is_file() or not ui.is_file():
            known = ", ".join(sorted(path.stem for path in (folder / "api").glob("*.json"))) or "none"
            raise DevError(f"There is no workflow {name!r} in {folder / 'api'}: choose one of {known}.")
        workflows.append(Workflow(name, json.loads(api.read_text(encoding="utf-8")), json.loads(ui.read_text(encoding="utf-8"))))
    return workflows


def fitted(workflow: Workflow, checkpoint: str, size: int | None) -> Workflow:
    """The workflow with another checkpoint, and fitted to the tiny one with pictures of `size` pixels a side unless that is None."""
    prompt, ui = copy.deepcopy(workflow.prompt), copy.deepcopy(workflow.ui)
    for node_id, node in prompt.items():
        changed: dict[str, Any] = {}
        if "ckpt_name" in node["inputs"]:
            changed["ckpt_name"] = checkpoint
        if size is not None and node["class_type"] in ("EmptyLatentImage", "BatchSpriteSampler"):
            changed.update({name: size for name in ("width", "height") if isinstance(node["inputs"].get(name), int)})
        if size is not None and "cfg" in node["inputs"]:
            changed["cfg"] = TINY_CFG
        node["inputs"].update(changed)
        for ui_node in ui["nodes"]:
            if str(ui_node["id"]) == node_id:
                set_widgets(ui_node, changed)
    return Workflow(workflow.name, prompt, ui)


def set_widgets(ui_node: dict[str, Any], changed: Mapping[str, Any]) -> None:
    """Change widget values of a UI node, which stand in a bare list in the order of its widget inputs.

    Behind a seed stands one value more: what happens to it after a run.
    """
    values, place = ui_node.get("widgets_values", []), 0
    for name in [entry["widget"]["name"] for entry in ui_node.get("inputs", []) if "widget" in entry]:
        if name in changed:
            values[place] = changed[name]
        place += 1
        if name in ("seed", "noise_seed") and place < len(values) and values[place] in SEED_CONTROLS:
            place += 1
