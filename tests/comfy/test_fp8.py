"""OptimizeModel with FP8 linears on the eager engine: near stock, LoRA followed, nothing mixed or kept twice."""

from typing import Any

import pytest
import torch

from ..neighbours import CALLED, patched
from .optimized import STEPS, StopError, package, relative_error, sample, with_lora


@pytest.fixture
def fp8(pack_nodes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that optimises a MODEL with FP8 linears on the eager engine, which a plan for a CPU would refuse."""
    monkeypatch.setattr(package(pack_nodes, "engine.unet.fp8"), "MIN_IN_FEATURES", 32)  # the tiny model's are small
    plan = package(pack_nodes, "engine.model.plan").ModelPlan(engine="eager", fp8=True)
    return lambda model: package(pack_nodes, "engine.model.apply_model_plan").apply_model_plan(model, plan, "3")


FP8_SETTINGS: dict[str, Any] = {"cfg": 1.0, "sampler_name": "euler"}
FP8_TOLERANCE = 0.25


def check_near(comfyui: Any, optimized: Any, stock: Any, conds: Any) -> None:
    expected = sample(comfyui, stock, conds, **FP8_SETTINGS)
    error = relative_error(sample(comfyui, optimized, conds, **FP8_SETTINGS), expected)
    assert 1e-3 < error < FP8_TOLERANCE


def test_fp8_is_near_stock_and_follows_lora(comfyui, pack_nodes, tiny_sdxl, conds, watch, fp8):
    optimized = fp8(tiny_sdxl.model)
    plain = sample(comfyui, tiny_sdxl.model, conds, **FP8_SETTINGS)
    check_near(comfyui, optimized, tiny_sdxl.model, conds)
    stock = with_lora(tiny_sdxl.model, 1.0)
    assert relative_error(sample(comfyui, stock, conds, **FP8_SETTINGS), plain) > 2 * FP8_TOLERANCE
    check_near(comfyui, with_lora(optimized, 1.0), stock, conds)
    check_near(comfyui, optimized, tiny_sdxl.model, conds)
    assert torch.equal(sample(comfyui, tiny_sdxl.model, conds, **FP8_SETTINGS), plain)
    assert watch.count == 3 * STEPS


def test_fp8_weights_are_made_once_per_lora(comfyui, pack_nodes, tiny_sdxl, conds, fp8, monkeypatch):
    weights = package(pack_nodes, "engine.unet.own_weights").OwnWeights
    taken = []
    take = weights.take
    monkeypatch.setattr(weights, "take", lambda self, group, *pairs: (taken.append(group), take(self, group, *pairs)))
    optimized = fp8(tiny_sdxl.model)
    for model in (optimized, optimized, with_lora(optimized, 1.0)):
        sample(comfyui, model, conds)
    assert len(taken) == 2 * len(set(taken)) > 0
    assert any("Linear" in type(group[0]).__name__ for group in taken)


def test_an_error_while_fp8_weights_are_made_mixes_no_versions(comfyui, pack_nodes, tiny_sdxl, conds, fp8, monkeypatch):
    weights = package(pack_nodes, "engine.unet.own_weights").OwnWeights
    optimized = fp8(tiny_sdxl.model)
    before = sample(comfyui, optimized, conds, **FP8_SETTINGS)
    with_its_lora = with_lora(optimized, 1.0)
    take, taken = weights.take, []

    def failing(self: Any, group: Any, *pairs: Any) -> None:
        taken.append(group)
        if len(taken) == len(self.groups):
            raise StopError("planted")
        take(self, group, *pairs)

    with monkeypatch.context() as patched:
        patched.setattr(weights, "take", failing)
        with pytest.raises(StopError):
            sample(comfyui, with_its_lora, conds, **FP8_SETTINGS)
    assert taken
    assert torch.equal(sample(comfyui, optimized, conds, **FP8_SETTINGS), before)


def test_fp8_leaves_a_patched_block_to_comfyui(comfyui, pack_nodes, tiny_sdxl, conds, watch, fp8):
    stock = patched(tiny_sdxl.model, CALLED["attn2_replace"])
    check_near(comfyui, fp8(stock), stock, conds)
    assert watch.count == STEPS
