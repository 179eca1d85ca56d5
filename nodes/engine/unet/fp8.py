"""Weights of the UNet's large linears in FP8, instead of the model's own.

Rows are scaled one by one, activations by their token and weights by their output channel, so that an outlier costs the precision
of its own row only.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..kernels.reference import Fp8Rows, quantize_rows
from .layout import UNetLayout

# With fewer input channels the quantising passes take what the multiplication gains (SDXL's 640; docs/benchmarks/).
MIN_IN_FEATURES = 1024

Group = tuple[nn.Linear, ...]


def fp8_linears(layout: UNetLayout) -> list[Group]:
    """Return the transformer blocks' linears that FP8 pays for, those that read the same rows together."""
    found: list[Group] = []
    for block in layout.transformer_blocks():
        attn1, attn2, feed_forward = block.attn1, block.attn2, block.ff.net
        found.append((attn1.to_q, attn1.to_k, attn1.to_v))
        found += [(m,) for m in (attn1.to_out[0], attn2.to_q, attn2.to_out[0], feed_forward[0].proj, feed_forward[2])]
    return [group for group in found if all(_pays(linear) for linear in group)]


def _pays(linear: nn.Linear) -> bool:
    # cuBLAS takes sizes divisible by 16
    return linear.in_features >= MIN_IN_FEATURES and linear.in_features % 16 == 0 and linear.out_features % 16 == 0


class Fp8Weights:
    """FP8 copies of the weights of `groups` and plain copies of their biases, at addresses that stay.

    `weights` and `biases` are by the first linear of each group, and hold the whole group's output channels one after the other.
    """

    def __init__(self, groups: Iterable[Group]):
        self.groups = tuple(groups)
        self.weights: dict[Any, Fp8Rows] = {}
        self.biases: dict[Any, Tensor | None] = {}

    @property
    def nbytes(self) -> int:
        """Return the size of all FP8 weights, taken or not yet."""
        return sum(linear.in_features * linear.out_features for group in self.groups for linear in group)

    def take(self, group: Group, weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> None:
        """Quantise the group's `weights` [N, K] and copy its `biases`, over what was there."""
        fresh = quantize_rows(torch.cat(tuple(weights)))
        present = [bias for bias in biases if bias is not None]
        bias = torch.cat(present) if present else None
        first = group[0]
        if first not in self.weights:
            self.weights[first], self.biases[first] = fresh, bias
            return
        kept, kept_bias = self.weights[first], self.biases[first]
        kept.values.copy_(fresh.values)
        kept.scales.copy_(fresh.scales)
        if kept_bias is not None and bias is not None:
            kept_bias.copy_(bias)
