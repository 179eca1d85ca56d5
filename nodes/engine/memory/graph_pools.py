"""Memory that CUDA graphs hold: this pack's by its own count, and what was allocated while anybody captured one."""

import ctypes
import functools
import sys
import weakref
from typing import Any

import torch

_RESERVED_MEM_CURRENT = 2
"""CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT of cuda.h."""
_own: dict[int, tuple[torch.device, int]] = {}
"""By the id of its holder: where and how many bytes."""


def count_own(holder: object, device: torch.device, nbytes: int) -> None:
    """Count `nbytes` on `device` as held for graphs while `holder` lives; a later call replaces an earlier one."""
    if id(holder) not in _own:
        weakref.finalize(holder, _own.pop, id(holder), None)
    _own[id(holder)] = (device, nbytes)


def own_bytes(device: torch.device) -> int:
    """Return what this pack's graphs hold of torch's memory on `device`."""
    return sum(nbytes for held_on, nbytes in list(_own.values()) if held_on == device)


def captured_bytes(index: int) -> int | None:
    """Return what the driver reserves on CUDA device `index` for allocations inside graphs; None where it does not tell.

    That is where cudaMallocAsync puts what is allocated during a capture; torch's reserved memory does not include it.
    """
    if torch.version.hip is not None:
        return None
    opened = _driver(index)
    if opened is None:
        return None
    driver, card = opened
    value = ctypes.c_uint64()
    failed = driver.cuDeviceGetGraphMemAttribute(card, _RESERVED_MEM_CURRENT, ctypes.byref(value))
    return None if failed else value.value


def give_back_captured(index: int) -> None:
    """Let the driver give back what it reserves on CUDA device `index` for graphs that are gone.

    By itself it keeps that for later graphs, where neither torch nor ComfyUI finds it. It waits for the device: graphs that run hold theirs.
    """
    if torch.version.hip is None and (opened := _driver(index)) is not None:
        driver, card = opened
        torch.cuda.synchronize(index)
        driver.cuDeviceGraphMemTrim(card)


@functools.cache
def _driver(index: int) -> tuple[Any, int] | None:
    """Return the driver and its handle of the card, None without a driver that can tell of graphs' memory."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        _ = driver.cuDeviceGetGraphMemAttribute
    except (OSError, AttributeError):  # no driver, or one before CUDA 11.4
        return None
    card = ctypes.c_int()
    return None if driver.cuDeviceGet(ctypes.byref(card), index) else (driver, card.value)


def private_pool_bytes(index: int) -> int:
    """Return what torch's own allocator reserves in private pools on CUDA device `index`, part of its reserved memory.

    It keeps one for each capture, and for torch.cuda.MemPool. The walk over all of its blocks takes milliseconds.
    """
    segments = torch.cuda.memory_snapshot()
    return sum(part["total_size"] for part in segments if part["device"] == index and tuple(part["segment_pool_id"]) != (0, 0))
