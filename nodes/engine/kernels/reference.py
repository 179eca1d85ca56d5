"""The fused operations of the engine on torch alone: the reference for the Triton kernels and the path without Triton.

Pictures are [N, H, W, C] contiguous, tokens [N, L, C]; all arithmetic between load and store is in fp32.
"""

from torch import Tensor
from torch.nn import functional as F


def group_norm(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, *, add: Tensor | None = None, silu: bool = True
) -> Tensor:
    """Return GroupNorm of `x + add` over channel groups, then SiLU if asked; `add` is [N, C] (bias and time embedding)."""
    values = x.float()
    if add is not None:
        values = values + add.float()[:, None, None, :]
    normed = F.group_norm(values.permute(0, 3, 1, 2), groups, weight.float(), bias.float(), eps)
    normed = F.silu(normed) if silu else normed
    return normed.permute(0, 2, 3, 1).to(x.dtype).contiguous()


def add_bias(x: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
    """Return `x + bias + residual`; `bias` is [C], `residual` like `x`."""
    total = x.float()
    if bias is not None:
        total = total + bias.float()
    if residual is not None:
        total = total + residual.float()
    return total.to(x.dtype)


def residual_layer_norm(x: Tensor, delta: Tensor | None, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return the sum `x + delta` and its LayerNorm over the last dimension."""
    total = x if delta is None else (x.float() + delta.float()).to(x.dtype)
    normed = F.layer_norm(total.float(), (x.shape[-1],), weight.float(), bias.float(), eps)
    return total, normed.to(x.dtype)


def geglu(projected: Tensor) -> Tensor:
    """Return `value * gelu(gate)` of a [..., 2 * I] projection, exact (erf) GELU."""
    value, gate = projected.float().chunk(2, dim=-1)
    return (value * F.gelu(gate)).to(projected.dtype)
