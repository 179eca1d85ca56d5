"""Write workflows/*.json and their API twins from workflow_layouts.py: python tests/web/build_workflows.py.

The nodes are placed by the sizes that they have in ComfyUI's page, so this needs ComfyUI and Chromium.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from comfy_page import WORKFLOW_DIR, ComfyPage, own_page, write_json
from export_api import export_api
from workflow_layouts import UNAVOIDABLE, WORKFLOWS, Workflow

LAY_OUT = (Path(__file__).resolve().parent / "lay_out.js").read_text(encoding="utf-8")
LINK_PROBLEMS = (Path(__file__).resolve().parent / "link_problems.js").read_text(encoding="utf-8")


def build(page: ComfyPage, workflow: Workflow) -> dict[str, Any]:
    """The workflow in UI format, as the page saves it."""
    links = [link | {"bends": [dataclasses.asdict(bend) for bend in link["bends"]]} for link in workflow.links()]
    groups = [dataclasses.asdict(group) for group in workflow.groups]
    page.load(json.loads(page.evaluate(LAY_OUT, {"groups": groups, "links": links})))
    built = page.serialized()  # an opened workflow is saved in another order than a new one
    del built["id"]  # the page gives every opened copy its own
    for name in ("ds", "frontendVersion"):  # without a saved view the page fits the workflow into the window
        built["extra"].pop(name, None)
    return built


def link_problems(page: ComfyPage) -> list[str]:
    """Links of the open workflow that cross others or run behind nodes."""
    return sorted(set(page.evaluate(LINK_PROBLEMS)) - UNAVOIDABLE)


def main() -> int:
    """Build all; 1 if a link crosses another or runs behind a node."""
    problems: list[str] = []
    with own_page() as page:
        for workflow in WORKFLOWS:
            page.use_vue_nodes(False)
            built = build(page, workflow)
            write_json(WORKFLOW_DIR / f"{workflow.name}.json", built)
            problems += [f"{workflow.name}: {problem}" for problem in link_problems(page)]
            export_api(page, workflow.name)
    print("\n".join(problems) or f"{len(WORKFLOWS)} workflows written to {WORKFLOW_DIR}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
