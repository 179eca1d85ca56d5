"""What ComfyUI keeps in memory."""

from typing import Any

import torch

from .internals import lacking, optional

management = optional("comfy.model_management")
memory_management = optional("comfy.memory_management")


def compute_device() -> torch.device:
    """Return the device that ComfyUI computes on."""
    return management.get_torch_device()


def held_models() -> list[tuple[str, str, int, int, int]]:
    """Return name, device, size, resident bytes and those of them outside torch of every model in ComfyUI's list, in its order."""
    if lacking("models held"):
        return []
    held, has_dynamic = [], has_dynamic_vram()
    for loaded in list(management.current_loaded_models):  # a prompt may be loading one
        patcher = loaded.model
        # Collected, but not yet swept from the list, or memory of this pack that was given up meanwhile.
        if patcher is not None and patcher.model_size():
            model, resident = patcher.model, patcher.loaded_size()
            # A dynamic patcher adds its pages to what it has loaded through torch.
            outside = resident - model.model_loaded_weight_memory if has_dynamic and patcher.is_dynamic() else 0
            held.append((type(model).__name__, str(loaded.device), patcher.model_size(), resident, outside))
    return held


def is_loaded(unet: Any) -> bool:
    """Tell whether a MODEL with this UNet, a clone of any kind, is in ComfyUI's list of loaded models."""
    models = [getattr(loaded.model, "model", None) for loaded in management.current_loaded_models]
    return any(getattr(model, "diffusion_model", None) is unet for model in models)


def has_dynamic_vram() -> bool:
    """Return whether DynamicVRAM is on."""
    return not lacking("DynamicVRAM") and memory_management.aimdo_enabled


def pinned_bytes() -> int | None:
    """Return the host memory that ComfyUI has pinned, or None where it pins none."""
    if lacking("pinned memory"):
        return None
    return management.TOTAL_PINNED_MEMORY if management.MAX_PINNED_MEMORY > 0 else None


def missing_parts() -> tuple[str, ...]:
    """Return one sentence for each part of ComfyUI's memory that this ComfyUI does not let be read."""
    return tuple(f"Without {part}: {why}." for part in ("models held", "DynamicVRAM", "pinned memory") if (why := lacking(part)))
