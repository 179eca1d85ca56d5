"""Clones of one optimised MODEL that take turns, as a LoRA loader behind Optimize Model makes them: what the engine keeps and lets go."""

import gc
import weakref
from typing import Any

import pytest
import torch

from ..lora_keys import LORA_KEYS
from .optimized import COPIED_LORA_KEYS, TOLERANCE, check_equal, optimize, package, relative_error, sample, with_lora

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


def test_a_dead_clones_engine_goes_with_its_model(comfyui, pack_nodes, tiny_sdxl, optimized, conds):
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


def test_a_stock_branch_between_two_runs_costs_no_capture_where_weights_stay_in_place(
    comfyui, pack_nodes, tiny_sdxl, optimized, graphs, conds, on_demand
):
    import comfy.model_management

    before, stock = prepared(pack_nodes), sample(comfyui, tiny_sdxl.model, conds)
    other_lora = lora(tiny_sdxl.model, 0.7)
    sample(comfyui, optimized, conds)
    drawn = sample(comfyui, optimized, conds)  # by graphs alone, as the next
    for between in (tiny_sdxl.model, other_lora, tiny_sdxl.model):
        expected = sample(comfyui, between, conds)
        assert torch.equal(expected, stock) == (between is tiny_sdxl.model)
        assert torch.equal(sample(comfyui, optimized, conds), drawn)
    assert graphs.captures == CAPTURED
    sample(comfyui, tiny_sdxl.model, conds)
    comfy.model_management.unload_all_models()
    assert prepared(pack_nodes) == before


def test_weights_with_another_lora_are_let_go_before_the_next_are_loaded(comfyui, pack_nodes, tiny_sdxl, conds, monkeypatch):
    from comfy.model_patcher import ModelPatcher

    optimized = optimize(pack_nodes, tiny_sdxl.model)[0]
    first, second = with_lora(optimized, 1.0), with_lora(optimized, -0.5)
    expected = sample(comfyui, with_lora(tiny_sdxl.model, -0.5), conds)
    sample(comfyui, first, conds)
    parameters = tiny_sdxl.model.model.named_parameters()
    patched = [weakref.ref(parameter) for name, parameter in parameters if name.endswith(LORA_KEYS)]
    alive: list[int] = []
    load = ModelPatcher.load

    def counting(self: Any, *args: Any, **kwargs: Any) -> None:
        alive.append(sum(parameter() is not None for parameter in patched))
        load(self, *args, **kwargs)

    monkeypatch.setattr(ModelPatcher, "load", counting)
    assert relative_error(sample(comfyui, second, conds), expected) < TOLERANCE
    assert alive == [0]


def test_clones_with_the_same_weights_share_the_graphs_without_dynamicvram(comfyui, tiny_sdxl, optimized, graphs, conds):
    clone = with_lora(optimized, 1.0)
    stock = with_lora(tiny_sdxl.model, 1.0)
    check_equal(comfyui, clone, stock, conds)  # stock, then the engine
    captures = graphs.captures
    for model in (clone, clone.clone()):
        sample(comfyui, model, conds)
    assert graphs.captures == captures == CAPTURED
