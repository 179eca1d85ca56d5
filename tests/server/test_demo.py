"""The demo's drawing, on the tier's own server."""

import asyncio
from pathlib import Path

import pytest
from dev_tools.demo import draw_all
from dev_tools.workflow_files import Workflow, fitted, load_workflows
from dev_tools.workspace import TINY_CHECKPOINT
from fast_sprites.nodes.benchmark.client import ClientError
from fast_sprites.nodes.benchmark.server import ComfyServer

from ..conftest import PACK_ROOT
from .conftest import Comfy, png_texts


def test_the_demo_saves_what_the_server_drew(server: ComfyServer, tmp_path: Path):
    (workflow,) = load_workflows(PACK_ROOT / "workflows", ["sprite_optimized"])
    workflow = fitted(workflow, TINY_CHECKPOINT, 64)
    (drawn,) = asyncio.run(draw_all(server, [workflow], tmp_path, with_cuda=False))
    (picture,) = drawn.pictures
    assert picture.parent == tmp_path
    assert {"prompt", "workflow"} <= set(png_texts(picture.read_bytes()))
    assert (drawn.name, drawn.size) == ("sprite_optimized", "64x64")
    assert 0.2 < drawn.peak_gib < 16
    assert any(line.startswith("refused: CUDA graph") for line in drawn.reports)


def test_a_node_that_fails_is_named(comfy: Comfy, server: ComfyServer, tmp_path: Path):
    broken = Workflow("broken", comfy.sprites(width=100), {"nodes": []})
    with pytest.raises(ClientError, match=r"BatchSpriteSampler.*width is 100 pixels"):
        asyncio.run(draw_all(server, [broken], tmp_path, with_cuda=False))
    assert list(tmp_path.iterdir()) == []
