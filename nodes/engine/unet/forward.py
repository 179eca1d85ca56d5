"""One pass over the SDXL UNet in channels-last memory on fused kernels.

Between layers a picture is an [N, C, H, W] tensor with channels-last strides, so that other nodes' patches see what they expect;
kernels see the same memory as contiguous [N, H, W, C]. Convolutions run without bias, which torch would add in a pass of its own
in this layout: biases are folded into the next GroupNorm or residual addition.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..kernels.ops import TorchOps, nchw, nhwc
from ..kernels.reference import Fp8Rows
from .layout import Block, UNetLayout, self_attention_inputs
from .prepared import PreparedWeights

KeysValues = dict[Any, tuple[Tensor, Tensor]]
# Patches of the model that a transformer block calls, whichever block it is.
BLOCK_PATCHES = ("attn1_patch", "attn1_output_patch", "attn2_patch", "attn2_output_patch", "middle_patch")


@dataclass(frozen=True)
class StockPieces:
    """ComfyUI's own functions that the engine falls back on, passed in so that the engine imports none of it."""

    layer: Callable[..., Tensor]
    attention: Callable[..., Tensor]
    time_features: Callable[..., Tensor]
    apply_control: Callable[..., Tensor]


class UNetForward:
    """The forward of one UNet with prepared weights; `attend` is torch's SDPA with the chosen backend."""

    def __init__(
        self, layout: UNetLayout, ops: TorchOps, prepared: PreparedWeights, stock: StockPieces, attend: Callable[..., Tensor]
    ):
        self.layout = layout
        self.ops = ops
        self.prepared = prepared
        self.stock = stock
        self.attend = attend

    def keys_values(self, block: Any, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values of a transformer block's cross-attention for `context` [N, L, D]."""
        return self._linear(block.attn2.to_k, context), self._linear(block.attn2.to_v, context)

    def cross_buffers(self, context: Tensor) -> KeysValues:
        """Return uninitialised keys and values for every transformer block and a context like `context`."""

        def buffer(projection: Any) -> Tensor:
            return context.new_empty((*context.shape[:-1], self.prepared.weights[projection][0].shape[0]))

        return {block: (buffer(block.attn2.to_k), buffer(block.attn2.to_v)) for block in self.layout.transformer_blocks()}

    def __call__(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor,
        y: Tensor | None,
        control: Any,
        options: dict[str, Any],
        cross: KeysValues | None = None,
    ) -> Tensor:
        """Return the UNet's output for `x` [N, C, H, W], as ComfyUI's UNetModel._forward does with the same arguments.

        `cross` holds keys and values of cross-attentions that were computed before, by transformer block.
        """
        patches = options.get("patches", {})
        step = _Step(self, context, options, cross or {})
        options["original_shape"] = list(x.shape)
        options["transformer_index"] = 0
        emb = self._embed(x, timesteps, y, patches, options)
        step.emb, step.silu_emb = emb, F.silu(emb)
        skips: list[Tensor] = []
        step.h = x
        for index, block in enumerate(self.layout.input_blocks):
            options["block"] = ("input", index)
            step.block(block)
            step.h = self.stock.apply_control(step.h, control, "input")
            for patch in patches.get("input_block_patch", ()):
                step.h = patch(step.h, options)
            skips.append(step.h)
            for patch in patches.get("input_block_patch_after_skip", ()):
                step.h = patch(step.h, options)
        options["block"] = ("middle", 0)
        step.block(self.layout.middle_block)
        step.h = self.stock.apply_control(step.h, control, "middle")
        for patch in patches.get("middle_block_after_patch", ()):
            names = {
                "h": step.h,
                "x": x,
                "emb": emb,
                "context": context,
                "y": y,
                "timesteps": timesteps,
                "transformer_options": options,
            }
            step.h = patch(names)["h"]
        for index, block in enumerate(self.layout.output_blocks):
            options["block"] = ("output", index)
            step.skip = self.stock.apply_control(skips.pop(), control, "output")
            for patch in patches.get("output_block_patch", ()):
                step.patch_output(patch, x.dtype)
            step.block(block, skips[-1].shape if skips else None)
        step.h = step.h.to(x.dtype)
        return self._head(step.h)

    def _embed(self, x: Tensor, timesteps: Tensor, y: Tensor | None, patches: dict[str, Any], options: dict[str, Any]) -> Tensor:
        features = self.stock.time_features(timesteps, self.layout.model_channels, x.dtype)
        emb = self._mlp(self.layout.time_embed, features)
        for patch in patches.get("emb_patch", ()):
            emb = patch(emb, self.layout.model_channels, options)
        return emb + self._mlp(self.layout.label_emb[0], y) if y is not None else emb

    def _mlp(self, layers: Any, x: Tensor) -> Tensor:
        return self._linear(layers[2], F.silu(self._linear(layers[0], x)))

    def _linear(self, module: Any, x: Tensor | Fp8Rows) -> Tensor:
        bias = self.prepared.bias(module)
        if module in self.prepared.own.fp8:
            return self._fp8_linear(module, x, bias)
        assert isinstance(x, Tensor)
        return self.ops.linear(x, self.prepared.weight(module), bias)

    def _fp8_linear(self, module: Any, x: Tensor | Fp8Rows, bias: Tensor | None) -> Tensor:
        rows = self.ops.quantize_rows(x) if isinstance(x, Tensor) else x
        return self.ops.fp8_linear(rows, self.prepared.own.fp8[module], bias, self.prepared.dtype)

    def _linear_onto(self, tokens: Tensor, module: Any, x: Tensor | Fp8Rows) -> tuple[Tensor, Tensor | None]:
        """Add the module's product, without its bias, to `tokens` in place; an FP8 product is returned for the next reader to add."""
        if module in self.prepared.own.fp8:
            return tokens, self._fp8_linear(module, x, None)
        assert isinstance(x, Tensor)
        return self.ops.linear_onto(tokens, x, self.prepared.weight(module)), None

    def _head(self, h: Tensor) -> Tensor:
        norm, _, conv = self.layout.out
        normed = self._group_norm(norm, nhwc(h))
        weight, bias = self.prepared.weight(conv), self.prepared.bias(conv)
        return F.conv2d(nchw(normed), weight, bias, padding=conv.padding).contiguous()

    def _group_norm(
        self,
        module: Any,
        x: Tensor,
        *,
        second: Tensor | None = None,
        add: Tensor | None = None,
        silu: bool = True,
        in_place: bool = False,
    ) -> Tensor:
        weight, bias = self.prepared.weights[module]
        assert bias is not None
        return self.ops.group_norm(
            x, weight, bias, module.num_groups, module.eps, second=second, add=add, silu=silu, in_place=in_place
        )

    def conv(self, module: Any, x: Tensor) -> Tensor:
        """Return the convolution of contiguous [N, H, W, C] memory without its bias, as [N, H, W, C]."""
        return self.ops.conv(x, self.prepared.weight(module), module.stride, module.padding)

    def resblock(self, layer: Any, x: Tensor, silu_emb: Tensor, second: Tensor | None = None) -> Tensor:
        """Return ResBlock(x, emb) for [N, H, W, C]; the time embedding and conv1's bias enter with the second GroupNorm.

        `second` is the skip connection whose channels follow those of `x`: both readers take the two where they are.
        """
        norm1, _, conv1 = layer.in_layers
        norm2, conv2 = layer.out_layers[0], layer.out_layers[3]
        emb_weight, _ = self.prepared.weights[layer.emb_layers[1]]
        add = self.ops.linear(silu_emb, emb_weight, self.prepared.embedding_bias[layer])
        h = self.conv(conv1, self._group_norm(norm1, x, second=second))
        h = self.conv(conv2, self._group_norm(norm2, h, add=add, in_place=True))
        return self.ops.add_bias(h, self.prepared.bias(conv2), self._shortcut(layer, x, second))

    def _shortcut(self, layer: Any, x: Tensor, second: Tensor | None) -> Tensor:
        """Return what a ResBlock adds to its convolutions: its input, through a 1x1 convolution where channels change."""
        if layer.channels == layer.out_channels:
            return x if second is None else self.ops.cat(x, second)
        weight, bias = self.prepared.weights[layer.skip_connection]
        weight = weight.view(weight.shape[0], -1)
        channels = x.shape[-1]
        shortcut = self.ops.linear(x, weight[:, :channels], bias)
        return shortcut if second is None else self.ops.linear_onto(shortcut, second, weight[:, channels:])

    def transformer(self, layer: Any, x: Tensor, step: "_Step") -> Tensor:
        """Return SpatialTransformer(x) for [N, H, W, C]."""
        n, height, width, channels = x.shape
        normed = self._group_norm(layer.norm, x, silu=False).view(n, height * width, channels)
        weight, _ = self.prepared.weights[layer.proj_in]
        # From here to proj_out the tokens carry biases that are not due yet: see PreparedWeights.
        tokens = self.ops.linear(normed, weight, self.prepared.stream_bias[layer])
        del normed
        pending: Tensor | None = None  # a product that the next reader of the tokens adds
        for index, block in enumerate(layer.transformer_blocks):
            step.options["block_index"] = index
            if step.is_patched(index):
                offsets = self.prepared.offsets[block]
                tokens = self.ops.add_bias(tokens, offsets[0], pending)
                tokens = block(tokens, context=step.context, transformer_options=step.options).contiguous()
                # In place over the block's own sum, which no patch has seen.
                tokens, pending = self.ops.add_bias(tokens, -offsets[3], None), None
            else:
                tokens, pending = self._transformer_block(block, tokens, pending, step)
        tokens = tokens if pending is None else self.ops.add_bias(tokens, None, pending)
        out = self._linear(layer.proj_out, tokens).view(n, height, width, -1)
        return self.ops.add_bias(out, None, x)

    def _transformer_block(
        self, block: Any, tokens: Tensor, pending: Tensor | None, step: "_Step"
    ) -> tuple[Tensor, Tensor | None]:
        """Return BasicTransformerBlock(tokens + pending) as tokens and what is still to be added to them."""
        attn1, attn2, project, contract = block.attn1, block.attn2, block.ff.net[0].proj, block.ff.net[2]
        offsets = self.prepared.offsets[block]
        tokens, normed = self._layer_norm(block.norm1, tokens, pending, offsets[0], attn1.to_q)
        if attn1.to_q in self.prepared.own.fp8:
            q, k, v = self._linear(attn1.to_q, normed).chunk(3, dim=-1)
        else:
            q, k, v = (self._linear(projection, normed) for projection in self_attention_inputs(block))
        del normed
        attended = step.attention(q, k, v, attn1.heads)
        del q, k, v
        tokens, pending = self._linear_onto(tokens, attn1.to_out[0], attended)
        del attended
        tokens, normed = self._layer_norm(block.norm2, tokens, pending, offsets[1], attn2.to_q)
        q = self._linear(attn2.to_q, normed)
        del normed
        attended = step.attention(q, *(step.cross.get(block) or self.keys_values(block, step.context)), attn2.heads)
        del q
        tokens, pending = self._linear_onto(tokens, attn2.to_out[0], attended)
        del attended
        tokens, normed = self._layer_norm(block.norm3, tokens, pending, offsets[2], project)
        del pending
        projected = self._linear(project, normed)
        del normed
        gated = self.ops.geglu(projected, fp8=contract in self.prepared.own.fp8)
        return self._linear_onto(tokens, contract, gated)

    def _layer_norm(
        self, module: Any, x: Tensor, delta: Tensor | None, offset: Tensor, reader: Any
    ) -> tuple[Tensor, Tensor | Fp8Rows]:
        """Return `x + delta`, and its LayerNorm in the form that the linear layer `reader` takes."""
        weight, bias = self.prepared.weights[module]
        assert bias is not None
        fp8 = reader in self.prepared.own.fp8
        return self.ops.residual_layer_norm(x, delta, offset, weight, bias, module.eps, fp8=fp8)

    def upsample(self, layer: Any, x: Tensor, output_shape: Any) -> Tensor:
        """Return Upsample(x) for [N, H, W, C]; `output_shape` is the skip connection's, for odd sizes."""
        size = [x.shape[1] * 2, x.shape[2] * 2] if output_shape is None else list(output_shape[2:4])
        return self.ops.add_bias(self.conv(layer.conv, self.ops.upsample(x, size)), self.prepared.bias(layer.conv), None)

    def biased_conv(self, module: Any, x: Tensor) -> Tensor:
        """Return the convolution with its bias for [N, H, W, C]."""
        return self.ops.add_bias(self.conv(module, x), self.prepared.bias(module), None)


class _Step:
    """What one call of the forward carries from layer to layer."""

    def __init__(self, forward: UNetForward, context: Tensor, options: dict[str, Any], cross: KeysValues):
        self.forward = forward
        self.context = context
        self.options = options
        self.cross = cross
        self.emb: Tensor
        self.silu_emb: Tensor
        # Pictures [N, C, H, W], channels-last, on their way through the layers: no caller's variable holds them longer than needed.
        self.h: Tensor
        self.skip: Tensor | None = None
        patches = options.get("patches", {})
        self.all_blocks_patched = any(patches.get(name) for name in BLOCK_PATCHES)
        self.layer_handlers = patches.get("forward_timestep_embed_patch", ())
        self.replaced = {key for kind in options.get("patches_replace", {}).values() for key in kind}

    def is_patched(self, index: int) -> bool:
        """Tell whether another node's patch touches transformer block `index` of the current layer."""
        block = self.options["block"]
        return self.all_blocks_patched or block in self.replaced or (*block, index) in self.replaced

    def attention(self, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        """Run attention on [N, L, heads * d]: another node's override if there is one, else the plan's backend."""
        if "optimized_attention_override" in self.options:
            return self.forward.stock.attention(q, k, v, heads, self.options)
        return self.forward.attend(q, k, v, heads)

    def patch_output(self, patch: Callable[..., Any], dtype: torch.dtype) -> None:
        """Let another node's output_block_patch change picture and skip connection."""
        h, skip = patch(self.h, self.skip, self.options)
        self.h = h.to(dtype)
        if skip is not None and skip.shape[2:] != h.shape[2:]:  # a kernel would read past its end
            raise ValueError(
                f"An output_block_patch returned {list(h.shape)} and a skip of {list(skip.shape)}: sizes must match."
            )
        self.skip = None if skip is None else skip.to(dtype)

    def block(self, block: Block, output_shape: Any = None) -> None:
        """Run the layers of one block on the picture, and on the channels of the skip connection behind it."""
        for kind, layer in block:
            self.h = self._layer(kind, layer, output_shape)
            self.skip = None

    def _layer(self, kind: str, layer: Any, output_shape: Any) -> Tensor:
        is_ours = kind != "other" and not any(isinstance(layer, handled) for handled, _ in self.layer_handlers)
        if is_ours and kind == "resblock":
            second = None if self.skip is None else nhwc(self.skip)
            return nchw(self.forward.resblock(layer, nhwc(self.h), self.silu_emb, second))
        if self.skip is not None:
            self.h = nchw(self.forward.ops.cat(nhwc(self.h), nhwc(self.skip)))
        if not is_ours:
            return self.forward.stock.layer(layer, self.h, self.emb, self.context, self.options, output_shape)
        x = nhwc(self.h)
        if kind == "transformer":
            self.options["activations_shape"] = list(self.h.shape)
            out = self.forward.transformer(layer, x, self)
            self.options["transformer_index"] += 1
            return nchw(out)
        if kind == "upsample":
            return nchw(self.forward.upsample(layer, x, output_shape))
        return nchw(self.forward.biased_conv(layer.op if kind == "downsample" else layer, x))
