"""Weights of the UNet's large linears in FP8, instead of the model's own.

Rows are scaled one by one, activations by their token and weights by their output channel, so that an outlier costs the precision
of its own row only.
"""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from ..kernels.reference import Fp8Rows, quantize_rows
from .layout import UNetLayout

# With fewer input channels the quantising passes take what the multiplication gains (SDXL's 640; docs/benchmarks/).
MIN_IN_FEATURES = 1024


def fp8_linears(layout: UNetLayout) -> list[nn.Linear]:
    """Return the transformer blocks' linears that FP8 pays for; cuBLAS takes sizes divisible by 16."""
    found: list[nn.Linear] = []
    for block in layout.transformer_blocks():
        attn1, attn2, feed_forward = block.attn1, block.attn2, block.ff.net
        linears = (attn1.to_q, attn1.to_k, attn1.to_v, attn1.to_out[0], attn2.to_q, attn2.to_out[0])
        found += [m for m in (*linears, feed_forward[0].proj, feed_forward[2]) if _pays(m)]
    return found


def _pays(linear: Any) -> bool:
    return linear.in_features >= MIN_IN_FEATURES and linear.in_features % 16 == 0 and linear.out_features % 16 == 0


class Fp8Weights:
    """FP8 copies of the weights of `modules` and plain copies of their biases, at addresses that stay."""

    def __init__(self, modules: Iterable[nn.Linear]):
        self.modules = tuple(modules)
        self.weights: dict[Any, Fp8Rows] = {}
        self.biases: dict[Any, Tensor | None] = {}

    @property
    def nbytes(self) -> int:
        """Return the size of all FP8 weights, taken or not yet."""
        return sum(module.in_features * module.out_features for module in self.modules)

    def take(self, module: nn.Linear, weight: Tensor, bias: Tensor | None) -> None:
        """Quantise `weight` [N, K] and copy `bias`, over what was there."""
        fresh = quantize_rows(weight)
        if module not in self.weights:
            self.weights[module] = fresh
            self.biases[module] = None if bias is None else bias.clone()
            return
        kept = self.weights[module]
        kept.values.copy_(fresh.values)
        kept.scales.copy_(fresh.scales)
        kept_bias = self.biases[module]
        if kept_bias is not None and bias is not None:
            kept_bias.copy_(bias)
