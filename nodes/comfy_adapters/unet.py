"""The structure and the stock pieces of ComfyUI's SDXL UNet, handed out as plain values."""

from typing import Any

import torch

from .internals import optional
from .weights import author

core_attention = optional("comfy.ldm.modules.attention")
openaimodel = optional("comfy.ldm.modules.diffusionmodules.openaimodel")
diffusion_util = optional("comfy.ldm.modules.diffusionmodules.util")


def describe_unet(unet: Any) -> dict[str, Any]:
    """Return the blocks of a UNetModel as tuples of (kind, module), in the order of its forward."""
    return {
        "input_blocks": tuple(_layers(block) for block in unet.input_blocks),
        "middle_block": _layers(unet.middle_block) if unet.middle_block is not None else (),
        "output_blocks": tuple(_layers(block) for block in unet.output_blocks),
        "time_embed": unet.time_embed,
        "label_emb": unet.label_emb,
        "out": unet.out,
        "model_channels": unet.model_channels,
    }


def is_of(unet: Any, patcher: Any) -> bool:
    """Tell whether `unet` is the one of the MODEL `patcher`: a guider may ask a second model with the first one's options (DualModelGuider)."""
    return unet is patcher.model.diffusion_model


def replaced_forward(stock: Any) -> str:
    """Tell who replaced the UNet's own `_forward`, as WaveSpeed's First Block Cache does for the length of a call; empty if nobody."""
    plain = getattr(stock, "__func__", None) is openaimodel.UNetModel._forward
    return "" if plain else f"another node replaced what the UNet computes{author(stock)}"


def _layers(block: Any) -> tuple[tuple[str, Any], ...]:
    return tuple((_kind(layer), layer) for layer in block)


def _kind(layer: Any) -> str:
    if isinstance(layer, openaimodel.ResBlock):
        plain = not (layer.updown or layer.use_scale_shift_norm or layer.skip_t_emb or layer.exchange_temb_dims)
        return "resblock" if plain and type(layer) is openaimodel.ResBlock else "other"
    if isinstance(layer, core_attention.SpatialTransformer):
        plain = all(_is_plain_block(block) for block in layer.transformer_blocks)
        return "transformer" if plain and type(layer) is core_attention.SpatialTransformer and layer.use_linear else "other"
    if isinstance(layer, openaimodel.Upsample):
        return "upsample" if layer.use_conv and layer.dims == 2 else "other"
    if isinstance(layer, openaimodel.Downsample):
        return "downsample" if layer.use_conv and layer.dims == 2 else "other"
    return "conv" if isinstance(layer, torch.nn.Conv2d) else "other"


def _is_plain_block(block: Any) -> bool:
    gated = isinstance(block.ff.net[0], core_attention.GEGLU)
    return (
        gated
        and block.attn2 is not None
        and block.is_res
        and not (block.ff_in or block.disable_self_attn or block.switch_temporal_ca_to_sa)
    )


def stock_layer(
    layer: Any, x: torch.Tensor, emb: torch.Tensor, context: Any, options: dict[str, Any], output_shape: Any
) -> torch.Tensor:
    """Run one layer of a block as ComfyUI does, with every patch that other nodes put on it; x is [N, C, H, W]."""
    return openaimodel.forward_timestep_embed([layer], x, emb, context, options, output_shape)


def stock_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, options: dict[str, Any]) -> torch.Tensor:
    """Run ComfyUI's attention with the override that another node may have set; q, k, v are [N, L, heads * d]."""
    return core_attention.optimized_attention(q, k, v, heads, transformer_options=options)


def time_features(timesteps: torch.Tensor, channels: int, dtype: torch.dtype) -> torch.Tensor:
    """Return the sinusoidal features of `timesteps` [N] as ComfyUI computes them, [N, channels]."""
    return diffusion_util.timestep_embedding(timesteps, channels, repeat_only=False).to(dtype)


def apply_control(h: torch.Tensor, control: Any, name: str) -> torch.Tensor:
    """Add the next residual of `control` for "input", "middle" or "output", as ComfyUI does (it consumes the list)."""
    return openaimodel.apply_control(h, control, name)
