"""Patches of other nodes, put on before and after OptimizeModel: they are called at every step, and change what they should."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from .conftest import NODES, WHY_NOT

if NODES is None:
    pytest.skip(WHY_NOT, allow_module_level=True)

from .engine_checks import STEPS, TOLERANCE, VISIBLE, check, check_patched, optimize, relative_error, sample


def attn2_replace(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, extra_options: dict[str, Any]) -> torch.Tensor:
    """What IPAdapter does: its own attention with something added."""
    from comfy.ldm.modules.attention import optimized_attention

    return optimized_attention(q, k, v, extra_options["n_heads"]) * 10


def add_attn2_replace(model: Any) -> None:
    model.set_model_attn2_replace(attn2_replace, "input", 4)
    model.set_model_attn2_replace(attn2_replace, "middle", 0, 1)


def add_upsample_handler(model: Any) -> None:
    from comfy.ldm.modules.diffusionmodules.openaimodel import Upsample

    def handler(layer: Any, x: torch.Tensor, _emb: Any, _context: Any, _options: Any, output_shape: Any, *_: Any) -> torch.Tensor:
        return layer(x, output_shape=output_shape) * 1.5

    model.set_model_patch((Upsample, handler), "forward_timestep_embed_patch")


def scaled_attention(func: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
    return func(*args, **kwargs) * 1.5


# What other packs put on a model, strong enough to be seen. All of them are Python that has to run at every step: no graph.
CALLED: dict[str, Callable[[Any], object]] = {
    "attn1_replace": lambda m: m.set_model_attn1_replace(attn2_replace, "output", 2),
    "attn2_replace": add_attn2_replace,
    "attn1_patch": lambda m: m.set_model_attn1_patch(lambda n, context, value, options: (n * 1.3, context, value * 1.3)),
    "attn2_patch": lambda m: m.set_model_attn2_patch(lambda n, context, value, options: (n, context, value * 2)),
    "attn1_output_patch": lambda m: m.set_model_attn1_output_patch(
        lambda n, options: n * (2 if options["block"][0] == "output" else 1)
    ),
    "attn2_output_patch": lambda m: m.set_model_attn2_output_patch(lambda n, options: n * 2),
    "input_block_patch": lambda m: m.set_model_input_block_patch(lambda h, options: h * (1.5 if options["block"][1] == 3 else 1)),
    "input_block_patch_after_skip": lambda m: m.set_model_input_block_patch_after_skip(lambda h, options: h * 1.2),
    "output_block_patch": lambda m: m.set_model_output_block_patch(lambda h, skip, options: (h * 1.2, skip * 0.8)),
    "emb_patch": lambda m: m.set_model_patch(lambda emb, channels, options: emb * 1.5, "emb_patch"),
    "attention_override": lambda m: m.model_options["transformer_options"].update(optimized_attention_override=scaled_attention),
    "timestep_embed_patch": add_upsample_handler,
}


def change_context_every_step(apply_model: Any, args: dict[str, Any]) -> torch.Tensor:
    c = dict(args["c"], c_crossattn=args["c"]["c_crossattn"] * (1 + args["timestep"][0].item() / 14))
    return apply_model(args["input"], args["timestep"], **c)


def add_forward_wrapper(model: Any) -> None:
    from comfy.patcher_extension import WrappersMP

    model.add_wrapper_with_key(
        WrappersMP.DIFFUSION_MODEL, "neighbour", lambda executor, x, *args, **kwargs: executor(x * 1.1, *args, **kwargs)
    )


# These stand outside the UNet's forward: the graph stays.
AROUND: dict[str, Callable[[Any], object]] = {
    "unet_function_wrapper": lambda m: m.set_model_unet_function_wrapper(change_context_every_step),
    "diffusion_model_wrapper": add_forward_wrapper,
    "cfg_function": lambda m: m.set_model_sampler_cfg_function(lambda args: args["cond"] * 1.3),
}


def patched(model: Any, add: Callable[[Any], object]) -> Any:
    clone = model.clone()
    add(clone)
    return clone


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


def test_core_torch_compile_ignores_a_later_patch_and_ours_does_not(comfyui, tiny, conds):
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


def test_a_model_that_core_compiled_is_refused_by_its_name(comfyui, tiny):
    from comfy_extras.nodes_torch_compile import TorchCompileModel

    compiled = TorchCompileModel.execute(tiny.model, "eager").args[0]
    report = optimize(compiled, engine="eager")[1]
    assert "refused: engine: another node already replaced the UNet (torch.compile)" in report


def test_injected_code_is_left_to_comfyui(tiny, conds, watch):
    from comfy.patcher_extension import PatcherInjection

    block = tiny.model.model.diffusion_model.middle_block[1].transformer_blocks[0].attn1.to_q
    original = type(block).forward.__get__(block)

    def inject(_patcher: Any) -> None:
        block.forward = lambda x: original(x) * 5

    def eject(_patcher: Any) -> None:
        block.forward = original

    ours = optimize(tiny.model)[0]
    plain = sample(ours, conds)
    stock, later = tiny.model.clone(), ours.clone()
    for clone in (stock, later):
        clone.set_injections("bypass", [PatcherInjection(inject, eject)])
    expected = sample(stock, conds)
    watch.reset()
    assert torch.equal(sample(later, conds), expected)
    assert (watch.engine, watch.stock) == (0, STEPS)
    assert relative_error(sample(ours, conds), plain) < TOLERANCE
