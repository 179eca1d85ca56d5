"""The driver's view of an NVIDIA card through NVML, if the nvidia-ml-py package and the library are there."""

import functools
import os
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class NvmlMemory:
    """Sizes in bytes."""

    used_bytes: int
    total_bytes: int
    other_processes_bytes: int | None
    """None where NVML does not say how much a process holds."""


def read_device(uuid: str) -> NvmlMemory | str:
    """Read the card with torch's `uuid`, or return a sentence that says why NVML cannot."""
    opened = _open(uuid)
    if isinstance(opened, str):
        return opened
    pynvml, handle = opened
    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        processes = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
    except pynvml.NVMLError as error:
        return f"NVML stopped answering ({error}); the driver's figures come from torch."
    return NvmlMemory(int(memory.used), int(memory.total), _other_processes(processes))


def _other_processes(processes: list[Any]) -> int | None:
    own = os.getpid()
    # In a container NVML lists the host's process ids, so that ours is not among them and nothing can be told apart.
    if own not in {process.pid for process in processes} or any(process.usedGpuMemory is None for process in processes):
        return None
    return sum(int(process.usedGpuMemory) for process in processes if process.pid != own)


@functools.cache
def _open(uuid: str) -> tuple[Any, Any] | str:
    """Load NVML once per process and find the card; the library counts its users, so it is never shut down."""
    try:
        import pynvml
    except ImportError:
        return "Other processes' memory is not shown: the package nvidia-ml-py is not installed."
    try:
        pynvml.nvmlInit()
        return pynvml, pynvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}")
    except pynvml.NVMLError as error:
        return f"Other processes' memory is not shown: NVML does not work here ({error})."
