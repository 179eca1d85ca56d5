"""Stand-ins for what other packs do to a ModelPatcher, strong enough to be seen in a picture; shared by tests/comfy and tests/gpu.

Only public facts about the calls that those packs make are used, none of their code. torch and ComfyUI are imported inside the
functions: on a GPU ComfyUI must choose its allocator before anything imports torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def patched(model: Any, add: Callable[[Any], object]) -> Any:
    """A clone of `model` with one of the patches below."""
    clone = model.clone()
    add(clone)
    return clone


def stronger_attention(q: Tensor, k: Tensor, v: Tensor, extra_options: dict[str, Any]) -> Tensor:
    """An attention of another node's own, for a replace patch."""
    from comfy.ldm.modules.attention import optimized_attention

    return optimized_attention(q, k, v, extra_options["n_heads"]) * 10


def add_attn2_replace(model: Any) -> None:
    model.set_model_attn2_replace(stronger_attention, "input", 4)
    model.set_model_attn2_replace(stronger_attention, "middle", 0, 1)


def add_upsample_handler(model: Any) -> None:
    """As SUPIR's node: a handler for a class of layers."""
    from comfy.ldm.modules.diffusionmodules.openaimodel import Upsample

    def handler(layer: Any, x: Tensor, _emb: Any, _context: Any, _options: Any, output_shape: Any, *_: Any) -> Tensor:
        return layer(x, output_shape=output_shape) * 1.5

    model.set_model_patch((Upsample, handler), "forward_timestep_embed_patch")


def scaled_attention(func: Any, *args: Any, **kwargs: Any) -> Tensor:
    return func(*args, **kwargs) * 1.5


# Python of other nodes inside the forward, which has to run at every step: no graph.
CALLED: dict[str, Callable[[Any], object]] = {
    "attn1_replace": lambda m: m.set_model_attn1_replace(stronger_attention, "output", 2),
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


def change_context_every_step(apply_model: Any, args: dict[str, Any]) -> Tensor:
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


def add_bypass_lora(model: Any) -> None:
    """As bypass LoRA and AnimateDiff's motion modules: code that is put into the UNet while the model is loaded."""
    from comfy.patcher_extension import PatcherInjection

    block = model.model.diffusion_model.middle_block[1].transformer_blocks[0].attn1.to_q
    original = type(block).forward.__get__(block)  # another clone may have its own code in place just now

    def inject(_patcher: Any) -> None:
        block.forward = lambda x: original(x) * 5

    def eject(_patcher: Any) -> None:
        block.forward = original

    model.set_injections("bypass", [PatcherInjection(inject, eject)])
