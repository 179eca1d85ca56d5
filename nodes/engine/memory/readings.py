"""One reading of the memory: torch, driver, models, process and system, each on its own."""

import dataclasses
import functools
import json
import sys
from collections.abc import Callable
from typing import Any

import psutil
import torch

from . import graph_pools, nvml

GIB = 1024**3


@dataclasses.dataclass(frozen=True)
class TorchMemory:
    """torch's own accounting of one device."""

    allocated_gib: float
    """Held by tensors."""
    active_gib: float
    """Held by tensors or still in use by a stream after its tensor was freed."""
    reserved_gib: float
    """Taken from the driver: active blocks and the cache."""
    peak_allocated_gib: float | None
    peak_reserved_gib: float | None
    """Both since the last reset of the peak; None where torch keeps no peaks (MPS)."""
    num_alloc_retries: int
    """Times that torch emptied its cache because an allocation failed."""
    num_ooms: int


@dataclasses.dataclass(frozen=True)
class DriverMemory:
    """What the driver says about the whole device."""

    used_gib: float
    total_gib: float
    outside_torch_gib: float | None
    """Used, but not reserved by torch: the CUDA context, libraries, DynamicVRAM's weights and other processes; None if not known."""
    other_processes_gib: float | None
    """None where the driver does not tell processes apart (Windows, containers)."""


@dataclasses.dataclass(frozen=True)
class GraphMemory:
    """What CUDA graphs hold from one replay to the next."""

    own_gib: float
    """Blocks, inputs and outputs of this pack's graphs: part of what torch has allocated."""
    captured_gib: float | None
    """Allocated while anybody captured. Under cudaMallocAsync it lies outside torch's reserved memory. torch's own allocator has it in
    private pools inside, which Memory Probe alone counts. None where it is not known."""


@dataclasses.dataclass(frozen=True)
class HeldModel:
    """A model that ComfyUI keeps."""

    name: str
    device: str
    size_gib: float
    resident_gib: float
    """Part of it that is on its device now."""
    outside_torch_gib: float = 0.0
    """Part of the resident one that DynamicVRAM keeps in pages of its own, outside torch's allocator."""


@dataclasses.dataclass(frozen=True)
class HostMemory:
    """This process and the system."""

    process_gib: float
    """Resident set of this process."""
    ram_used_gib: float
    ram_total_gib: float
    swap_used_gib: float | None
    swap_total_gib: float | None
    """Both None where Windows does not tell, because its performance counters are switched off."""


@dataclasses.dataclass(frozen=True)
class ComfyMemory:
    """What ComfyUI keeps beside torch."""

    models: tuple[HeldModel, ...] = ()
    dynamic_vram_gib: float | None = None
    """Weights that DynamicVRAM keeps on the device outside torch's allocator; None where it is off."""
    pinned_host_gib: float | None = None
    """Host memory that ComfyUI has pinned for transfers."""

    def held_in_torch_gib(self, device: str) -> float:
        """Return what ComfyUI's models hold of torch's memory on `device`: their resident part but for DynamicVRAM's pages."""
        return sum(model.resident_gib - model.outside_torch_gib for model in self.models if model.device == device)


@dataclasses.dataclass(frozen=True)
class MemoryReading:
    """The memory at one moment."""

    device: str
    """Name of the accelerator, or `cpu`."""
    is_unified: bool
    """The accelerator shares the system's RAM: both are one pool and must not be added up."""
    torch: TorchMemory | None
    driver: DriverMemory | None
    graphs: GraphMemory
    comfyui: ComfyMemory
    host: HostMemory
    missing: tuple[str, ...]
    """One sentence for each part that could not be read."""

    def to_json(self) -> str:
        """Return the reading as JSON; sizes in GiB, as the names say."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False)


@functools.cache
def _process() -> psutil.Process:
    return psutil.Process()


def host_memory() -> HostMemory:
    """Read this process and the system."""
    ram_total, ram_available, swap = _system_bytes()
    return HostMemory(
        process_gib=_process().memory_info().rss / GIB,
        ram_used_gib=(ram_total - ram_available) / GIB,
        ram_total_gib=ram_total / GIB,
        swap_used_gib=swap and (swap[0] - swap[1]) / GIB,
        swap_total_gib=swap and swap[0] / GIB,
    )


_MEMINFO_NAMES = (b"MemTotal:", b"MemAvailable:", b"SwapTotal:", b"SwapFree:")


def _system_bytes() -> tuple[int, int, tuple[int, int] | None]:
    """Return total and available RAM, and total and free swap where Windows tells."""
    if sys.platform == "linux":
        # psutil reads this file twice and /proc/vmstat once: 100 us where this takes 15.
        with open("/proc/meminfo", "rb", buffering=0) as file:
            text = file.read()
        ram_total, ram_available, swap_total, swap_free = (
            int(text[text.index(name) + len(name) :].split(maxsplit=1)[0]) * 1024 for name in _MEMINFO_NAMES
        )
        return ram_total, ram_available, (swap_total, swap_free)
    ram = psutil.virtual_memory()
    try:
        swap = psutil.swap_memory()
    except RuntimeError:  # performance counters of Windows are switched off (psutil issue 2681)
        return ram.total, ram.available, None
    return ram.total, ram.available, (swap.total, swap.free)


def read_memory(
    device: torch.device, comfyui: ComfyMemory | None = None, *, processes: bool = True, private_pools: bool = False
) -> MemoryReading:
    """Read everything about `device` and the host; nothing is emptied, reset or synchronised.

    Without `processes` other processes are not told apart, which half of the driver's time goes into. With `private_pools` those of torch's
    own allocator are counted, which takes milliseconds.
    """
    if device.type == "cuda":
        found = _read_cuda(device, processes, private_pools)
    else:
        found = _DEVICE_READERS.get(device.type, _read_other)(device)
    name, is_unified, torch_memory, driver, graphs, missing = found
    host = host_memory()
    if host.swap_total_gib is None:
        missing = (*missing, "Swap is not read: Windows' performance counters are switched off.")
    return MemoryReading(name, is_unified, torch_memory, driver, graphs, comfyui or ComfyMemory(), host, missing)


def torch_memory(device: torch.device) -> TorchMemory | None:
    """Read torch's own accounting alone; None for devices of which it keeps none."""
    if device.type == "cuda":
        return _torch_memory(torch.cuda.memory_stats_as_nested_dict(_cuda_index(device)))
    if device.type == "xpu":
        return _torch_memory(torch.xpu.memory_stats_as_nested_dict(device))
    return _mps_memory() if device.type == "mps" else None


def reset_peak(device: torch.device) -> bool:
    """Start torch's peaks of `device` anew; return False where torch keeps none."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif device.type == "xpu":
        torch.xpu.reset_peak_memory_stats(device)
    else:
        return False
    return True


_DeviceReading = tuple[str, bool, TorchMemory | None, DriverMemory | None, GraphMemory, tuple[str, ...]]
_NO_GRAPHS = GraphMemory(0.0, 0.0)


@functools.cache
def _cuda_properties(index: int) -> Any:
    return torch.cuda.get_device_properties(index)


def _cuda_index(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index


def own_graphs_gib(device: torch.device) -> float:
    """Return what this pack's CUDA graphs hold of torch's memory."""
    return graph_pools.own_bytes(torch.device("cuda", _cuda_index(device))) / GIB if device.type == "cuda" else 0.0


def _graph_memory(device: torch.device, private_pools: bool) -> GraphMemory:
    index, captured = _cuda_index(device), None
    if torch.cuda.get_allocator_backend() == "cudaMallocAsync":
        captured = graph_pools.captured_bytes(index)
    elif private_pools:
        captured = graph_pools.private_pool_bytes(index)
    return GraphMemory(own_graphs_gib(device), None if captured is None else captured / GIB)


def _read_cuda(device: torch.device, processes: bool, private_pools: bool) -> _DeviceReading:
    index = _cuda_index(device)
    properties = _cuda_properties(index)
    # memory_stats() flattens this dictionary, which takes longer than reading it.
    memory = _torch_memory(torch.cuda.memory_stats_as_nested_dict(index))
    is_unified = bool(properties.is_integrated)
    seen: nvml.NvmlMemory | str | None = None
    if torch.version.hip is None and not is_unified:
        seen = nvml.read_device(str(properties.uuid), processes=processes)
    if isinstance(seen, nvml.NvmlMemory):
        used, total, others = seen.used_bytes, seen.total_bytes, seen.other_processes_bytes
    else:
        free, total = torch.cuda.mem_get_info(index)
        used, others = total - free, None
    driver = DriverMemory(
        used_gib=used / GIB,
        total_gib=total / GIB,
        # On a unified pool the rest is the whole system, which the host part shows.
        outside_torch_gib=None if is_unified else max(used / GIB - memory.reserved_gib, 0.0),
        other_processes_gib=None if others is None else others / GIB,
    )
    graphs = _graph_memory(device, private_pools)
    return properties.name, is_unified, memory, driver, graphs, (seen,) if isinstance(seen, str) else ()


def _torch_memory(stats: dict[str, Any]) -> TorchMemory:
    """Take the named figures out of a torch allocator's nested statistics."""

    def gib(pool: str, moment: str) -> float:
        return stats.get(pool, {}).get("all", {}).get(moment, 0) / GIB

    return TorchMemory(
        allocated_gib=gib("allocated_bytes", "current"),
        active_gib=gib("active_bytes", "current"),
        reserved_gib=gib("reserved_bytes", "current"),
        peak_allocated_gib=gib("allocated_bytes", "peak"),
        peak_reserved_gib=gib("reserved_bytes", "peak"),
        num_alloc_retries=stats.get("num_alloc_retries", 0),
        num_ooms=stats.get("num_ooms", 0),
    )


def _read_xpu(device: torch.device) -> _DeviceReading:
    memory = _torch_memory(torch.xpu.memory_stats_as_nested_dict(device))
    properties = torch.xpu.get_device_properties(device)
    try:
        free, total = torch.xpu.mem_get_info(device)
    except RuntimeError as error:  # integrated GPUs and WSL2 (pytorch/pytorch#164429)
        return properties.name, False, memory, None, _NO_GRAPHS, (f"The driver does not say how much is in use ({error}).",)
    driver = DriverMemory((total - free) / GIB, total / GIB, max((total - free) / GIB - memory.reserved_gib, 0.0), None)
    return properties.name, False, memory, driver, _NO_GRAPHS, ("Intel's driver does not tell other processes apart.",)


def _read_mps(_device: torch.device) -> _DeviceReading:
    memory = _mps_memory()
    total = torch.mps.recommended_max_memory() / GIB
    missing = ("torch keeps no peaks on MPS.",)
    return "Apple GPU (MPS)", True, memory, DriverMemory(memory.reserved_gib, total, None, None), _NO_GRAPHS, missing


def _mps_memory() -> TorchMemory:
    allocated = torch.mps.current_allocated_memory() / GIB
    driver_used = torch.mps.driver_allocated_memory() / GIB
    return TorchMemory(allocated, allocated, driver_used, None, None, 0, 0)


def _read_cpu(_device: torch.device) -> _DeviceReading:
    if torch.cuda.is_available():
        reason = "ComfyUI runs on the CPU (--cpu), so no GPU is read."
    elif torch.version.cuda is None and torch.version.hip is None:
        reason = "There is no GPU part: this torch was built for the CPU alone."
    else:
        reason = "There is no GPU part: torch finds no GPU or its driver."
    return "cpu", True, None, None, _NO_GRAPHS, (reason,)


def _read_other(device: torch.device) -> _DeviceReading:
    return device.type, False, None, None, _NO_GRAPHS, (f"torch has no memory statistics for devices of type {device.type}.",)


_DEVICE_READERS: dict[str, Callable[[torch.device], _DeviceReading]] = {
    "xpu": _read_xpu,
    "mps": _read_mps,
    "cpu": _read_cpu,
}
