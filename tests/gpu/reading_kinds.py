"""The kinds of readings that are taken while ComfyUI runs."""

from collections.abc import Callable
from typing import Any

import torch
from fast_sprites.nodes.engine.memory.readings import read_memory
from fast_sprites.nodes.engine.memory.run_probe import comfy_memory, read_everything
from fast_sprites.nodes.engine.memory.samples import take_quick_sample, take_sample


def readers(device: torch.device) -> dict[str, Callable[[], Any]]:
    """Return a function for each."""
    return {
        "reading": lambda: read_memory(device),
        "reading with ComfyUI's part": lambda: read_everything(device),
        "ComfyUI's part alone": comfy_memory,
        "sample of the timeline": lambda: take_sample(device),
        "sample at a node's start": lambda: take_quick_sample(device),
    }
