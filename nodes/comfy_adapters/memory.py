"""What ComfyUI keeps in memory."""

import torch

from .internals import lacking, optional

management = optional("comfy.model_management")
memory_management = optional("comfy.memory_management")


def compute_device() -> torch.device:
    """Return the device that ComfyUI computes on."""
    return management.get_torch_device()


def held_models() -> list[tuple[str, str, int, int]]:
    """Return name, device, size and resident bytes of every model in ComfyUI's list, in its order."""
    if lacking("models held"):
        return []
    held = []
    for loaded in list(management.current_loaded_models):  # a prompt may be loading one
        patcher = loaded.model
        if patcher is not None:  # collected, but not yet swept from the list
            held.append((type(patcher.model).__name__, str(loaded.device), patcher.model_size(), patcher.loaded_size()))
    return held


def dynamic_vram_bytes() -> int | None:
    """Return the device memory that DynamicVRAM holds, or None where it is off."""
    if lacking("DynamicVRAM") or not memory_management.aimdo_enabled or lacking("DynamicVRAM's weights"):
        return None
    import comfy_aimdo.control  # only where ComfyUI has enabled it

    return comfy_aimdo.control.get_total_vram_usage()


def pinned_bytes() -> int | None:
    """Return the host memory that ComfyUI has pinned, or None where it pins none."""
    if lacking("pinned memory"):
        return None
    return management.TOTAL_PINNED_MEMORY if management.MAX_PINNED_MEMORY > 0 else None


def missing_parts() -> tuple[str, ...]:
    """Return one sentence for each part of ComfyUI's memory that this ComfyUI does not let be read."""
    parts = ["models held", "DynamicVRAM", "pinned memory"]
    if not lacking("DynamicVRAM") and memory_management.aimdo_enabled:
        parts.append("DynamicVRAM's weights")
    return tuple(f"Without {part}: {why}." for part in parts if (why := lacking(part)))
