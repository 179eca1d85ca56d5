"""Weights in the form that the engine's forward reads: some in copies of the engine's own, biases folded together.

A CUDA graph reads addresses, so every tensor here keeps its address while values follow the model: ComfyUI loads norms and small
biases anew for each run, and writes LoRA into weights that stay where they are.
"""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .layout import UNetLayout, Weights, residual_linears
from .own_weights import OwnWeights

# Tensors up to this size are copied instead of referred to; all of SDXL's norms and biases together are 2 MiB.
SMALL_BYTES = 64 * 1024


class PreparedWeights:
    """Copies what is small; the rest is in `own` or in the model's own memory. `weights` are of every module that is not in `own`.

    The model's own memory is referred to until let_go(), and from update() on again: between two runs ComfyUI may take it away.
    Biases of the linears that add to a transformer's tokens enter all at once with proj_in's, `stream_bias`, so that their products
    need none; `offsets` are what a reader of the tokens has to add to take back those that are not due yet.
    """

    @torch.inference_mode(False)
    @torch.no_grad()
    def __init__(self, layout: UNetLayout, weights: Weights, own: OwnWeights):
        self._layout = layout
        self.own = own
        self._copies = {
            module: (weight.clone() if _is_small(weight) else None, None if bias is None else bias.clone())
            for module, (weight, bias) in weights.items()
        }
        self.weights = self._with_copies(weights)
        self.embedding_bias: dict[Any, Tensor] = {}
        self.stream_bias: dict[Any, Tensor] = {}
        self.offsets: dict[Any, Tensor] = {}
        self._remember(weights)
        for layer in self._resblocks():
            self.embedding_bias[layer] = self._folded_bias(layer)
        for layer in self._transformers():
            self.stream_bias[layer], offsets = self._folded_stream(layer)
            for index, block in enumerate(layer.transformer_blocks):
                self.offsets[block] = offsets[3 * index : 3 * index + 4]

    @property
    def dtype(self) -> torch.dtype:
        """Return what the forward computes in."""
        return self.weights[self._layout.out[0]][0].dtype

    def weight(self, module: Any) -> Tensor:
        """Return a layer's weight, unless it is kept in FP8."""
        return self.own.plain[module] if module in self.own.plain else self.weights[module][0]

    def bias(self, module: Any) -> Tensor | None:
        """Return a layer's bias, whatever its weight is kept in."""
        return self.own.biases[module] if module in self.own.biases else self.weights[module][1]

    @property
    def nbytes(self) -> int:
        """Return the size of what is kept beside the model's own memory, `own` among it."""
        copies = [tensor for pair in self._copies.values() for tensor in pair]
        folded = *self.embedding_bias.values(), *self.stream_bias.values(), *self.offsets.values()
        return self.own.kept_bytes + sum(tensor.nbytes for tensor in (*copies, *folded) if tensor is not None)

    def let_go(self) -> None:
        """Hold nothing of the model's own memory any more; update() must come before the next forward."""
        self.weights = {}

    def update(self, weights: Weights, *, own_changed: bool) -> bool:
        """Take over the values of `weights`, the same modules' tensors in another run.

        Returns False when a tensor that is only referred to has another address: then this object is of no more use.
        """
        changed = [
            module
            for module, pair in weights.items()
            if any(seen() is not now for seen, now in zip(self._seen[module], pair, strict=True))
        ]
        if any(not _is_small(weights[m][0]) and self._addresses[m] != weights[m][0].data_ptr() for m in weights):
            return False
        self.weights = self._with_copies(weights)
        if not changed and not own_changed:
            return True
        self._remember(weights)
        pairs = [
            (mine, theirs)
            for module in changed
            for mine, theirs in zip(self._copies[module], weights[module], strict=True)
            if mine is not None and theirs is not None
        ]
        if pairs:
            torch._foreach_copy_([mine for mine, _ in pairs], [theirs for _, theirs in pairs])  # pyright: ignore[reportPrivateImportUsage]
        for layer in self._resblocks():
            self.embedding_bias[layer].copy_(self._folded_bias(layer))
        for layer in self._transformers():
            stream_bias, offsets = self._folded_stream(layer)
            self.stream_bias[layer].copy_(stream_bias)
            for index, block in enumerate(layer.transformer_blocks):
                self.offsets[block].copy_(offsets[3 * index : 3 * index + 4])
        return True

    def _with_copies(self, weights: Weights) -> Weights:
        """Return `weights` with the copies in place of those that were copied."""
        return {
            module: (weight if (copy := self._copies[module])[0] is None else copy[0], copy[1])
            for module, (weight, _) in weights.items()
        }

    def _remember(self, weights: Weights) -> None:
        self._seen = {module: tuple(_reference(tensor) for tensor in pair) for module, pair in weights.items()}
        self._addresses = {module: weight.data_ptr() for module, (weight, _) in weights.items()}

    def _folded_bias(self, layer: Any) -> Tensor:
        bias, conv_bias = self.bias(layer.emb_layers[1]), self.bias(layer.in_layers[2])
        assert bias is not None
        assert conv_bias is not None
        return (bias.float() + conv_bias.float()).to(bias.dtype)

    def _folded_stream(self, layer: Any) -> tuple[Tensor, Tensor]:
        """Return the sum of every bias in the tokens' way [C], and what is missing of it after each of them, negative [1 + 3 * blocks, C]."""
        linears = [layer.proj_in, *(linear for block in layer.transformer_blocks for linear in residual_linears(block))]
        absent = self.weights[layer.norm][0].new_zeros(layer.proj_in.out_features)
        biases = [absent if (bias := self.bias(linear)) is None else bias for linear in linears]
        due = torch.stack(biases).float().cumsum(0)
        total = due[-1].to(absent.dtype)
        return total, due - total.float()

    def _transformers(self) -> list[Any]:
        return [layer for kind, layer in self._layout.layers() if kind == "transformer"]

    def _resblocks(self) -> list[Any]:
        return [layer for kind, layer in self._layout.layers() if kind == "resblock"]


def _reference(tensor: Tensor | None) -> Callable[[], Tensor | None]:
    return (lambda: None) if tensor is None else weakref.ref(tensor)


def _is_small(tensor: Tensor) -> bool:
    return tensor.numel() * tensor.element_size() <= SMALL_BYTES
