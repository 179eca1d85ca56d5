"""What ComfyUI keeps in memory."""

import comfy.memory_management
import comfy.model_management
import torch


def compute_device() -> torch.device:
    """Return the device that ComfyUI computes on."""
    return comfy.model_management.get_torch_device()


def held_models() -> list[tuple[str, str, int, int]]:
    """Return name, device, size and resident bytes of every model in ComfyUI's list, in its order."""
    held = []
    for loaded in list(comfy.model_management.current_loaded_models):  # a prompt may be loading one
        patcher = loaded.model
        if patcher is not None:  # collected, but not yet swept from the list
            held.append((type(patcher.model).__name__, str(loaded.device), patcher.model_size(), patcher.loaded_size()))
    return held


def dynamic_vram_bytes() -> int | None:
    """Return the device memory that DynamicVRAM holds, or None where it is off."""
    if not comfy.memory_management.aimdo_enabled:
        return None
    import comfy_aimdo.control  # only where ComfyUI has enabled it

    return comfy_aimdo.control.get_total_vram_usage()


def pinned_bytes() -> int | None:
    """Return the host memory that ComfyUI has pinned, or None where it pins none."""
    management = comfy.model_management
    return management.TOTAL_PINNED_MEMORY if management.MAX_PINNED_MEMORY > 0 else None
