"""Stand-ins for whole packs: everything that one of them does to a ModelPatcher and to ComfyUI's modules, in small.

As in `neighbours`: the calls are facts, the code is not theirs, and nothing is imported before ComfyUI has chosen its allocator.
Each `add(model, patches)` changes a clone; what it replaces outside of the clone goes through `patches`, which takes it back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .neighbours import change_context_every_step

if TYPE_CHECKING:
    import pytest
    from torch import Tensor


@dataclass(frozen=True)
class Pack:
    """One pack: how it patches, and what the engine says if it leaves the run to ComfyUI's forward ("" where it need not)."""

    add: Callable[[Any, pytest.MonkeyPatch], None]
    says: str = ""


def _unet(model: Any) -> Any:
    return model.model.diffusion_model


def sage_override(model: Any, _patches: Any) -> None:
    """KJNodes' Patch Sage Attention: an override that never calls the function it is given."""
    import torch

    def override(_func: Any, q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Any = None, **_: Any) -> Tensor:
        n, _length, inner = q.shape
        q, k, v = (t.view(n, -1, heads, inner // heads).transpose(1, 2) for t in (q * 2, k, v))
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return out.transpose(1, 2).reshape(n, -1, inner)

    model.model_options["transformer_options"]["optimized_attention_override"] = override


def global_attention(_model: Any, patches: pytest.MonkeyPatch) -> None:
    """KJNodes' older node, and launchers with an attention of their own: ComfyUI's module-level function is replaced."""
    from comfy.ldm.modules import attention

    stock = attention.optimized_attention
    patches.setattr(attention, "optimized_attention", lambda q, k, v, heads, **kwargs: stock(q * 2, k, v, heads, **kwargs))


def compiled(model: Any, _patches: Any) -> None:
    """WaveSpeed's and the older KJNodes' compile node: the UNet itself is swapped for a wrapper, as an object patch."""
    import torch

    class OptimizedModule(torch.nn.Module):
        def __init__(self, unet: Any) -> None:
            super().__init__()
            self._orig_mod = unet

        def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            return self._orig_mod(x * 1.1, *args, **kwargs)

        def __getattr__(self, name: str) -> Any:
            try:
                return super().__getattr__(name)
            except AttributeError:
                return getattr(self._orig_mod, name)

    model.add_object_patch("diffusion_model", OptimizedModule(model.get_model_object("diffusion_model")))


def block_swap(model: Any, patches: pytest.MonkeyPatch) -> None:
    """Block swapping: a layer's weights are there only between the hooks that stand before and behind it."""
    import torch

    layer = _unet(model).middle_block[0]
    kept = {name: parameter.detach().clone() for name, parameter in layer.named_parameters()}

    @torch.no_grad()
    def fill(scale: float) -> None:
        for name, parameter in layer.named_parameters():
            parameter.data.copy_(kept[name] * scale)

    handles = [
        layer.register_forward_pre_hook(lambda *_: fill(3)),
        layer.register_forward_hook(lambda *_: fill(0)),
    ]

    class Undo:
        def __setattr__(self, _name: str, _value: Any) -> None: ...
        def __delattr__(self, _name: str) -> None:
            for handle in handles:
                handle.remove()
            fill(1)

    patches.setattr(Undo(), "hooks", True, raising=False)


def ip_adapter(model: Any, _patches: Any) -> None:
    """IPAdapter: its own keys and values in every cross-attention, told apart by transformer_index, prompt and sigma."""
    import torch
    from comfy.ldm.modules.attention import SpatialTransformer, optimized_attention

    own: dict[int, Tensor] = {}

    def attend(q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]) -> Tensor:
        out = optimized_attention(q, k, v, options["n_heads"])
        if options["sigmas"][0].item() < 0.5:
            return out
        index = options["transformer_index"]
        if index not in own:
            own[index] = torch.randn(2, 4, q.shape[-1], generator=torch.Generator().manual_seed(index))
        rows = len(q) // len(options["cond_or_uncond"])
        image = torch.cat([own[index][i : i + 1].expand(rows, -1, -1) for i in options["cond_or_uncond"]]).to(q)
        height, width = options["original_shape"][2:]
        assert height * width % q.shape[1] == 0
        return out + optimized_attention(q, image, image, options["n_heads"]) * 3

    blocks = [("input", i, b) for i, b in enumerate(_unet(model).input_blocks)]
    blocks += [("middle", 0, _unet(model).middle_block)]
    blocks += [("output", i, b) for i, b in enumerate(_unet(model).output_blocks)]
    options = model.model_options["transformer_options"] = model.model_options["transformer_options"].copy()
    replaced = options["patches_replace"] = options.get("patches_replace", {}).copy()
    replaced["attn2"] = replaced.get("attn2", {}).copy()
    for kind, number, block in blocks:
        for layer in block:
            if isinstance(layer, SpatialTransformer):
                for index in range(len(layer.transformer_blocks)):
                    replaced["attn2"][(kind, number, index)] = attend


def evolved_sampling(model: Any, _patches: Any) -> None:
    """AnimateDiff-Evolved's Evolved Sampling: runs that begin again, and sliding windows of the batch at every step."""
    import comfy.model_patcher
    import torch
    from comfy.patcher_extension import WrappersMP

    def iterate(executor: Any, noise: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        guider = executor.class_obj
        kept = guider.model_options
        guider.model_options = comfy.model_patcher.create_model_options_clone(kept)
        guider.model_options["transformer_options"]["ad_params"] = {"full_length": len(noise)}
        try:
            conds = dict(guider.conds)
            first = executor(noise, *args, **kwargs)
            guider.conds = conds
            return executor(noise + 0.1 * first.to(noise), *args, **kwargs)
        finally:
            guider.model_options = kept

    def windows(executor: Any, unet: Any, conds: Any, x: Tensor, timestep: Tensor, options: dict[str, Any]) -> list[Tensor]:
        assert options["transformer_options"]["ad_params"]["full_length"] == len(x)
        parts = [executor(unet, conds, x[i : i + 1], timestep[i : i + 1], options) for i in range(len(x))]
        return [torch.cat(rows) * 1.1 for rows in zip(*parts, strict=True)]

    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "ADE", iterate)
    model.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "ADE", windows)


def motion_model(model: Any, _patches: Any) -> None:
    """AnimateDiff-Evolved's motion modules: put into the blocks while the model is loaded, and GroupNorm over the whole batch."""
    import comfy.ops
    import torch
    from comfy.patcher_extension import PatcherInjection, WrappersMP

    class TemporalModule(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 0.3 * x.roll(1, dims=-1)

    def handler(layer: Any, x: Tensor, *_: Any) -> Tensor:
        return layer(x)

    unet, module = _unet(model), TemporalModule()

    def inject(_patcher: Any) -> None:
        unet.input_blocks[4].append(module)

    def eject(_patcher: Any) -> None:
        del unet.input_blocks[4][-1]

    def norms(executor: Any, *args: Any, **kwargs: Any) -> Any:
        norm = comfy.ops.disable_weight_init.GroupNorm
        stock = torch.nn.GroupNorm.forward, norm.forward_comfy_cast_weights
        torch.nn.GroupNorm.forward = lambda self, input: stock[0](self, input) * 1.1
        norm.forward_comfy_cast_weights = lambda self, input: stock[1](self, input) * 1.1
        try:
            return executor(*args, **kwargs)
        finally:
            torch.nn.GroupNorm.forward, norm.forward_comfy_cast_weights = stock

    model.set_injections("ADE", [PatcherInjection(inject, eject)])
    model.set_model_patch((TemporalModule, handler), "forward_timestep_embed_patch")
    model.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "ADE", norms)


def norms_of_a_class(_model: Any, patches: pytest.MonkeyPatch) -> None:
    """A normalisation that is replaced for all models at once."""
    import torch

    stock = torch.nn.GroupNorm.forward
    patches.setattr(torch.nn.GroupNorm, "forward", lambda self, x: stock(self, x) * 1.1)


def first_block_cache(model: Any, _patches: Any) -> None:
    """WaveSpeed's First Block Cache: `_forward` of the UNet object is replaced for the length of each call."""
    unet = _unet(model)
    stock = type(unet)._forward
    residual: list[Tensor] = []

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if not residual:
            residual.append(stock(unet, x, *args, **kwargs) - x)
        return x + residual[0]

    def wrapper(apply_model: Any, args: dict[str, Any]) -> Tensor:
        if args["timestep"][0].item() > 5:
            residual.clear()  # a new run
        with contextlib.ExitStack() as stack:
            unet._forward = forward
            stack.callback(delattr, unet, "_forward")
            return apply_model(args["input"], args["timestep"], **args["c"])

    model.set_model_unet_function_wrapper(wrapper)


def deep_cache(model: Any, _patches: Any) -> None:
    """DeepCache and step caches: every other step does without the UNet."""
    last: list[Tensor] = []

    def wrapper(apply_model: Any, args: dict[str, Any]) -> Tensor:
        if last and last[-1].shape == args["input"].shape:
            return last.pop() * 1.05
        last[:] = [apply_model(args["input"], args["timestep"], **args["c"])]
        return last[0]

    model.set_model_unet_function_wrapper(wrapper)


def replaced_apply_model(model: Any, patches: pytest.MonkeyPatch) -> None:
    """AnimateDiff-Evolved before ComfyUI had wrappers: `apply_model` of the model object is replaced."""
    base = model.model
    stock = base.apply_model

    def apply_model(x: Tensor, t: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        kwargs["c_crossattn"] = kwargs["c_crossattn"] * (1 + t[0].item() / 14)
        return stock(x, t, *args, **kwargs)

    patches.setattr(base, "apply_model", apply_model)


def _rewritten(conds: Any, factor: float) -> Any:
    """Conds as calc_cond_batch takes them, their text scaled, everything else (their uuid too) as it was."""
    import comfy.conds

    if conds is None:
        return None
    return [
        {
            **c,
            "model_conds": c["model_conds"]
            | {"c_crossattn": comfy.conds.CONDRegular(c["model_conds"]["c_crossattn"].cond * factor)},
        }
        for c in conds
    ]


def sampling_function(_model: Any, patches: pytest.MonkeyPatch) -> None:
    """smZNodes, AutomaticCFG and others: comfy.samplers.sampling_function is replaced, here by one that rewrites prompts."""
    import comfy.samplers

    stock = comfy.samplers.sampling_function

    def function(model: Any, x: Tensor, timestep: Tensor, uncond: Any, cond: Any, *args: Any, **kwargs: Any) -> Tensor:
        factor = 1 + timestep[0].item() / 14
        return stock(model, x, timestep, _rewritten(uncond, factor), _rewritten(cond, factor), *args, **kwargs)

    patches.setattr(comfy.samplers, "sampling_function", function)


def wrapper_of_a_run(model: Any, _patches: Any) -> None:
    """AnimateDiff-Evolved's special models, WanVideoWrapper's InfiniteTalk: what stands around the model is put there once a run has begun."""
    import comfy.model_patcher
    from comfy.patcher_extension import WrappersMP, add_wrapper_with_key

    def apply_model(executor: Any, x: Tensor, t: Tensor, concat: Any, context: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return executor(x, t, concat, context * (1 + t[0].item() / 14), *args, **kwargs)

    def outer(executor: Any, *args: Any, **kwargs: Any) -> Tensor:
        guider = executor.class_obj
        kept = guider.model_options
        guider.model_options = comfy.model_patcher.create_model_options_clone(kept)
        add_wrapper_with_key(WrappersMP.APPLY_MODEL, "other", apply_model, guider.model_options, is_model_options=True)
        try:
            return executor(*args, **kwargs)
        finally:
            guider.model_options = kept

    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "other", outer)


def function_wrapper_of_a_sampler(model: Any, _patches: Any) -> None:
    """Packs that hand their sampler other model options than the guider has."""
    from comfy.patcher_extension import WrappersMP

    def sample(executor: Any, guider: Any, sigmas: Tensor, extra_args: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        options = {**extra_args["model_options"], "model_function_wrapper": change_context_every_step}
        return executor(guider, sigmas, {**extra_args, "model_options": options}, *args, **kwargs)

    model.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, "other", sample)


def guidance_of_its_own(model: Any, _patches: Any) -> None:
    """Guidance packs: after CFG the model is asked again, with a prompt that was rewritten for this step."""

    def post_cfg(args: dict[str, Any]) -> Tensor:
        import comfy.samplers

        conds = _rewritten(args["cond"], 1 + args["sigma"][0].item() / 14)
        (again,) = comfy.samplers.calc_cond_batch(args["model"], [conds], args["input"], args["sigma"], args["model_options"])
        return args["denoised"] + 0.5 * (args["cond_denoised"] - again)

    model.set_model_sampler_post_cfg_function(post_cfg)


def context_every_step(model: Any, _patches: Any) -> None:
    """Prompt scheduling: a unet function wrapper that changes the prompt."""
    model.set_model_unet_function_wrapper(change_context_every_step)


PACKS = {
    "KJNodes: Sage override": Pack(sage_override),
    "KJNodes: global attention": Pack(global_attention),
    "KJNodes, WaveSpeed: compiled UNet": Pack(compiled, "diffusion_model replaced by a OptimizedModule"),
    "block swap": Pack(block_swap, "another node replaced what middle_block.0 computes"),
    "IPAdapter": Pack(ip_adapter),
    "AnimateDiff-Evolved: sampling": Pack(evolved_sampling),
    "AnimateDiff-Evolved: motion model": Pack(motion_model, "another node injects code into the UNet (ADE)"),
    "AnimateDiff-Evolved, gen1: apply_model": Pack(replaced_apply_model),
    "GroupNorm of all models": Pack(norms_of_a_class, "another node replaced what every GroupNorm computes"),
    "WaveSpeed: First Block Cache": Pack(first_block_cache, "another node replaced what the UNet computes"),
    "DeepCache": Pack(deep_cache),
    "smZNodes, AutomaticCFG: sampling_function": Pack(sampling_function),
    "AnimateDiff-Evolved, WanVideoWrapper: wrapper of a run": Pack(wrapper_of_a_run),
    "function wrapper of a sampler": Pack(function_wrapper_of_a_sampler),
    "guidance that asks again": Pack(guidance_of_its_own),
    "prompt scheduling": Pack(context_every_step),
}
