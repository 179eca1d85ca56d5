"""Take a reading in a running ComfyUI."""

import dataclasses

import torch

from ...comfy_adapters import memory
from . import snapshots
from .readings import GIB, ComfyMemory, HeldModel, MemoryReading, read_memory, reset_peak
from .report import comparison, report


def probe(label: str, reset: bool, snapshot: str, compare_with: str) -> tuple[str, str]:
    """Return the report and the reading as JSON; raises BadInputError if `compare_with` names no snapshot.

    The reading comes before anything else, the reset of the peak after it.
    """
    device = memory.compute_device()
    reading = read_everything(device, private_pools=True)
    text = report(reading, label)
    if compare_with:
        text += "\n" + comparison(snapshots.recall(compare_with), reading, compare_with)
    if snapshot:
        snapshots.keep(snapshot, reading)
    if reset and reset_peak(device):
        text += "\nThe peak counts from here."
    return text, reading.to_json()


def read_everything(device: torch.device, *, private_pools: bool = False) -> MemoryReading:
    """Read device, host and ComfyUI, with `private_pools` torch's too; what this ComfyUI does not let be read is among `missing`."""
    reading, gone = read_memory(device, comfy_memory(), private_pools=private_pools), memory.missing_parts()
    return dataclasses.replace(reading, missing=(*reading.missing, *gone)) if gone else reading


def comfy_memory() -> ComfyMemory:
    """Return what ComfyUI says about its models, DynamicVRAM and pinned memory."""
    models = tuple(
        HeldModel(name, device, size / GIB, resident / GIB, outside / GIB)
        for name, device, size, resident, outside in memory.held_models()
    )
    pinned = memory.pinned_bytes()
    return ComfyMemory(
        models=models,
        dynamic_vram_gib=sum(model.outside_torch_gib for model in models) if memory.has_dynamic_vram() else None,
        pinned_host_gib=None if pinned is None else pinned / GIB,
    )
