"""Weights that the engine keeps in a form of its own, so that the model's own need not stay on the device beside them."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..kernels.reference import Fp8Rows, quantize_rows

Group = tuple[nn.Module, ...]


class OwnWeights:
    """Copies of the weights of groups of modules, at addresses that stay; biases are copied beside them as they are.

    Groups of `quantized` linears that read the same rows go into `fp8`, `convolutions` into `plain`, channels-last. All are by the
    first module of their group, with the group's output channels one after the other.
    """

    def __init__(self, quantized: Iterable[Group] = (), convolutions: Iterable[nn.Module] = ()):
        self._quantized = frozenset(quantized)
        self.groups: tuple[Group, ...] = (*self._quantized, *((conv,) for conv in convolutions))
        self.modules = frozenset(module for group in self.groups for module in group)
        self.fp8: dict[Any, Fp8Rows] = {}
        self.plain: dict[Any, Tensor] = {}
        self.biases: dict[Any, Tensor | None] = {}

    def nbytes(self, dtype: torch.dtype) -> int:
        """Return the size of all these weights for a model that computes in `dtype`, taken or not yet."""
        return sum(
            module.weight.numel() * (1 if group in self._quantized else dtype.itemsize)
            for group in self.groups
            for module in group
            if isinstance(module.weight, Tensor)
        )

    @property
    def kept_bytes(self) -> int:
        """Return the size of what was taken."""
        quantized = [tensor for rows in self.fp8.values() for tensor in (rows.values, rows.scales)]
        tensors = *quantized, *self.plain.values(), *self.biases.values()
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)

    @torch.inference_mode(False)
    @torch.no_grad()
    def take(self, group: Group, weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> None:
        """Copy the group's `weights` [N, K, ...] and `biases` over what was there."""
        first = group[0]
        present = [bias for bias in biases if bias is not None]
        self.biases[first] = _over(self.biases.get(first), torch.cat(present) if present else None)
        if group in self._quantized:
            fresh, kept = quantize_rows(torch.cat(tuple(weights))), self.fp8.get(first)
            self.fp8[first] = kept or fresh
            if kept is not None:
                kept.values.copy_(fresh.values)
                kept.scales.copy_(fresh.scales)
        elif first in self.plain:
            self.plain[first].copy_(weights[0])
        else:
            self.plain[first] = weights[0].clone(memory_format=torch.channels_last)


def _over(kept: Tensor | None, fresh: Tensor | None) -> Tensor | None:
    """Return `kept` with the values of `fresh`, or a copy of those if there is nothing to keep."""
    if kept is None or fresh is None:
        return None if fresh is None else fresh.clone()
    return kept.copy_(fresh)
