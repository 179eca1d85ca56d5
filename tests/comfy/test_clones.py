"""Clones of one optimised MODEL that take turns, as a LoRA loader behind Optimize Model makes them: what the engine keeps and lets go."""

import gc
from typing import Any

import pytest
import torch

from .optimized import COPIED_LORA_KEYS, TOLERANCE, package, relative_error, sample, with_lora

CAPTURED = 2  # a graph of keys and values, and one of the rest
STRENGTHS = (1.0, -0.5, 0.7)


def prepared(pack_nodes: dict[str, Any]) -> int:
    """How many engines hold weights."""
    gc.collect()
    kind = package(pack_nodes, "engine.unet.prepared").PreparedWeights
    return sum(type(o) is kind for o in gc.get_objects())


def lora(model: Any, strength: float) -> Any:
    return with_lora(model, strength, keys=COPIED_LORA_KEYS)


@pytest.fixture
def stock_pictures(comfyui: Any, tiny_sdxl: Any, conds: Any) -> dict[float, torch.Tensor]:
    pictures = {strength: sample(comfyui, lora(tiny_sdxl.model, strength), conds) for strength in STRENGTHS}
    plain = sample(comfyui, tiny_sdxl.model, conds)
    assert all(relative_error(picture, plain) > 10 * TOLERANCE for picture in pictures.values())
    return pictures


@pytest.mark.parametrize("in_a_cycle", [False, True])
def test_a_clone_that_dies_between_two_runs_costs_no_capture(
    comfyui, optimized, graphs, conds, on_demand, stock_pictures, in_a_cycle
):
    for strength, picture in stock_pictures.items():
        clone = lora(optimized, strength)
        if in_a_cycle:  # the collector tells LoadedModel of the death before the clone's own finalizer runs
            clone.set_attachments("itself", clone)
        assert relative_error(sample(comfyui, clone, conds), picture) < TOLERANCE
        del clone
        gc.collect()
    assert graphs.captures == CAPTURED


def test_a_dead_clones_engine_goes_with_its_model(comfyui, pack_nodes, tiny_sdxl, optimized, conds, on_demand):
    import comfy.model_management

    before = prepared(pack_nodes)
    stock = lora(tiny_sdxl.model, 1.0)
    for unload in (lambda: sample(comfyui, stock, conds), comfy.model_management.unload_all_models):
        clone = lora(optimized, 1.0)
        sample(comfyui, clone, conds)
        del clone
        assert prepared(pack_nodes) == before + 1
        unload()
        assert prepared(pack_nodes) == before
