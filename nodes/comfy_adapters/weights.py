"""Holds the weights of a model on its device for as long as a run needs them.

Under DynamicVRAM every layer asks for its weight at every call, which costs more host time than the layer on fast cards. Here each
layer is asked once per run, with LoRA applied by ComfyUI's own code, and stays pinned until released.
"""

from collections.abc import Iterable
from typing import Any

import comfy.ops
import torch


class NotResidentError(RuntimeError):
    """A weight is not on the device, or is made anew at every call; the message says which and why."""


class HeldWeights:
    """Weights and biases of modules, as tensors on `device` in `dtype`; release() must follow.

    Raises NotResidentError, with nothing held, when any of them is offloaded or patched at every call.
    """

    def __init__(self, modules: Iterable[torch.nn.Module], device: torch.device, dtype: torch.dtype):
        self._tokens: list[tuple[Any, Any]] = []
        self.weights: dict[torch.nn.Module, tuple[torch.Tensor, torch.Tensor | None]] = {}
        try:
            for module in modules:
                self.weights[module] = self._take(module, device, dtype)
        except BaseException:
            self.release()
            raise

    def _take(self, module: Any, device: torch.device, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor | None]:
        name = getattr(module, "seed_key", type(module).__name__)
        if hasattr(module, "_v") and module.weight.device != device:
            if getattr(module, "weight_function", None) or getattr(module, "bias_function", None):
                raise NotResidentError(f"{name} is patched at every call")
            weight, bias, token = comfy.ops.cast_bias_weight(
                module, dtype=dtype, device=device, bias_dtype=dtype, offloadable=True
            )
            self._tokens.append((module, token))
            if token[1] is None:
                raise NotResidentError(f"{name} does not fit into free memory")
            return weight, bias
        if getattr(module, "weight_function", None) or getattr(module, "bias_function", None):
            raise NotResidentError(f"{name} is patched at every call (low-VRAM mode or another node)")
        weight, bias = module.weight, module.bias
        if weight.device != device or (bias is not None and bias.device != device):
            raise NotResidentError(f"{name} is kept in system memory")
        if weight.dtype != dtype or (bias is not None and bias.dtype != dtype):
            raise NotResidentError(f"{name} is {weight.dtype}, computing is {dtype}")
        return weight, bias

    def release(self) -> None:
        """Let ComfyUI evict the weights again; safe to call twice."""
        while self._tokens:
            module, token = self._tokens.pop()
            comfy.ops.uncast_bias_weight(module, None, None, token)
