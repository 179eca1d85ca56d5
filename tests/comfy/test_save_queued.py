"""SaveSprites in graphs that are queued again, the whole way through ComfyUI's validation and executor, as a browser queues them."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.comfy.test_memory_probe import queue
from tests.comfy.test_save_sprites import GRAPH


@pytest.fixture
def graph(comfyui, pack_nodes, tiny_checkpoint, output, monkeypatch) -> dict[str, Any]:
    """Four sprites from a checkpoint to files."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_full_path_or_raise", lambda kind, name: str(tiny_checkpoint))
    monkeypatch.setattr(folder_paths, "get_filename_list", lambda kind: [tiny_checkpoint.name])
    graph: dict[str, Any] = copy.deepcopy(GRAPH)
    graph["1"] = {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": tiny_checkpoint.name}}
    graph["3"]["inputs"]["count"] = ["2", 3]
    graph["8"] = {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["1", 2]}}
    graph["9"]["inputs"] |= {"filename": "whole_%index%", "format": "png", "first_index": 1}
    return graph


def draw_while_saving(graph: dict[str, Any]) -> None:
    del graph["8"], graph["9"]["inputs"]["images"], graph["9"]["inputs"]["seeds"]
    graph["3"]["inputs"]["draw"] = "while saving"
    graph["9"]["inputs"] |= {"sprites": ["3", 3], "vae": ["1", 2]}


@pytest.mark.parametrize("draw", ["now", "while saving"])
def test_file_queued_again_gives_that_sprite(graph, output, draw):
    if draw == "while saving":
        draw_while_saving(graph)
    queue(graph)
    batch = sorted(output.glob("whole_*.png"))
    assert [path.name for path in batch] == [f"whole_0000{n}.png" for n in (1, 2, 3, 4)]
    restored = json.loads(Image.open(batch[2]).info["prompt"])
    restored["9"]["inputs"]["filename"] = "alone"
    queue(restored)
    difference = np.asarray(Image.open(output / "alone.png")).astype(int) - np.asarray(Image.open(batch[2])).astype(int)
    assert np.abs(difference).max() <= 1  # a value that lies between two bytes may fall on either side


def test_file_of_a_batch_of_pictures_queued_again_gives_that_sprite(graph, output):
    """Four sprites from two pictures, a bright and a dark one."""
    draw_while_saving(graph)
    size = {"width": 64, "height": 64, "batch_size": 1}
    graph["4"] = {"class_type": "EmptyImage", "inputs": {**size, "color": 0xFFFFFF}}
    graph["5"] = {"class_type": "EmptyImage", "inputs": {**size, "color": 0x000040}}
    graph["6"] = {"class_type": "ImageBatch", "inputs": {"image1": ["4", 0], "image2": ["5", 0]}}
    graph["7"] = {"class_type": "VAEEncode", "inputs": {"pixels": ["6", 0], "vae": ["1", 2]}}
    graph["3"]["inputs"] |= {"latent": ["7", 0], "denoise": 0.5}
    queue(graph)
    batch = sorted(output.glob("whole_*.png"))
    assert len(batch) == 4
    for number in (0, 3):
        restored = json.loads(Image.open(batch[number]).info["prompt"])
        restored["9"]["inputs"]["filename"] = f"alone_{number}"
        queue(restored)
        pixels = [np.asarray(Image.open(path)).astype(int) for path in (output / f"alone_{number}.png", batch[number])]
        assert np.abs(pixels[0] - pixels[1]).max() <= 1


def test_a_cancelled_batch_queued_again_is_completed_without_doubles(graph, output, monkeypatch):
    import comfy.model_management

    draw_while_saving(graph)
    graph["3"]["inputs"]["micro_batch"] = 1
    write = Path.write_bytes
    written = []

    def cancel_at_the_second(path: Path, data: bytes) -> int:
        written.append(path)
        if len(written) == 2:
            comfy.model_management.interrupt_current_processing()
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", cancel_at_the_second)
    _, again = queue(graph, times=2)
    assert again == ["9"]  # the sampler's stream is still ComfyUI's
    assert sorted(path.name for path in output.iterdir()) == [f"whole_0000{n}.png" for n in (1, 2, 3, 4)]
    assert len(written) == 4
