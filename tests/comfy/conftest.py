"""Real ComfyUI modules on the CPU, the pack as ComfyUI loads it, and the tiny SDXL checkpoint."""

import asyncio
import importlib
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest

from ..conftest import PACK_ROOT, comfyui_path

TINY_SDXL = PACK_ROOT / "tests" / "tiny_sdxl"


class LoadedCheckpoint(NamedTuple):
    """What CheckpointLoaderSimple returns: ModelPatcher, CLIP, VAE."""

    model: Any
    clip: Any
    vae: Any


@pytest.fixture(scope="session")
def comfyui(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """ComfyUI's `nodes` module, on the CPU and with its user folders in a temporary directory."""
    root = comfyui_path()
    if root is None:
        pytest.skip("ComfyUI not found: run `python3 dev.py test`, or set COMFYUI_PATH to a ComfyUI checkout")
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("inductor")))
    sys.path.insert(0, str(root))
    # ComfyUI reads sys.argv at import only after main.py asks for it; these two must be set before anything else is imported.
    cli_args = importlib.import_module("comfy.cli_args")
    cli_args.args.cpu = True
    cli_args.args.base_directory = str(tmp_path_factory.mktemp("comfyui"))
    nodes = importlib.import_module("nodes")
    assert nodes.__file__ is not None
    assert Path(nodes.__file__).resolve().parent == root.resolve(), f"`nodes` is {nodes.__file__}, not ComfyUI's"
    assert asyncio.run(nodes.load_custom_node(str(TINY_SDXL / "comfy_extension")))
    return nodes


@pytest.fixture(scope="session")
def pack_nodes(comfyui: ModuleType) -> dict[str, Any]:
    """NODE_CLASS_MAPPINGS after ComfyUI's own loader has loaded the pack, under a module name of its own."""
    assert asyncio.run(comfyui.load_custom_node(str(PACK_ROOT)))
    return comfyui.NODE_CLASS_MAPPINGS


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny SDXL checkpoint: trained where the weights are there, random otherwise."""
    if str(TINY_SDXL) not in sys.path:
        sys.path.append(str(TINY_SDXL))
    path = tmp_path_factory.mktemp("checkpoints") / "tiny_sdxl.safetensors"
    importlib.import_module("make_checkpoint").default_checkpoint(path)
    return path


@pytest.fixture(scope="module")
def tiny_sdxl(comfyui: ModuleType, tiny_checkpoint: Path) -> LoadedCheckpoint:
    """The tiny SDXL, loaded anew for each test module as CheckpointLoaderSimple loads it."""
    import comfy.sd

    return LoadedCheckpoint(*comfy.sd.load_checkpoint_guess_config(str(tiny_checkpoint))[:3])


@pytest.fixture(scope="module")
def conds(tiny_sdxl: LoadedCheckpoint) -> tuple[Any, Any]:
    """A prompt and an empty negative prompt."""
    clip = tiny_sdxl.clip
    positive, negative = (clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("red slime", ""))
    return positive, negative


@pytest.fixture
def output(comfyui: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the test's own that ComfyUI saves to."""
    import folder_paths

    folder = tmp_path / "output"
    folder.mkdir()
    monkeypatch.setattr(folder_paths, "output_directory", str(folder))
    return folder


@pytest.fixture
def watch(pack_nodes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Counts the forwards that the engine runs itself."""
    from .optimized import Watch

    return Watch(pack_nodes, monkeypatch)


@pytest.fixture
def graphs(pack_nodes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Stands in for CUDA's graphs and counts captures."""
    from .optimized import Graphs

    return Graphs(pack_nodes, monkeypatch)


@pytest.fixture
def optimized(pack_nodes: dict[str, Any], tiny_sdxl: LoadedCheckpoint, graphs: Any) -> Any:
    """The tiny model on the eager engine with graphs."""
    from .optimized import with_graphs

    return with_graphs(pack_nodes, tiny_sdxl.model)


@pytest.fixture
def on_demand(tiny_sdxl: LoadedCheckpoint, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let the tiny model look as if DynamicVRAM loaded its weights one by one."""
    import torch

    from .optimized import AddressRange

    vbar = AddressRange()
    monkeypatch.setattr(tiny_sdxl.model.model, "dynamic_vbars", {torch.device("cpu"): vbar}, raising=False)
    return vbar
