"""ComfyUI on this machine's GPU for the whole session, with its default flags, and the checkpoints that the engine's tests draw with.

FAST_SPRITES_GPU_TESTS_ON_CPU=1 runs the same tests on the CPU, to try them out: eager engine, a stand-in for CUDA's graphs.
FAST_SPRITES_GPU_TESTS_FLAGS holds flags for ComfyUI, for instance --disable-dynamic-vram.
FAST_SPRITES_GPU_CHECKPOINT names a full-size SDXL checkpoint; random weights do.
"""

import asyncio
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ..conftest import PACK_ROOT, comfyui_path
from .comfy_on_gpu import start_comfyui

ON_CPU = os.environ.get("FAST_SPRITES_GPU_TESTS_ON_CPU") == "1"
TINY_SDXL = PACK_ROOT / "tests" / "tiny_sdxl"


def _start(base: str) -> tuple[ModuleType | None, str]:
    """Start ComfyUI, which has to choose the allocator before anything imports torch; else tell why not."""
    if not (ON_CPU or shutil.which("nvidia-smi") or any(Path("/dev").glob("nvidia[0-9]*"))):
        return None, "needs an NVIDIA GPU"
    if "torch" in sys.modules:
        return None, "torch was imported before ComfyUI chose its allocator: run `pytest tests/gpu` in a process of its own"
    root = comfyui_path()
    if root is None:
        return None, "ComfyUI not found: set COMFYUI_PATH to a ComfyUI checkout"
    os.environ["COMFYUI_PATH"] = str(root)
    arguments = sys.argv[:]
    try:
        flags = shlex.split(os.environ.get("FAST_SPRITES_GPU_TESTS_FLAGS", ""))
        nodes = start_comfyui(flags=("--base-directory", base, *(["--cpu"] if ON_CPU else []), *flags))
    finally:
        sys.argv[:] = arguments
    asyncio.run(nodes.load_custom_node(str(TINY_SDXL / "comfy_extension")))
    return nodes, ""


_base = tempfile.TemporaryDirectory(prefix="fast-sprites-gpu-")
NODES, WHY_NOT = _start(_base.name)


@pytest.fixture(scope="session")
def comfyui() -> ModuleType:
    """ComfyUI's `nodes` module."""
    if NODES is None:
        pytest.skip(WHY_NOT)
    return NODES


@pytest.fixture(autouse=True)
def inference_mode() -> Iterator[None]:
    """As ComfyUI runs its nodes."""
    import torch

    with torch.inference_mode():
        yield


def load_checkpoint(path: Path) -> Any:
    """Load a checkpoint as CheckpointLoaderSimple does."""
    import comfy.sd

    from .engine_checks import Checkpoint

    return Checkpoint(*comfy.sd.load_checkpoint_guess_config(str(path))[:3])


@pytest.fixture(scope="session")
def checkpoints(comfyui: ModuleType) -> Path:
    """A folder with tiny checkpoints: trained.safetensors, other.safetensors (random weights) and inpainting.safetensors."""
    sys.path.append(str(TINY_SDXL))
    import make_checkpoint

    folder = Path(_base.name) / "checkpoints"
    folder.mkdir()
    make_checkpoint.default_checkpoint(folder / "trained.safetensors")
    make_checkpoint.write_checkpoint(folder / "other.safetensors", seed=3)
    make_checkpoint.write_checkpoint(folder / "inpainting.safetensors", seed=4, in_channels=9)
    return folder


@pytest.fixture(scope="session")
def tiny(comfyui: ModuleType, checkpoints: Path) -> Any:
    """The tiny SDXL as CheckpointLoaderSimple loads it; run once, because cuDNN chooses other algorithms in a process's first call."""
    from .engine_checks import encode, sample

    checkpoint = load_checkpoint(checkpoints / "trained.safetensors")
    sample(checkpoint.model, encode(checkpoint.clip))
    return checkpoint


@pytest.fixture(scope="session")
def conds(tiny: Any) -> tuple[Any, Any]:
    """A prompt and an empty negative prompt."""
    from .engine_checks import encode

    return encode(tiny.clip)


@pytest.fixture(scope="session")
def other_model(checkpoints: Path) -> Any:
    """Another tiny model of the same shape."""
    return load_checkpoint(checkpoints / "other.safetensors").model


@pytest.fixture(scope="session")
def inpainting(checkpoints: Path) -> Any:
    """A tiny SDXL with 9 input channels."""
    return load_checkpoint(checkpoints / "inpainting.safetensors")


@pytest.fixture(scope="session")
def full(comfyui: ModuleType) -> Any:
    """A full-size SDXL."""
    named = os.environ.get("FAST_SPRITES_GPU_CHECKPOINT")
    if not named:
        pytest.skip("needs a full-size SDXL checkpoint: name it in FAST_SPRITES_GPU_CHECKPOINT")
    return load_checkpoint(Path(named))


@pytest.fixture(autouse=True)
def stand_in_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU, let a graph be the captured body, run again at every replay."""
    if ON_CPU and NODES is not None:
        from .engine_checks import use_stand_in_graphs

        use_stand_in_graphs(monkeypatch)


@pytest.fixture
def watch(comfyui: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Counts what the engine and ComfyUI ran."""
    from .engine_checks import Watch

    return Watch(monkeypatch)
