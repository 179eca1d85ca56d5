"""Holds the weights of a model on its device for as long as a run needs them.

Under DynamicVRAM every layer asks for its weight at every call, which costs more host time than the layer on fast cards. Here each
layer is asked once per run, with LoRA applied by ComfyUI's own code, and stays pinned until released.
"""

import contextlib
import weakref
from collections.abc import Generator, Hashable, Iterable
from typing import Any

import torch

from .internals import lacking, optional
from .memory import has_dynamic_vram
from .model_patcher import weights_version

ops = optional("comfy.ops")
cli_args = optional("comfy.cli_args")
aimdo = optional("comfy_aimdo.control")

# Under DynamicVRAM modules up to 16 KiB are loaded at once, in the checkpoint's dtype, and cast at every call.
SMALL_BYTES = 16 * 1024


class NotResidentError(Exception):
    """The engine cannot stand in for the model as it is now; the message says why."""


_COMPUTING = ("forward", "_forward", "_conv_forward", "forward_comfy_cast_weights")


def require_plain_modules(model: torch.nn.Module) -> None:
    """Raise NotResidentError if somebody replaced what a module of `model` computes: the engine would not call it.

    Bypass LoRA, AnimateDiff, block swapping and circular padding for tiled textures do this after the fact, some only inside a step.
    """
    by_class: dict[type, str] = {}
    for path, module in model.named_modules():
        name = path or "the UNet"
        own: dict[str, Any] = vars(module)
        for method in _COMPUTING:
            if method in own and getattr(own[method], "__func__", None) is not getattr(type(module), method, None):
                raise NotResidentError(f"another node replaced what {name} computes{author(own[method])}")
        for hook in (*module._forward_pre_hooks.values(), *module._forward_hooks.values()):
            raise NotResidentError(f"another node replaced what {name} computes{author(hook)}")
        if type(module) not in by_class:
            by_class[type(module)] = _replaced_in_class(type(module))
        if by_class[type(module)]:
            raise NotResidentError(f"another node replaced what {by_class[type(module)]}")
        if getattr(module, "padding_mode", "zeros") != "zeros":
            raise NotResidentError(f"another node set {name} to {module.padding_mode} padding")


def _replaced_in_class(kind: type) -> str:
    """Name the class among `kind` and its bases whose code was put there by another module, as AnimateDiff does with GroupNorm."""
    for base in kind.__mro__:
        for method in _COMPUTING:
            function = vars(base).get(method)
            if function is not None and _defined_in(function) not in ("", base.__module__):
                return f"every {base.__name__} computes{author(function)}"
    return ""


def _defined_in(function: Any) -> str:
    """Return the module that a Python function was written in, whatever functools.wraps claims; empty for other callables."""
    return getattr(getattr(function, "__func__", function), "__globals__", {}).get("__name__", "")


def author(function: Any) -> str:
    """Return the name of the pack and module that a function was written in, in brackets; empty for other callables."""
    name = _defined_in(function)
    # ComfyUI names a pack's module after its folder, with the whole path.
    return f" ({name.replace(chr(92), '/').rpartition('/')[2]})" if name else ""


def require_room(patcher: Any, x: torch.Tensor, extra_bytes: int) -> None:
    """Raise NotResidentError if every weight and `extra_bytes` would leave too little memory for a step; `x` is the UNet's input."""
    if x.device.type != "cuda":
        return
    # get_free_memory() counts what DynamicVRAM can take back as free, the model's own pages too. ModelPatcherDynamic.memory_required()
    # adds a reserve that ComfyUI itself leaves out while it samples.
    resident_bytes = 0 if loads_on_demand(patcher, x.device) else patcher.loaded_size()
    missing_bytes = max(0, patcher.model_size() - resident_bytes)
    needed_bytes = missing_bytes + extra_bytes + patcher.model.memory_required(list(x.shape))
    free_bytes = patcher.get_free_memory(x.device)
    if free_bytes < needed_bytes:
        raise NotResidentError(f"{free_bytes / 1024**3:.1f} GiB are free and {needed_bytes / 1024**3:.1f} GiB would be needed")


class HeldWeights:
    """Weights and biases of modules, as tensors on `device` in `dtype`; release() must follow.

    Raises NotResidentError, with nothing held, when any of them is offloaded or patched at every call.
    """

    def __init__(self, modules: Iterable[torch.nn.Module], device: torch.device, dtype: torch.dtype):
        device = torch.empty(0, device=device).device  # ComfyUI says "mps" of what is on "mps:0"
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
            if weight.numel() * weight.element_size() > SMALL_BYTES:
                raise NotResidentError(f"{name} is {weight.dtype}, computing is {dtype}")
            weight, bias = weight.to(dtype), None if bias is None else bias.to(dtype)
        return weight, bias

    def release(self) -> None:
        """Let ComfyUI evict the weights again; safe to call twice."""
        while self._tokens:
            module, token = self._tokens.pop()
            ops.uncast_bias_weight(module, None, None, token)


@contextlib.contextmanager
def held_pages_unreported() -> Generator[None]:
    """Keep comfy-aimdo from writing a line for each of the 150 pages that are held, at every step.

    It does when ComfyUI asks it for the free memory, as a warning (0.4.11), to standard error past Python's logging. Its errors still come.
    """
    level = getattr(cli_args, "get_console_log_level", str)(cli_args.args.verbose)  # 0.30 may name several, older ones name one
    if level not in ("WARNING", "INFO", "DETAIL") or not has_dynamic_vram() or lacking("held pages unreported"):
        yield
        return
    aimdo.set_log_error()
    try:
        yield
    finally:  # as ComfyUI's main.py set it
        getattr(aimdo, f"set_log_{level.lower()}", aimdo.set_log_info)()


def loads_on_demand(patcher: Any, device: torch.device) -> bool:
    """Tell whether ComfyUI loads the model's weights as they are asked for, and can take them back one by one (DynamicVRAM)."""
    return device in getattr(patcher.model, "dynamic_vbars", {})


def replaced_weights(patcher: Any, device: torch.device, modules: Iterable[Any]) -> Hashable:
    """Return a value that differs when somebody put other weights into `modules`, or a patch for every call, past the ModelPatcher.

    Addresses tell so only without DynamicVRAM, which moves weights itself.
    """
    patched = tuple(bool(getattr(m, "weight_function", None) or getattr(m, "bias_function", None)) for m in modules)
    if loads_on_demand(patcher, device):
        return patched
    return patched, tuple(m.weight.data_ptr() for m in modules)


class WeightsSeen:
    """The weights and biases of modules at one moment, not held; values written over them where they lie are not told apart."""

    def __init__(self, patcher: Any, device: torch.device, modules: Iterable[Any]):
        modules = tuple(modules)
        self._model = patcher.model
        self._version = device, weights_version(patcher), replaced_weights(patcher, device, modules)
        self._tensors = tuple(weakref.ref(tensor) for m in modules for tensor in (m.weight, m.bias) if tensor is not None)

    def same_as(self, other: "WeightsSeen") -> bool:
        """Tell whether both are of one model on one device and hold the same tensors, patched alike."""
        same = self._model is other._model and self._version == other._version and len(self._tensors) == len(other._tensors)
        return same and all(a() is b() is not None for a, b in zip(self._tensors, other._tensors, strict=True))


def evict_unheld(patcher: Any, device: torch.device) -> None:
    """Give back the device memory of every weight that nobody holds, where ComfyUI loads weights on demand (DynamicVRAM).

    The next layer that asks for one gets it again. Without DynamicVRAM weights stay where they are.
    """
    vbar = getattr(patcher.model, "dynamic_vbars", {}).get(device)
    if vbar is not None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # kernels may still read what goes
        vbar.free_memory(vbar.loaded_size())
        vbar.prioritize()  # freeing also closes the address range that was freed to new weights
