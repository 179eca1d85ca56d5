"""Patches of other nodes, put on before and after OptimizeModel: they are called at every step, and change what they should."""

from typing import Any

import pytest
import torch

from ..neighbour_packs import PACKS
from ..neighbours import AROUND, CALLED, add_bypass_lora, patched
from .conftest import NODES, WHY_NOT

if NODES is None:
    pytest.skip(WHY_NOT, allow_module_level=True)

from .engine_checks import STEPS, TOLERANCE, VISIBLE, check, check_patched, optimize, relative_error, sample


@pytest.mark.parametrize("kind", list(CALLED))
def test_patches_inside_the_forward(tiny, conds, watch, kind):
    stock = patched(tiny.model, CALLED[kind])
    assert relative_error(sample(stock, conds), sample(tiny.model, conds)) > VISIBLE
    check_patched(watch, optimize(stock)[0], stock, conds)
    check_patched(watch, patched(optimize(tiny.model)[0], CALLED[kind]), stock, conds)


@pytest.mark.parametrize("kind", list(AROUND))
def test_patches_around_the_forward(tiny, conds, watch, kind):
    stock = patched(tiny.model, AROUND[kind])
    assert relative_error(sample(stock, conds), sample(tiny.model, conds)) > VISIBLE
    check(watch, optimize(stock)[0], stock, conds)
    check(watch, patched(optimize(tiny.model)[0], AROUND[kind]), stock, conds)


def test_a_patch_on_a_later_clone_is_not_served_from_the_graph(tiny, conds, watch):
    """The graph of the plain model is there; the clone shares the engine and must not be drawn with it."""
    stock = patched(tiny.model, CALLED["attn2_output_patch"])
    plain, expected = sample(tiny.model, conds), sample(stock, conds)
    ours = optimize(tiny.model)[0]
    assert relative_error(sample(ours, conds), plain) < TOLERANCE
    assert watch.captures == 2
    later = patched(ours, CALLED["attn2_output_patch"])
    assert relative_error(sample(later, conds), expected) < TOLERANCE
    assert relative_error(sample(ours, conds), plain) < TOLERANCE


def reaches_the_picture(model: Any, conds: Any) -> bool:
    """Tell whether a patch put on a clone of `model`, after `model` has drawn, changes what the clone draws."""
    plain = sample(model, conds)
    return relative_error(sample(patched(model, CALLED["attn2_output_patch"]), conds), plain) > VISIBLE


def test_core_torch_compile_ignores_a_later_patch_and_ours_does_not(tiny, conds):
    """ComfyUI's TorchCompileModel (0.30.0) drops every guard on transformer_options, and with them the patches.

    The guards are Dynamo's, so backend "eager" shows it as inductor does and needs no C compiler.
    """
    from comfy_extras.nodes_torch_compile import TorchCompileModel

    torch._dynamo.reset()
    compiled = TorchCompileModel.execute(tiny.model, "eager").args[0]
    try:
        assert not reaches_the_picture(compiled, conds), "ComfyUI mended its node: take it off the list of what breaks"
    finally:
        torch._dynamo.reset()
    assert reaches_the_picture(optimize(tiny.model)[0], conds)


def test_a_model_that_core_compiled_is_refused_by_its_name(tiny):
    from comfy_extras.nodes_torch_compile import TorchCompileModel

    compiled = TorchCompileModel.execute(tiny.model, "eager").args[0]
    report = optimize(compiled, engine="eager")[1]
    assert "refused: engine: another node already replaced the UNet (torch.compile)" in report


def test_injected_code_is_left_to_comfyui(tiny, conds, watch):
    ours = optimize(tiny.model)[0]
    plain = sample(ours, conds)
    stock, later = tiny.model.clone(), ours.clone()
    for clone in (stock, later):
        add_bypass_lora(clone)
    expected = sample(stock, conds)
    watch.reset()
    assert torch.equal(sample(later, conds), expected)
    assert (watch.engine, watch.stock) == (0, STEPS)
    assert relative_error(sample(ours, conds), plain) < TOLERANCE


BREAKS_UNDER_DYNAMIC_VRAM = {  # without any of ours
    "KJNodes, WaveSpeed: compiled UNet": "ComfyUI 0.30.0 cannot load a model again itself after a node has swapped its UNet",
    "block swap": "the weights that its stand-in writes over lie in the checkpoint's file, mapped for reading: a segmentation fault",
}


@pytest.mark.parametrize("name", list(PACKS))
def test_whole_packs(tiny, conds, monkeypatch, caplog, name):
    """After the engine has drawn and captured: stock's picture with that pack, or a refusal that names it."""
    if name in BREAKS_UNDER_DYNAMIC_VRAM and type(tiny.model).__name__ == "ModelPatcherDynamic":
        pytest.skip(BREAKS_UNDER_DYNAMIC_VRAM[name])
    plain = sample(tiny.model, conds, batch=2)
    with monkeypatch.context() as patches:
        stock = tiny.model.clone()
        PACKS[name].add(stock, patches)
        expected = sample(stock, conds, batch=2)
    ours = optimize(tiny.model)[0]
    assert relative_error(sample(ours, conds, batch=2), plain) < TOLERANCE
    with monkeypatch.context() as patches, caplog.at_level("INFO", "fast_sprites"):
        later = ours.clone()
        PACKS[name].add(later, patches)
        got = sample(later, conds, batch=2)
    assert PACKS[name].says in caplog.text
    assert relative_error(got, expected) < TOLERANCE
    assert torch.equal(sample(tiny.model, conds, batch=2), plain)
