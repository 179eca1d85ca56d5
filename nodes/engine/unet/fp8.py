"""Which of the UNet's linears FP8 pays for.

Rows are scaled one by one, activations by their token and weights by their output channel, so that an outlier costs the precision
of its own row only.
"""

from torch import nn

from .layout import UNetLayout, self_attention_inputs
from .own_weights import Group

# With fewer input channels FP8 gains no more than 2 % of a step of eight pictures, and costs precision (SDXL's 640; docs/benchmarks/).
MIN_IN_FEATURES = 1024


def fp8_linears(layout: UNetLayout) -> list[Group]:
    """Return the transformer blocks' linears that FP8 pays for, those that read the same rows together."""
    found: list[Group] = []
    for block in layout.transformer_blocks():
        attn1, attn2, feed_forward = block.attn1, block.attn2, block.ff.net
        found.append(self_attention_inputs(block))
        found += [(m,) for m in (attn1.to_out[0], attn2.to_q, attn2.to_out[0], feed_forward[0].proj, feed_forward[2])]
    return [group for group in found if all(_pays(linear) for linear in group)]


def _pays(linear: nn.Module) -> bool:
    assert isinstance(linear, nn.Linear)
    # cuBLAS takes sizes divisible by 16
    return linear.in_features >= MIN_IN_FEATURES and linear.in_features % 16 == 0 and linear.out_features % 16 == 0
