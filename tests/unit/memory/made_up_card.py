"""A CUDA device that is not there."""

import sys
import types
from typing import Any

import pytest
import torch
from fast_sprites.nodes.engine.memory import graph_pools, nvml, readings
from fast_sprites.nodes.engine.memory.readings import GIB

CPU = torch.device("cpu")
CUDA = torch.device("cuda", 0)
UUID = "1b2c"


def pool(current, peak):
    return {"all": {"current": current * GIB, "peak": peak * GIB}}


class Card:
    """A CUDA device and its driver as torch and NVML show them, without the hardware."""

    def __init__(self, monkeypatch, *, integrated=False, hip=None):
        self.reset_calls = 0
        self.stats = {
            "allocated_bytes": pool(2, 5),
            "active_bytes": pool(3, 6),
            "reserved_bytes": pool(4, 7),
            "num_alloc_retries": 1,
            "num_ooms": 2,
        }
        self.processes = [
            types.SimpleNamespace(pid=1, usedGpuMemory=8 * GIB),
            types.SimpleNamespace(pid=77, usedGpuMemory=5 * GIB),
        ]
        self.nvml_error: Exception | None = None
        self.has_nvml_v2 = True
        self.allocator = "cudaMallocAsync"
        properties = types.SimpleNamespace(name="Card", is_integrated=integrated, uuid=UUID)
        readings._cuda_properties.cache_clear()
        nvml._open.cache_clear()
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
        monkeypatch.setattr(torch.cuda, "memory_stats_as_nested_dict", lambda index: self.stats)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (6 * GIB, 24 * GIB))
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", self._reset)
        monkeypatch.setattr(torch.cuda, "get_allocator_backend", lambda: self.allocator)
        monkeypatch.setattr(torch.cuda, "memory_snapshot", self._segments)
        monkeypatch.setattr(graph_pools, "captured_bytes", {0: 3 * GIB, 1: 0}.__getitem__)
        monkeypatch.setattr(torch.version, "hip", hip)
        for forbidden in ("empty_cache", "synchronize"):
            monkeypatch.setattr(torch.cuda, forbidden, lambda *_: pytest.fail("reading must not change what it measures"))
        monkeypatch.setattr(nvml, "os", types.SimpleNamespace(getpid=lambda: 77))
        module: Any = types.ModuleType("pynvml")
        module.NVMLError = type("NVMLError", (Exception,), {})
        module.nvmlMemory_v2 = 2
        module.nvmlInit = self._init
        module.nvmlDeviceGetHandleByUUID = {f"GPU-{UUID}": object()}.__getitem__
        module.nvmlDeviceGetMemoryInfo = self._memory_info
        module.nvmlDeviceGetComputeRunningProcesses = lambda handle: self.processes
        self.module = module
        monkeypatch.setitem(sys.modules, "pynvml", module)

    def _init(self):
        if self.nvml_error is not None:
            raise self.nvml_error

    def _memory_info(self, handle, version=None):
        if version is not None and not self.has_nvml_v2:
            raise self.module.NVMLError("Function Not Found")
        # The first version counts what the driver reserves for itself as used.
        return types.SimpleNamespace(used=14 * GIB if version else 15 * GIB, total=24 * GIB)

    def _segments(self):  # torch 2.8's takes no include_traces
        pools = [(0, (0, 0)), (0, (0, 1)), (0, (7, 0)), (1, (0, 2))]
        return [{"device": device, "segment_pool_id": pool_id, "total_size": GIB} for device, pool_id in pools]

    def _reset(self, device):
        self.reset_calls += 1
        assert device == CUDA


class Holder:
    """Something that owns graphs."""
