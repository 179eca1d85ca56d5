"""The driver's view of an NVIDIA card through NVML, if the nvidia-ml-py package and the library are there."""

import contextlib
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
    """None where NVML does not say how much each process holds, or was not asked."""


def read_device(uuid: str, *, processes: bool) -> NvmlMemory | str:
    """Read the card with torch's `uuid`, its `processes` too if wanted, or return a sentence that says why NVML cannot."""
    handle = _open(uuid)
    if isinstance(handle, str):
        return handle
    import pynvml

    try:
        memory = memory_info(pynvml, handle)
    except pynvml.NVMLError as error:
        return f"NVML stopped answering ({error}), so the driver's figures come from CUDA and other processes are not told apart."
    try:
        running = pynvml.nvmlDeviceGetComputeRunningProcesses(handle) if processes else []
    except pynvml.NVMLError:  # not supported on this card or not allowed to this user
        running = []
    return NvmlMemory(int(memory.used), int(memory.total), _other_processes(running))


def memory_info(pynvml: Any, handle: Any) -> Any:
    """What NVML says of the memory of the card with this handle, `used` and `total` in bytes; raises NVMLError."""
    # The first version counts what the driver keeps for itself as used; nvidia-smi and CUDA do not.
    version = getattr(pynvml, "nvmlMemory_v2", None)  # a package of 2021 has it not
    if version is not None:
        with contextlib.suppress(pynvml.NVMLError):  # a driver before R510
            return pynvml.nvmlDeviceGetMemoryInfo(handle, version)
    return pynvml.nvmlDeviceGetMemoryInfo(handle)


def _other_processes(processes: list[Any]) -> int | None:
    own = os.getpid()
    # In a container NVML lists the host's process ids, so that ours is not among them and nothing can be told apart.
    if all(process.pid != own for process in processes) or any(process.usedGpuMemory is None for process in processes):
        return None
    return sum(int(process.usedGpuMemory) for process in processes if process.pid != own)


@functools.cache
def _open(uuid: str) -> Any:
    """Return NVML's handle of the card, or a sentence that says why there is none.

    Kept for the life of the process, so NVML is never shut down.
    """
    try:
        from pynvml import NVMLError, nvmlDeviceGetHandleByUUID, nvmlInit
    except ImportError:
        return "Other processes are not told apart: the package nvidia-ml-py is not installed."
    try:
        nvmlInit()
        return nvmlDeviceGetHandleByUUID(uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}")
    except NVMLError as error:
        return f"Other processes are not told apart: NVML does not work here ({error})."
