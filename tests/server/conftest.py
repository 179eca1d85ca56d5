"""A real ComfyUI on the CPU, with the pack, the tiny SDXL and nothing else."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import safetensors.torch
import torch
from dev_tools.workspace import TINY_CHECKPOINT, link_folder
from fast_sprites.nodes.benchmark.client import ComfyClient, connect
from fast_sprites.nodes.benchmark.server import ComfyServer, ServerSetup, known_flags

from ..conftest import PACK_ROOT, comfyui_path

TINY_SDXL = PACK_ROOT / "tests" / "tiny_sdxl"
FLAGS = ("--cpu", "--disable-api-nodes", "--database-url=sqlite:///:memory:")
TIMEOUT_S = 90.0  # of every wait for a condition: only a failure takes as long, on a busy machine with one core too
Result = TypeVar("Result")


def eventually(condition: Callable[[], Any], timeout_s: float = TIMEOUT_S) -> bool:
    """Whether the condition holds now or comes to hold in time."""
    deadline = time.monotonic() + timeout_s
    while not (holds := bool(condition())) and time.monotonic() < deadline:
        time.sleep(0.05)
    return holds


def tiny_flux() -> dict[str, torch.Tensor]:
    """As much of a Flux model as ComfyUI needs to recognise and load it; it is never run."""
    return {
        "double_blocks.0.img_attn.norm.key_norm.scale": torch.ones(128),
        "img_in.weight": torch.zeros(128, 64),
        "txt_in.weight": torch.zeros(128, 64),
        "vector_in.in_layer.weight": torch.zeros(128, 16),
    }


class Comfy:
    """The running server, used one call at a time from tests that are not async."""

    def __init__(self, server: ComfyServer) -> None:
        self.server = server
        self.info: dict[str, Any] = self.ask(lambda client: client.object_info())

    def ask(self, question: Callable[[ComfyClient], Awaitable[Result]]) -> Result:
        """What `question` returns for a client of its own."""

        async def inside() -> Result:
            async with connect(self.server.address) as client:
                return await question(client)

        return asyncio.run(asyncio.wait_for(inside(), timeout=300))

    def node(self, class_type: str, **inputs: Any) -> dict[str, Any]:
        """A node in API format: widgets that are not given have their defaults."""
        declared = self.info[class_type]["input"]
        widgets = {}
        for name, (kind, *options) in {**declared.get("required", {}), **declared.get("optional", {})}.items():
            settings = options[0] if options else {}
            choices = kind if isinstance(kind, list) else settings.get("options")
            if "default" in settings or choices:
                widgets[name] = settings.get("default", choices[0] if choices else None)
        return {"class_type": class_type, "inputs": {**widgets, **inputs}}

    def sprites(self, **sampler: Any) -> dict[str, Any]:
        """Two small sprites through every optimising node, in API format."""
        settings = {"count": 2, "width": 64, "height": 64, "steps": 2, "seed": 7, **sampler}
        return {
            "load": self.node("CheckpointLoaderSimple", ckpt_name=TINY_CHECKPOINT),
            "positive": self.node("CLIPTextEncode", clip=["load", 1], text="an iron sword"),
            "negative": self.node("CLIPTextEncode", clip=["load", 1], text="blurry"),
            "model": self.node("OptimizeModel", model=["load", 0]),
            "vae": self.node("OptimizeVAE", vae=["load", 2]),
            "sample": self.node(
                "BatchSpriteSampler", model=["model", 0], positive=["positive", 0], negative=["negative", 0], **settings
            ),
            "decode": self.node("VAEDecode", samples=["sample", 0], vae=["vae", 0]),
            "save": self.node("SaveImage", images=["decode", 0], filename_prefix="test"),
        }


def server_setup(base: Path, comfyui: Path) -> ServerSetup:
    """A server whose folders are made in `base`, with the pack, the tiny SDXL and a tiny Flux."""
    for name in ("custom_nodes", "models/checkpoints", "models/diffusion_models", "input", "output", "user"):
        (base / name).mkdir(parents=True)
    link_folder(PACK_ROOT, base / "custom_nodes" / "fast-sprites")
    link_folder(TINY_SDXL / "comfy_extension", base / "custom_nodes" / "fast-sprites-tiny-sdxl")
    checkpoint = base / "models" / "checkpoints" / TINY_CHECKPOINT
    subprocess.run(
        [sys.executable, str(TINY_SDXL / "make_checkpoint.py"), str(checkpoint)], check=True, stdout=subprocess.DEVNULL
    )
    safetensors.torch.save_file(tiny_flux(), base / "models" / "diffusion_models" / "tiny_flux.safetensors")
    return ServerSetup(
        python=Path(sys.executable),
        comfyui=comfyui,
        base_directory=base,
        log=base / "server.log",
        flags=known_flags(comfyui, FLAGS),
    )


@pytest.fixture(scope="session")
def comfyui() -> Path:
    found = comfyui_path()
    if found is None:
        pytest.skip("ComfyUI not found: run `python3 dev.py test`, or set COMFYUI_PATH to a ComfyUI checkout")
    return found


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, comfyui: Path) -> Iterator[ComfyServer]:
    with ComfyServer(server_setup(tmp_path_factory.mktemp("base"), comfyui)) as running:
        yield running


@pytest.fixture(scope="session")
def comfy(server: ComfyServer) -> Comfy:
    return Comfy(server)


@pytest.fixture
def goes_on(comfy: Comfy) -> Iterator[None]:
    """After the test the server still draws."""
    yield
    prompt = comfy.sprites(count=1)
    prompt["save"]["inputs"]["filename_prefix"] = "afterwards"
    _, history = comfy.ask(lambda client: client.run(prompt))
    assert len(history.images) == 1


def png_texts(png: bytes) -> dict[str, Any]:
    """The JSON documents in a PNG's text chunks."""
    import io

    from PIL import Image

    with Image.open(io.BytesIO(png)) as picture:
        picture.load()
        return {name: json.loads(text) for name, text in picture.text.items()}  # type: ignore[attr-defined]
