"""OptimizeModel beside the patches of other packs: stock's picture with that patch, or a refusal that names it."""

import functools
from typing import Any

import pytest
import torch

from ..neighbour_packs import PACKS
from ..neighbours import AROUND, CALLED, add_bypass_lora, patched
from .optimized import STEPS, TOLERANCE, optimize, package, relative_error, sample, with_graphs

NEIGHBOURS = CALLED | AROUND
SMALL = {"width": 64, "height": 64, "batch": 2, "steps": 3}


@pytest.fixture(scope="module")
def plain(comfyui, tiny_sdxl, conds) -> torch.Tensor:
    """Stock's picture."""
    return sample(comfyui, tiny_sdxl.model, conds, **SMALL)


@pytest.mark.parametrize("kind", list(NEIGHBOURS))
def test_patches_of_other_nodes_before_and_after(comfyui, pack_nodes, tiny_sdxl, conds, plain, watch, kind):
    stock = patched(tiny_sdxl.model, NEIGHBOURS[kind])
    expected = sample(comfyui, stock, conds, **SMALL)
    assert relative_error(expected, plain) > 50 * TOLERANCE
    before = optimize(pack_nodes, stock)[0]
    after = patched(optimize(pack_nodes, tiny_sdxl.model)[0], NEIGHBOURS[kind])
    for number, ours in enumerate((before, after), start=1):
        assert relative_error(sample(comfyui, ours, conds, **SMALL), expected) < TOLERANCE
        assert watch.count == number * SMALL["steps"]


@pytest.mark.parametrize("order", ["before", "after"])
def test_injected_code_is_left_to_comfyui(comfyui, pack_nodes, tiny_sdxl, conds, watch, order):
    optimized = optimize(pack_nodes, tiny_sdxl.model)[0]
    plain = sample(comfyui, optimized, conds)  # the engine has seen this shape and trusts itself
    assert watch.count == STEPS
    stock = tiny_sdxl.model.clone()
    add_bypass_lora(stock)
    expected = sample(comfyui, stock, conds)
    assert relative_error(expected, plain) > 10 * TOLERANCE
    after = optimized.clone()
    add_bypass_lora(after)
    got = sample(comfyui, after if order == "after" else optimize(pack_nodes, stock)[0], conds)
    assert torch.equal(got, expected)
    assert watch.count == STEPS
    assert relative_error(sample(comfyui, optimized, conds), plain) < TOLERANCE
    assert watch.count == 2 * STEPS


def test_modules_that_somebody_changed_in_place_are_left_to_comfyui(comfyui, pack_nodes, tiny_sdxl, conds, watch):
    """Circular padding for tiled textures is set on the convolutions themselves."""
    optimized = optimize(pack_nodes, tiny_sdxl.model)[0]
    plain = sample(comfyui, optimized, conds)
    convolutions = [
        m for m in tiny_sdxl.model.model.diffusion_model.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3)
    ]
    try:
        for convolution in convolutions:
            convolution.padding_mode, convolution._reversed_padding_repeated_twice = "circular", [1, 1, 1, 1]
        expected = sample(comfyui, tiny_sdxl.model, conds)
        assert relative_error(expected, plain) > 10 * TOLERANCE
        assert torch.equal(sample(comfyui, optimized, conds), expected)
    finally:
        for convolution in convolutions:
            convolution.padding_mode = "zeros"
    assert watch.count == STEPS
    assert relative_error(sample(comfyui, optimized, conds), plain) < TOLERANCE


def test_a_skip_of_another_size_is_refused_before_a_kernel_reads_past_it(comfyui, pack_nodes, tiny_sdxl, conds):
    optimized = optimize(pack_nodes, tiny_sdxl.model)[0].clone()
    optimized.set_model_output_block_patch(lambda h, skip, options: (h, skip[..., :-1]))
    with pytest.raises(ValueError, match="sizes must match"):
        sample(comfyui, optimized, conds)


def test_gradients_of_another_node_flow_through_comfyuis_forward(comfyui, pack_nodes, tiny_sdxl, conds, watch):
    optimized = optimize(pack_nodes, tiny_sdxl.model)[0].clone()
    gradients: list[float] = []

    def guided(apply_model: Any, args: dict[str, Any]) -> torch.Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            x = args["input"].clone().requires_grad_()
            given = {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in args["c"].items()}
            out = apply_model(x, args["timestep"].clone(), **given)
            gradients.append(torch.autograd.grad(out.square().sum(), x)[0].abs().sum().item())
        return out.detach()

    optimized.set_model_unet_function_wrapper(guided)
    sample(comfyui, optimized, conds)
    assert watch.count == 0
    assert len(gradients) == STEPS
    assert min(gradients) > 0


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("name", list(PACKS))
def test_whole_packs(comfyui, pack_nodes, tiny_sdxl, optimized, watch, conds, plain, monkeypatch, caplog, name, order):
    """The engine has drawn and captured this shape before the other pack comes."""
    assert relative_error(sample(comfyui, optimized, conds, **SMALL), plain) < TOLERANCE
    pack = PACKS[name]
    with monkeypatch.context() as patches:
        stock = tiny_sdxl.model.clone()
        pack.add(stock, patches)
        expected = sample(comfyui, stock, conds, **SMALL)
    assert relative_error(expected, plain) > 50 * TOLERANCE
    forwards = watch.count
    with monkeypatch.context() as patches, caplog.at_level("INFO", "fast_sprites"):
        ours = tiny_sdxl.model.clone() if order == "before" else optimized.clone()
        pack.add(ours, patches)
        got = sample(comfyui, with_graphs(pack_nodes, ours) if order == "before" else ours, conds, **SMALL)
    if pack.says:
        assert pack.says in caplog.text
        assert torch.equal(got, expected)
        assert watch.count == forwards
    else:
        assert relative_error(got, expected) < TOLERANCE
        assert watch.count > forwards, caplog.text
    assert torch.equal(sample(comfyui, tiny_sdxl.model, conds, **SMALL), plain)


@pytest.mark.parametrize("name", ["KJNodes: global attention", "GroupNorm of all models"])
def test_what_is_replaced_for_all_models_between_two_runs_of_one(comfyui, tiny_sdxl, optimized, conds, monkeypatch, name):
    """Nothing was unloaded in between that would have let the engine begin anew."""
    add = PACKS[name].add
    with monkeypatch.context() as patches:
        add(tiny_sdxl.model, patches)
        expected = sample(comfyui, tiny_sdxl.model, conds, **SMALL)
    plain = sample(comfyui, optimized, conds, **SMALL)
    with monkeypatch.context() as patches:
        add(optimized, patches)
        assert relative_error(sample(comfyui, optimized, conds, **SMALL), expected) < TOLERANCE
    assert relative_error(sample(comfyui, optimized, conds, **SMALL), plain) < TOLERANCE


def test_functions_for_all_models_may_be_partials(comfyui, pack_nodes, tiny_sdxl, optimized, watch, conds, monkeypatch):
    """Partials have no name and no module."""
    import comfy.samplers
    from comfy.ldm.modules import attention

    monkeypatch.setattr(comfy.samplers, "sampling_function", functools.partial(comfy.samplers.sampling_function))
    monkeypatch.setattr(attention, "optimized_attention", functools.partial(attention.optimized_attention))
    assert "attention: ComfyUI's partial" in optimize(pack_nodes, tiny_sdxl.model)[1]
    expected = sample(comfyui, tiny_sdxl.model, conds, **SMALL)
    assert relative_error(sample(comfyui, optimized, conds, **SMALL), expected) < TOLERANCE
    assert watch.count > 0


@pytest.mark.parametrize("yields", [True, False])
def test_an_attention_that_was_not_asked_for_by_name_yields_to_a_global_one(
    comfyui, pack_nodes, tiny_sdxl, conds, watch, monkeypatch, caplog, yields
):
    """Where the plan took cuDNN on its own and another node replaces ComfyUI's function afterwards."""
    from comfy.ldm.modules import attention

    monkeypatch.setattr(attention, "optimized_attention", attention.attention_pytorch)  # a GPU's default
    plan = package(pack_nodes, "engine.model.plan").ModelPlan(engine="eager", attention="cudnn", attention_yields=yields)
    ours = package(pack_nodes, "engine.model.apply_model_plan").apply_model_plan(tiny_sdxl.model, plan, "3")
    plain = sample(comfyui, tiny_sdxl.model, conds, **SMALL)
    assert relative_error(sample(comfyui, ours, conds, **SMALL), plain) < TOLERANCE
    PACKS["KJNodes: global attention"].add(ours, monkeypatch)
    expected = sample(comfyui, tiny_sdxl.model, conds, **SMALL)
    forwards = watch.count
    with caplog.at_level("INFO", "fast_sprites"):
        assert relative_error(sample(comfyui, ours, conds, **SMALL), expected) < TOLERANCE
    if yields:
        assert watch.count == 2 * forwards, caplog.text
    else:
        assert "differed from ComfyUI's by" in caplog.text
