"""What ComfyUI takes over from the pack: nodes, templates, web files, and nothing to complain about."""

import json
import re
import urllib.request

import pytest

from ..conftest import PACK_ROOT
from .conftest import TIMEOUT_S, Comfy

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
NODE_IDS = sorted(
    found.group(1)
    for path in (PACK_ROOT / "nodes").glob("*.py")
    if (found := re.search(r'node_id="(\w+)"', path.read_text(encoding="utf-8")))
)
TEMPLATES = sorted(path.stem for path in (PACK_ROOT / "workflows").glob("*.json"))
WEB = PACK_ROOT / "web"


def get(comfy: Comfy, path: str) -> tuple[str, bytes]:
    with DIRECT.open(comfy.server.address + path, timeout=TIMEOUT_S) as response:
        return response.headers.get_content_type(), response.read()


@pytest.mark.parametrize("node_id", NODE_IDS)
def test_every_node_is_registered(comfy: Comfy, node_id: str):
    info = comfy.info[node_id]
    assert info["category"].split("/")[0] == "Fast Sprites"
    assert info["python_module"] == "custom_nodes.fast-sprites"
    assert info["description"]


def test_the_four_first_nodes_exist():
    assert {"OptimizeModel", "OptimizeVAE", "MemoryProbe", "BatchSpriteSampler"} <= set(NODE_IDS)


def test_workflows_are_templates(comfy: Comfy):
    listed = json.loads(get(comfy, "/api/workflow_templates")[1])
    assert sorted(listed["fast-sprites"]) == TEMPLATES
    assert {"sprite_optimized", "batch_optimized", "pixel_art_workflow"} <= set(TEMPLATES)


@pytest.mark.parametrize("name", TEMPLATES)
def test_template_and_thumbnail_are_served(comfy: Comfy, name: str):
    kind, body = get(comfy, f"/api/workflow_templates/fast-sprites/{name}.json")
    assert kind == "application/json"
    assert json.loads(body) == json.loads((PACK_ROOT / "workflows" / f"{name}.json").read_text(encoding="utf-8"))
    assert get(comfy, f"/api/workflow_templates/fast-sprites/{name}.jpg")[0] == "image/jpeg"


def test_web_files_are_served(comfy: Comfy):
    extensions = json.loads(get(comfy, "/extensions")[1])
    scripts = [path for path in extensions if path.startswith("/extensions/fast-sprites/")]
    assert len(scripts) == len(list(WEB.rglob("*.js")))
    files = [path for path in WEB.rglob("*") if path.is_file()]
    assert files
    for path in files:
        kind, body = get(comfy, f"/extensions/fast-sprites/{path.relative_to(WEB).as_posix()}")
        assert body == path.read_bytes()
        if path.suffix in (".js", ".mjs"):
            assert kind in ("text/javascript", "application/javascript")  # by the machine's table of types


@pytest.mark.parametrize("node_id", NODE_IDS)
def test_every_node_has_a_help_page(comfy: Comfy, node_id: str):
    assert get(comfy, f"/extensions/fast-sprites/docs/{node_id}.md")[1].strip()


def test_loading_says_nothing(comfy: Comfy):
    log = re.sub(r"\x1b\[[0-9;]*m", "", comfy.server.log_text())
    loading = log.partition("To see the GUI go to")[0]
    assert "fast-sprites" in loading  # among the import times
    assert "FAILED" not in loading
    assert "Traceback" not in loading
    complaints = [line for line in loading.splitlines() if re.match(r"\[(WARNING|ERROR|CRITICAL)\]", line)]
    # ComfyUI's own word on a torch that was built for an older CUDA
    assert [line for line in complaints if "You need pytorch with cu130" not in line] == []
