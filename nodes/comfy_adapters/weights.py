"""Holds the weights of a model on its device for as long as a run needs them.

Under DynamicVRAM every layer asks for its weight at every call, which costs more host time than the layer on fast cards. Here each
layer is asked once per run, with LoRA applied by ComfyUI's own code, and stays pinned until released.
"""

from collections.abc import Iterable
from typing import Any

import torch

from .internals import optional

management = optional("comfy.model_management")
ops = optional("comfy.ops")

CONVOLUTION_COPIES_BYTES = 700 * 1024**2


class NotResidentError(Exception):
    """The engine cannot stand in for the model as it is now; the message says why."""


def require_plain_modules(model: torch.nn.Module) -> None:
    """Raise NotResidentError if somebody replaced what a module of `model` computes: the engine would not call it.

    Bypass LoRA, AnimateDiff and circular padding for tiled textures do this after the fact, some only inside a step.
    """
    for name, module in model.named_modules():
        own: dict[str, Any] = vars(module)
        replaced = any(
            method in own and getattr(own[method], "__func__", None) is not getattr(type(module), method, None)
            for method in ("forward", "_conv_forward")
        )
        if replaced or module._forward_hooks or module._forward_pre_hooks:
            raise NotResidentError(f"another node replaced what {name} computes")
        if getattr(module, "padding_mode", "zeros") != "zeros":
            raise NotResidentError(f"another node set {name} to {module.padding_mode} padding")


def require_room(patcher: Any, x: torch.Tensor, extra_bytes: int = 0) -> None:
    """Raise NotResidentError if every weight and `extra_bytes` would leave too little memory for a step; `x` is the UNet's input."""
    if x.device.type != "cuda":
        return
    missing_bytes = max(0, patcher.model_size() - patcher.loaded_size())
    needed_bytes = missing_bytes + CONVOLUTION_COPIES_BYTES + extra_bytes + patcher.memory_required([x.shape[0], *x.shape[1:]])
    free_bytes: Any = management.get_free_memory(x.device)
    if free_bytes < needed_bytes:
        raise NotResidentError(f"{free_bytes / 1024**3:.1f} GiB are free and {needed_bytes / 1024**3:.1f} GiB would be needed")


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
        stored = getattr(module, "weight_comfy_model_dtype", None) or module.weight.dtype
        if stored != dtype:
            raise NotResidentError(f"{name} is stored as {stored} and cast to {dtype} at every call")
        if hasattr(module, "_v") and module.weight.device != device:
            if getattr(module, "weight_function", None) or getattr(module, "bias_function", None):
                raise NotResidentError(f"{name} is patched at every call")
            weight, bias, token = ops.cast_bias_weight(module, dtype=dtype, device=device, bias_dtype=dtype, offloadable=True)
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
            ops.uncast_bias_weight(module, None, None, token)


def evict_unheld(patcher: Any, device: torch.device) -> None:
    """Give back the device memory of every weight that nobody holds, where ComfyUI loads weights on demand (DynamicVRAM).

    The next layer that asks for one gets it again. Without DynamicVRAM weights stay where they are.
    """
    vbar = getattr(patcher.model, "dynamic_vbars", {}).get(device)
    if vbar is not None:
        vbar.free_memory(vbar.loaded_size())
        vbar.prioritize()  # freeing also closes the address range that was freed to new weights
