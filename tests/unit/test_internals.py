"""ComfyUI's internals: no adapter fails at import without them, and what is used is written down."""

import ast
import subprocess
import sys
import types
from pathlib import Path

import pytest
from fast_sprites.nodes.comfy_adapters import internals
from fast_sprites.nodes.comfy_adapters.internals import lacking, optional

from ..conftest import PACK_ROOT

ADAPTERS = sorted((PACK_ROOT / "nodes" / "comfy_adapters").glob("*.py"))
# What ComfyUI's own nodes and thousands of packs use by these names; without it no node runs.
PLAIN = {
    "folder_paths": {
        "get_input_directory",
        "get_output_directory",
        "get_temp_directory",
        "get_annotated_filepath",
        "get_save_image_path",
    },
    "comfy.cli_args": {"args"},
    "comfy.model_management": {"get_torch_device", "throw_exception_if_processing_interrupted", "soft_empty_cache"},
    "comfy.samplers": {"KSampler"},
    "comfy.utils": {"ProgressBar", "PROGRESS_BAR_ENABLED"},
}


def test_every_adapter_imports_without_comfyui():
    """In a process of its own: there is no ComfyUI, so that every one of its modules is gone."""
    names = [f"fast_sprites.nodes.comfy_adapters.{path.stem}" for path in ADAPTERS if path.stem != "__init__"]
    code = (
        "import importlib, importlib.util, sys\n"
        f"root = {str(PACK_ROOT)!r}\n"
        "spec = importlib.util.spec_from_file_location('fast_sprites', root + '/__init__.py', submodule_search_locations=[root])\n"
        "pack = sys.modules['fast_sprites'] = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(pack)\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "from fast_sprites.nodes.comfy_adapters.internals import NEEDS, lacking\n"
        "assert all(lacking(technique) for technique in NEEDS)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=False, cwd="/")
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("path", ADAPTERS, ids=lambda path: path.stem)
def test_what_an_adapter_uses_is_written_down(path: Path):
    """Every name of a module of ComfyUI is in NEEDS, or one of those that are always there."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    modules: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and getattr(node.value.func, "id", "") == "optional":
            target, argument = node.targets[0], node.value.args[0]
            if isinstance(target, ast.Name) and isinstance(argument, ast.Constant):
                modules[target.id] = str(argument.value)
    used = {
        (modules[node.value.id], node.attr)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules
    }
    declared = {tuple(need.partition("(")[0].split(":")) for needs in internals.NEEDS.values() for need in needs}
    declared = {(module, name.partition(".")[0]) for module, name in declared}
    unknown = {(module, name) for module, name in used if name not in PLAIN.get(module, set())} - declared
    assert not unknown
    for node in tree.body:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
        comfyui = [name for name in names if name.split(".")[0] in ("comfy", "comfy_execution", "folder_paths", "latent_preview")]
        assert not comfyui, "use optional(): an import that fails keeps the whole pack from loading"


def test_a_module_that_is_gone_is_an_empty_one():
    assert vars(optional("comfy_that_is_gone.deeper")).get("anything") is None
    assert optional("json").loads("1") == 1


def test_an_import_that_fails_inside_a_module_is_no_missing_internal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "core_module.py").write_text("import a_package_that_is_not_installed\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_installed"):
        optional("core_module")


def test_what_is_lacking_is_named(monkeypatch: pytest.MonkeyPatch):
    core = types.ModuleType("core_of_test")
    core.Patcher = type("Patcher", (), {"clone": lambda self, deep=False: self})  # type: ignore[attr-defined]
    core.takes_all = lambda **options: options  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "core_of_test", core)

    def needs(*paths: str) -> str:
        monkeypatch.setitem(internals.NEEDS, "test", paths)
        return lacking("test")

    assert needs("core_of_test:Patcher.clone", "core_of_test:Patcher.clone(deep)", "core_of_test:takes_all(whatever)") == ""
    assert needs("core_of_test:Patcher.load") == "this ComfyUI has no core_of_test.Patcher.load"
    assert needs("core_of_test:Patcher.clone(shallow)") == "this ComfyUI has no argument shallow of core_of_test.Patcher.clone"
    assert needs("module_of_nobody:anything") == "this ComfyUI has no module_of_nobody.anything"
