"""What the engine keeps in a form of its own: it follows LoRA, gives the originals back, and takes what ComfyUI casts at every call."""

import gc
from typing import Any

import pytest
import torch

from .optimized import STEPS, TOLERANCE, optimize, package, relative_error, sample, with_lora


def test_originals_are_given_back_after_copying_and_after_a_comparison(comfyui, pack_nodes, tiny_sdxl, conds, on_demand):
    optimized = optimize(pack_nodes, tiny_sdxl.model)[0]
    for expected in (["free 9", "open again"] * 2, []):
        on_demand.calls.clear()
        sample(comfyui, optimized, conds)
        assert on_demand.calls == expected


def test_convolutions_are_copied_once_per_lora(comfyui, pack_nodes, tiny_sdxl, conds, watch, on_demand, monkeypatch):
    own_weights, made = package(pack_nodes, "engine.unet.own_weights").OwnWeights, []
    take = own_weights.take
    monkeypatch.setattr(own_weights, "take", lambda self, group, *pairs: (made.append(group), take(self, group, *pairs)))
    optimized = optimize(pack_nodes, tiny_sdxl.model)[0]
    stock = with_lora(tiny_sdxl.model, 1.0)
    plain, changed = sample(comfyui, tiny_sdxl.model, conds), sample(comfyui, stock, conds)
    assert relative_error(changed, plain) > 10 * TOLERANCE
    for model, picture in ((optimized, plain), (optimized, plain), (with_lora(optimized, 1.0), changed)):
        assert relative_error(sample(comfyui, model, conds), picture) < TOLERANCE
    assert watch.count == 3 * STEPS
    assert len(made) == 2 * len(set(made)) > 0
    assert all(isinstance(group[0], torch.nn.Conv2d) for group in made)


def test_room_is_asked_for_once_where_attention_is_replaced_between_runs(comfyui, pack_nodes, tiny_sdxl, conds, monkeypatch):
    from comfy.ldm.modules import attention

    engine, own_weights = package(pack_nodes, "engine.model.run_unet_engine"), package(pack_nodes, "engine.unet.own_weights")
    kept: list[int] = []

    def require_room(patcher: Any, x: torch.Tensor, extra_bytes: int) -> None:
        gc.collect()
        kept.append(sum(bool(own.plain) for own in gc.get_objects() if type(own) is own_weights.OwnWeights))

    monkeypatch.setattr(engine, "require_room", require_room)
    optimized = optimize(pack_nodes, tiny_sdxl.model)[0]
    sample(comfyui, optimized, conds)
    monkeypatch.setattr(attention, "optimized_attention", attention.attention_split)
    sample(comfyui, optimized, conds)
    assert len(kept) == 2
    assert kept[0] == kept[1]


def test_a_convolution_that_somebody_replaced_is_copied_again(comfyui, pack_nodes, tiny_sdxl, conds, watch, monkeypatch):
    conv = tiny_sdxl.model.model.diffusion_model.input_blocks[1][0].in_layers[2]
    optimized = optimize(pack_nodes, tiny_sdxl.model)[0]
    plain = sample(comfyui, optimized, conds)
    monkeypatch.setattr(conv, "weight", torch.nn.Parameter(conv.weight * 1.5, requires_grad=False))
    got = sample(comfyui, optimized, conds)  # without a run of stock between, which would let the copies go
    expected = sample(comfyui, tiny_sdxl.model, conds)
    assert relative_error(expected, plain) > 10 * TOLERANCE
    assert relative_error(got, expected) < TOLERANCE
    assert watch.count == 2 * STEPS


@pytest.mark.parametrize(("channels", "taken"), [(512, True), (16384, False)])
def test_a_small_module_in_the_checkpoints_dtype_is_cast(comfyui, pack_nodes, channels, taken):
    import comfy.ops

    adapter = package(pack_nodes, "comfy_adapters.weights")
    norm: Any = comfy.ops.disable_weight_init.GroupNorm(32, channels, dtype=torch.float16)
    torch.nn.init.normal_(norm.weight)
    norm.weight_comfy_model_dtype = torch.float32  # as archive_model_dtypes and a fp16 checkpoint leave a bf16 VAE
    if not taken:
        with pytest.raises(adapter.NotResidentError, match="computing is"):
            adapter.HeldWeights([norm], torch.device("cpu"), torch.float32)
        return
    held = adapter.HeldWeights([norm], torch.device("cpu"), torch.float32)
    weight, bias = held.weights[norm]
    assert torch.equal(weight, norm.weight.float())
    assert bias.dtype == torch.float32
