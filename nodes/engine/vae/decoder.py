"""The decoder of SDXL's VAE in channels-last memory on fused kernels."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..kernels.arena import lent_tensors
from ..kernels.ops import TorchOps, nchw, nhwc
from ..unet.layout import Weights


class DecoderForward:
    """Latents [N, 4, h, w] to pictures [N, 8h, 8w, 3] in -1..1, as AutoencoderKL.decode computes them.

    Weights are copied in `dtype`, convolutions channels-last: 0.1 GiB for SDXL in 16 bits.
    """

    def __init__(self, autoencoder: Any, ops: TorchOps, weights: Weights, dtype: torch.dtype):
        self._decoder = autoencoder.decoder
        self._post_quant = autoencoder.post_quant_conv
        self._ops = ops
        self._weights: dict[Any, tuple[Tensor, Tensor]] = {}
        for module, (weight, bias) in weights.items():
            assert bias is not None
            layout = torch.channels_last if weight.ndim == 4 else torch.contiguous_format
            self._weights[module] = (weight.to(dtype, copy=True, memory_format=layout), bias.to(dtype, copy=True))

    @property
    def modules(self) -> Iterable[torch.nn.Module]:
        """Return the modules whose weights were copied."""
        return self._weights.keys()

    @property
    def nbytes(self) -> int:
        """Return the size of the copies."""
        return sum(weight.nbytes + bias.nbytes for weight, bias in self._weights.values())

    @staticmethod
    def weighted_modules(autoencoder: Any) -> list[torch.nn.Module]:
        """Return every module with weights that the forward reads."""
        found = (m for root in (autoencoder.post_quant_conv, autoencoder.decoder) for m in root.modules())
        return [m for m in found if isinstance(m, (torch.nn.Conv2d, torch.nn.GroupNorm))]

    def __call__(self, latents: Tensor) -> Tensor:
        """Decode; `latents` are in the dtype of the weights. What is needed on the way lies in the memory of graphs that rest."""
        with self._ops.allocating_from(lent_tensors(latents.device)):
            return self._pictures(latents)

    def _pictures(self, latents: Tensor) -> Tensor:
        decoder = self._decoder
        # Each layer takes the picture off this list: a variable here would hold it until the layer's end, half a GiB at 1024x1024.
        way = [self._biased_conv(self._post_quant, nhwc(latents))]
        way.append(self._biased_conv(decoder.conv_in, way.pop()))
        self._resnet(decoder.mid.block_1, way)
        self._attention(decoder.mid.attn_1, way)
        self._resnet(decoder.mid.block_2, way)
        for level in reversed(range(decoder.num_resolutions)):
            for block in decoder.up[level].block:
                self._resnet(block, way)
            if level != 0:
                self._upsample(decoder.up[level].upsample, way)
        h = self._group_norm(decoder.norm_out, way.pop(), in_place=True)
        weight, bias = self._weights[decoder.conv_out]
        return nhwc(F.conv2d(nchw(h), weight, bias, padding=decoder.conv_out.padding))

    def _conv(self, module: Any, x: Tensor) -> Tensor:
        return self._ops.conv(x, self._weights[module][0], module.stride, module.padding)

    def _biased_conv(self, module: Any, x: Tensor) -> Tensor:
        return self._ops.add_bias(self._conv(module, x), self._weights[module][1], None)

    def _group_norm(
        self, module: Any, x: Tensor, *, add: Tensor | None = None, silu: bool = True, in_place: bool = False
    ) -> Tensor:
        weight, bias = self._weights[module]
        return self._ops.group_norm(x, weight, bias, module.num_groups, module.eps, add=add, silu=silu, in_place=in_place)

    def _linear(self, module: Any, x: Tensor) -> Tensor:
        weight, bias = self._weights[module]
        return self._ops.linear(x, weight.view(weight.shape[0], -1), bias)

    def _resnet(self, block: Any, way: list[Tensor]) -> None:
        x = way.pop()
        add = self._weights[block.conv1][1].expand(x.shape[0], -1).contiguous()
        changes_channels = block.in_channels != block.out_channels
        # Before the rest: nothing but the norm reads the input then, which may take its place.
        shortcut = self._linear(block.nin_shortcut, x) if changes_channels else x
        x = self._group_norm(block.norm1, x, in_place=changes_channels)
        x = self._conv(block.conv1, x)
        x = self._group_norm(block.norm2, x, add=add, in_place=True)
        x = self._conv(block.conv2, x)
        way.append(self._ops.add_bias(x, self._weights[block.conv2][1], shortcut))

    def _upsample(self, layer: Any, way: list[Tensor]) -> None:
        x = way.pop()
        x = self._ops.upsample(x, [2 * x.shape[1], 2 * x.shape[2]])
        x = self._conv(layer.conv, x)
        way.append(self._ops.add_bias(x, self._weights[layer.conv][1], None))

    def _attention(self, block: Any, way: list[Tensor]) -> None:
        x = way.pop()
        n, height, width, channels = x.shape
        normed = self._group_norm(block.norm, x, silu=False).view(n, 1, height * width, channels)
        out = F.scaled_dot_product_attention(
            self._linear(block.q, normed), self._linear(block.k, normed), self._linear(block.v, normed)
        )
        out = self._linear(block.proj_out, out.reshape(n, height, width, channels))
        way.append(self._ops.add_bias(out, None, x))
