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

    Biases of the linears that add to a transformer's tokens enter all at once with proj_in's, `stream_bias`, so that their products
    need none; `offsets` are what a reader of the tokens has to add to take back those that are not due yet.
    """

    def __init__(self, layout: UNetLayout, weights: Weights, own: OwnWeights):
        self._layout = layout
        self.own = own
        self.weights: Weights = {module: (_own(weight), _own(bias)) for module, (weight, bias) in weights.items()}
        self.skip_weights: dict[Any, tuple[Tensor, Tensor | None]] = {}
        self.embedding_weights: dict[Any, tuple[Tensor, Tensor]] = {}
        self.stream_bias: dict[Any, Tensor] = {}
        self.offsets: dict[Any, Tensor] = {}
        self._remember(weights)
        for layer in self._resblocks():
            embedding = layer.emb_layers[1]
            self.embedding_weights[layer] = (self.weights[embedding][0], self._folded_bias(layer))
            if layer.channels != layer.out_channels:
                weight, bias = self.weights[layer.skip_connection]
                self.skip_weights[layer] = (weight.view(weight.shape[0], -1), bias)
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

    def update(self, weights: Weights, *, own_changed: bool) -> str:
        """Take over the values of `weights`, the same modules' tensors in another run.

        Returns "same", "changed" when values were copied, or "moved" when a tensor that is only referred to has another address:
        then this object is of no more use.
        """
        changed = [
            module
            for module, pair in weights.items()
            if any(seen() is not now for seen, now in zip(self._seen[module], pair, strict=True))
        ]
        if any(not _is_small(weights[m][0]) and self._addresses[m] != weights[m][0].data_ptr() for m in weights):
            return "moved"
        if not changed and not own_changed:
            return "same"
        self._remember(weights)
        pairs = [
            (mine, theirs) for m in changed for mine, theirs in zip(self.weights[m], weights[m], strict=True) if mine is not None
        ]
        pairs = [(mine, theirs) for mine, theirs in pairs if theirs is not None and mine.data_ptr() != theirs.data_ptr()]
        if pairs:
            torch._foreach_copy_([mine for mine, _ in pairs], [theirs for _, theirs in pairs])  # pyright: ignore[reportPrivateImportUsage]
        for layer in self._resblocks():
            self.embedding_weights[layer][1].copy_(self._folded_bias(layer))
        for layer in self._transformers():
            stream_bias, offsets = self._folded_stream(layer)
            self.stream_bias[layer].copy_(stream_bias)
            for index, block in enumerate(layer.transformer_blocks):
                self.offsets[block].copy_(offsets[3 * index : 3 * index + 4])
        return "changed"

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


def _own(tensor: Any) -> Any:
    return tensor.clone() if tensor is not None and _is_small(tensor) else tensor
