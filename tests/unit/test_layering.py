"""The arrow between the layers: node files -> engine -> comfy_adapters -> ComfyUI."""

import ast
from pathlib import Path

import pytest

NODES = Path(__file__).resolve().parents[2] / "nodes"
# Top-level modules of ComfyUI that a pack could import.
COMFYUI = {
    "comfy", "comfy_api", "comfy_extras", "comfy_execution", "comfy_config", "comfy_api_nodes", "comfy_aimdo", "comfy_kitchen",
    "execution", "folder_paths", "latent_preview", "node_helpers", "nodes", "server", "app", "utils", "main", "protocol",
}  # fmt: skip


def layer_of(path: Path) -> str:
    parts = path.relative_to(NODES).parts
    if len(parts) == 1:
        return "node"
    if parts[0] == "engine" and path.name.startswith(("apply_", "run_")):
        return "engine_runner"
    return parts[0]


ALLOWED_OURS = {
    "node": {"node", "engine", "engine_runner"},
    "engine": {"engine"},
    "engine_runner": {"engine", "engine_runner", "comfy_adapters"},
    "comfy_adapters": {"comfy_adapters"},
    "benchmark": {"benchmark", "engine"},
}
ALLOWED_COMFYUI = {"node": {"comfy_api"}, "engine": set(), "engine_runner": set(), "comfy_adapters": COMFYUI, "benchmark": set()}


def violations(path: Path, source: str) -> list[str]:
    """Every import in `source` (standing at `path`) that points against the arrow."""
    layer = layer_of(path)
    found = []

    def check_ours(level: int, dotted: str, line: int) -> None:
        base = path.parent
        for _ in range(level - 1):
            base = base.parent
        target = base.joinpath(*dotted.split(".")) if dotted else base
        target = target.with_suffix(".py") if target.with_suffix(".py").is_file() else target / "__init__.py"
        if NODES not in target.parents:
            found.append(f"{path.name}:{line} leaves nodes/: {dotted}")
        elif layer_of(target) not in ALLOWED_OURS[layer]:
            found.append(f"{path.name}:{line} {layer} imports {layer_of(target)}: {dotted}")

    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level:
            names = [alias.name for alias in node.names]
            module = node.module or ""
            for name in names:
                full = f"{module}.{name}".strip(".")
                base = path.parent
                for _ in range(node.level - 1):
                    base = base.parent
                is_module = (
                    base.joinpath(*full.split(".")).with_suffix(".py").is_file() or base.joinpath(*full.split(".")).is_dir()
                )
                check_ours(node.level, full if is_module else module, node.lineno)
        else:
            tops = []
            if isinstance(node, ast.Import):
                tops = [alias.name.split(".")[0] for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                tops = [(node.module or "").split(".")[0]]
            found.extend(
                f"{path.name}:{node.lineno} {layer} imports {top} of ComfyUI"  # type: ignore[attr-defined]
                for top in tops
                if top in COMFYUI and top not in ALLOWED_COMFYUI[layer]
            )
    return found


@pytest.mark.parametrize("path", sorted(NODES.rglob("*.py")), ids=lambda p: str(p.relative_to(NODES)))
def test_imports_follow_the_arrow(path: Path):
    if layer_of(path) == "node" and path.name == "__init__.py":
        assert path.read_text() == ""
        return
    assert violations(path, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("place", "source"),
    [
        ("engine/planted.py", "import comfy.ops"),
        ("engine/planted.py", "from ..comfy_adapters import x"),
        ("engine/planted.py", "def f():\n    from comfy.utils import ProgressBar"),
        ("planted.py", "import comfy.model_management"),
        ("planted.py", "from .comfy_adapters import x"),
        ("comfy_adapters/planted.py", "from ..engine.errors import PackError"),
        ("benchmark/planted.py", "import folder_paths"),
        ("benchmark/planted.py", "from ..comfy_adapters import x"),
        ("engine/planted.py", "from ... import dev"),
    ],
)
def test_planted_violations_are_caught(place: str, source: str):
    assert violations(NODES / place, source)
