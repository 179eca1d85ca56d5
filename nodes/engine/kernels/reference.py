"""The fused operations of the engine on torch alone: the reference for the Triton kernels and the path without Triton.

Pictures are [N, H, W, C] contiguous, tokens [N, L, C]; all arithmetic between load and store is in fp32.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

FP8 = torch.float8_e4m3fn
FP8_MAX = 448.0
SMALLEST_SCALE = 1e-12  # of a row of zeros


class Fp8Rows(NamedTuple):
    """Rows in FP8 (e4m3): `values` [..., K] times `scales` [..., 1] in fp32."""

    values: Tensor
    scales: Tensor

    def dequantize(self) -> Tensor:
        """Return the rows in fp32."""
        return self.values.float() * self.scales


def group_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    *,
    second: Tensor | None = None,
    add: Tensor | None = None,
    silu: bool = True,
    in_place: bool = False,
) -> Tensor:
    """Return GroupNorm of `x + add` over channel groups, then SiLU if asked; `add` is [N, C] (bias and time embedding).

    `second` is a picture whose channels come after those of `x`. With `in_place` the result is written over `x`, alone and contiguous.
    """
    values = x.float() if second is None else torch.cat([x, second], dim=3).float()
    if add is not None:
        values = values + add.float()[:, None, None, :]
    normed = F.group_norm(values.permute(0, 3, 1, 2), groups, weight.float(), bias.float(), eps)
    normed = F.silu(normed) if silu else normed
    normed = normed.permute(0, 2, 3, 1)
    return x.copy_(normed) if in_place else normed.to(x.dtype).contiguous()


def add_bias(x: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
    """Add `bias` [C] and `residual`, like `x`, to contiguous `x` in place and return it."""
    total = x.float()
    if bias is not None:
        total = total + bias.float()
    if residual is not None:
        total = total + residual.float()
    return x.copy_(total)


def residual_layer_norm(
    x: Tensor, delta: Tensor | None, offset: Tensor | None, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Return the sum `x + delta`, and the LayerNorm of `x + delta + offset` over the last dimension; `offset` is [C] in fp32."""
    total, normed = _residual_layer_norm(x, delta, offset, weight, bias, eps)
    return total, normed.to(x.dtype)


def residual_layer_norm_fp8(
    x: Tensor, delta: Tensor | None, offset: Tensor | None, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Fp8Rows]:
    """Return what residual_layer_norm does, the normalised rows in FP8."""
    total, normed = _residual_layer_norm(x, delta, offset, weight, bias, eps)
    return total, quantize_rows(normed)


def _residual_layer_norm(
    x: Tensor, delta: Tensor | None, offset: Tensor | None, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    total = x if delta is None else (x.float() + delta.float()).to(x.dtype)
    shifted = total.float() if offset is None else total.float() + offset
    return total, F.layer_norm(shifted, (x.shape[-1],), weight.float(), bias.float(), eps)


def geglu(projected: Tensor) -> Tensor:
    """Return `value * gelu(gate)` of a [..., 2 * I] projection, exact (erf) GELU."""
    return _geglu(projected).to(projected.dtype)


def geglu_fp8(projected: Tensor) -> Fp8Rows:
    """Return what geglu does in FP8."""
    return quantize_rows(_geglu(projected))


def _geglu(projected: Tensor) -> Tensor:
    value, gate = projected.float().chunk(2, dim=-1)
    return value * F.gelu(gate)


def quantize_rows(x: Tensor) -> Fp8Rows:
    """Return `x` [..., K] in FP8 with the scale that puts each row's largest value at the end of FP8's range."""
    values = x.float()
    scales = values.abs().amax(dim=-1, keepdim=True).clamp(min=SMALLEST_SCALE * FP8_MAX) / FP8_MAX
    return Fp8Rows((values / scales).clamp(-FP8_MAX, FP8_MAX).to(FP8), scales)


def fp8_linear(x: Fp8Rows, weight: Fp8Rows, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Return `x @ weight.T + bias` in `dtype`; `weight` is [N, K] with a scale per output channel."""
    return F.linear(x.dequantize(), weight.dequantize(), None if bias is None else bias.float()).to(dtype)
