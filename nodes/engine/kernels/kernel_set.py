"""The fused operations as one value, so that a forward is written once and runs on Triton or on torch."""

import importlib
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class GroupNormOp(Protocol):
    """Signature of group_norm."""

    def __call__(
        self, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, *, add: Tensor | None = None, silu: bool = True
    ) -> Tensor:
        """Return the normalised picture."""
        ...


class AddBiasOp(Protocol):
    """Signature of add_bias."""

    def __call__(self, x: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
        """Return the sum."""
        ...


class ResidualLayerNormOp(Protocol):
    """Signature of residual_layer_norm."""

    def __call__(self, x: Tensor, delta: Tensor | None, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """Return the sum and its LayerNorm."""
        ...


class GegluOp(Protocol):
    """Signature of geglu."""

    def __call__(self, projected: Tensor) -> Tensor:
        """Return the gated half."""
        ...


@dataclass(frozen=True)
class KernelSet:
    """Four fused operations and the name of what they run on."""

    name: str
    group_norm: GroupNormOp
    add_bias: AddBiasOp
    residual_layer_norm: ResidualLayerNormOp
    geglu: GegluOp


def kernel_set(engine: str) -> KernelSet:
    """Return the kernels of `engine`: "fast" on Triton (imported only here), anything else on torch."""
    name = "triton_kernels" if engine == "fast" else "reference"
    module = importlib.import_module(f".{name}", __package__)
    return KernelSet(name, module.group_norm, module.add_bias, module.residual_layer_norm, module.geglu)
