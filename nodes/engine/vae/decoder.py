"""The decoder of SDXL's VAE in channels-last memory on fused kernels."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

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
        """Decode; `latents` are in the dtype of the weights."""
        decoder = self._decoder
        h = self._biased_conv(self._post_quant, nhwc(latents))
        h = self._biased_conv(decoder.conv_in, h)
        h = self._resnet(decoder.mid.block_1, h)
        h = self._attention(decoder.mid.attn_1, h)
        h = self._resnet(decoder.mid.block_2, h)
        for level in reversed(range(decoder.num_resolutions)):
            for block in decoder.up[level].block:
                h = self._resnet(block, h)
            if level != 0:
                larger = self._ops.upsample(h, [2 * h.shape[1], 2 * h.shape[2]])
                h = self._biased_conv(decoder.up[level].upsample.conv, larger)
        h = self._group_norm(decoder.norm_out, h)
        weight, bias = self._weights[decoder.conv_out]
        return nhwc(F.conv2d(nchw(h), weight, bias, padding=decoder.conv_out.padding))

    def _conv(self, module: Any, x: Tensor) -> Tensor:
        return self._ops.conv(x, self._weights[module][0], module.stride, module.padding)

    def _biased_conv(self, module: Any, x: Tensor) -> Tensor:
        return self._ops.add_bias(self._conv(module, x), self._weights[module][1], None)

    def _group_norm(self, module: Any, x: Tensor, *, add: Tensor | None = None, silu: bool = True) -> Tensor:
        weight, bias = self._weights[module]
        return self._ops.group_norm(x, weight, bias, module.num_groups, module.eps, add=add, silu=silu)

    def _linear(self, module: Any, x: Tensor) -> Tensor:
        weight, bias = self._weights[module]
        return self._ops.linear(x, weight.view(weight.shape[0], -1), bias)

    def _resnet(self, block: Any, x: Tensor) -> Tensor:
        h = self._conv(block.conv1, self._group_norm(block.norm1, x))
        add = self._weights[block.conv1][1].expand(x.shape[0], -1).contiguous()
        h = self._conv(block.conv2, self._group_norm(block.norm2, h, add=add))
        skip = x if block.in_channels == block.out_channels else self._linear(block.nin_shortcut, x)
        return self._ops.add_bias(h, self._weights[block.conv2][1], skip)

    def _attention(self, block: Any, x: Tensor) -> Tensor:
        n, height, width, channels = x.shape
        normed = self._group_norm(block.norm, x, silu=False).view(n, 1, height * width, channels)
        out = F.scaled_dot_product_attention(
            self._linear(block.q, normed), self._linear(block.k, normed), self._linear(block.v, normed)
        )
        return self._ops.add_bias(self._linear(block.proj_out, out.reshape(n, height, width, channels)), None, x)
