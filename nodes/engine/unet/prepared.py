"""Weights in the form that the engine's forward reads: convolutions channels-last, biases folded together."""

import weakref
from typing import Any

import torch
from torch import Tensor

from .layout import UNetLayout, Weights


class PreparedWeights:
    """Copies only where the layout differs (the 3x3 convolutions, 0.6 GiB in SDXL); everything else refers to the model's memory."""

    def __init__(self, layout: UNetLayout, weights: Weights):
        self.weights = weights
        self.conv_weights: dict[Any, Tensor] = {}
        self.skip_weights: dict[Any, tuple[Tensor, Tensor | None]] = {}
        self.embedding_weights: dict[Any, tuple[Tensor, Tensor]] = {}
        self._seen = {module: weakref.ref(weight) for module, (weight, _) in weights.items()}
        self._addresses = {module: weight.data_ptr() for module, (weight, _) in weights.items()}
        for kind, layer in layout.layers():
            if kind == "resblock":
                self._prepare_resblock(layer)
            elif kind in ("conv", "downsample", "upsample"):
                self._prepare_conv(
                    {"conv": layer, "downsample": getattr(layer, "op", None), "upsample": getattr(layer, "conv", None)}[kind]
                )
        self._prepare_conv(layout.out[2])

    def _prepare_conv(self, conv: Any) -> None:
        self.conv_weights[conv] = self.weights[conv][0].contiguous(memory_format=torch.channels_last)

    def _prepare_resblock(self, layer: Any) -> None:
        conv1, conv2, embedding = layer.in_layers[2], layer.out_layers[3], layer.emb_layers[1]
        self._prepare_conv(conv1)
        self._prepare_conv(conv2)
        weight, bias = self.weights[embedding]
        conv_bias = self.weights[conv1][1]
        assert bias is not None
        assert conv_bias is not None
        self.embedding_weights[layer] = (weight, (bias.float() + conv_bias.float()).to(bias.dtype))
        if layer.channels != layer.out_channels:
            skip_weight, skip_bias = self.weights[layer.skip_connection]
            self.skip_weights[layer] = (skip_weight.view(skip_weight.shape[0], -1), skip_bias)

    def is_current(self, weights: Weights) -> bool:
        """Tell whether `weights` are the very tensors that this was prepared from (LoRA and eviction make new ones)."""
        return all(
            self._seen[module]() is weight and self._addresses[module] == weight.data_ptr()
            for module, (weight, _) in weights.items()
        )
