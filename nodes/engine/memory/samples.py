"""Small readings for the timeline: a few numbers each, taken many times a second."""

import time
from dataclasses import dataclass

import torch

from .readings import HostMemory, MemoryReading, TorchMemory, host_memory, read_memory, torch_memory

# The wall clock may be set back while a prompt runs, this one never goes back.
_EPOCH_S = time.time() - time.monotonic()


def now_s() -> float:
    """Return the seconds since 1970 by a clock that only goes forward."""
    return _EPOCH_S + time.monotonic()


@dataclass(frozen=True)
class Sample:
    """The memory at one moment; None where there is no such figure on this machine or it could not be read."""

    time_s: float
    active_gib: float | None
    allocated_gib: float | None
    peak_allocated_gib: float | None
    """torch's own, since the last reset; None on MPS too."""
    reserved_gib: float | None
    driver_gib: float | None
    ram_gib: float
    process_gib: float
    graphs_gib: float | None = None
    """What CUDA graphs hold, as far as it can be read this often."""
    problem: str = ""
    """Why the device's figures are missing although it had some."""


def take_sample(device: torch.device) -> Sample:
    """Read device and host; a device that does not answer is a `problem`, not an exception."""
    try:
        return _sample(read_memory(device, processes=False))
    except RuntimeError as error:  # torch's class for a device that was lost or reset
        return _host_sample(None, problem=_first_line(error))


def take_quick_sample(device: torch.device) -> Sample:
    """Read torch's figures and the host alone, without asking the driver: for the start and end of every node."""
    try:
        return _host_sample(torch_memory(device))
    except RuntimeError as error:
        return _host_sample(None, problem=_first_line(error))


def _sample(reading: MemoryReading) -> Sample:
    # On a unified pool the driver's figure is the system's, which the RAM curve shows.
    driver_gib = None if reading.driver is None or reading.is_unified else reading.driver.used_gib
    graphs = reading.graphs
    graphs_gib = None if reading.torch is None else graphs.own_gib + (graphs.captured_gib or 0.0)
    return _of(reading.torch, reading.host, driver_gib, graphs_gib)


def _host_sample(torch_part: TorchMemory | None, problem: str = "") -> Sample:
    return _of(torch_part, host_memory(), None, None, problem)


def _of(
    torch_part: TorchMemory | None, host: HostMemory, driver_gib: float | None, graphs_gib: float | None, problem: str = ""
) -> Sample:
    return Sample(
        time_s=now_s(),
        active_gib=torch_part and torch_part.active_gib,
        allocated_gib=torch_part and torch_part.allocated_gib,
        peak_allocated_gib=torch_part and torch_part.peak_allocated_gib,
        reserved_gib=torch_part and torch_part.reserved_gib,
        driver_gib=driver_gib,
        graphs_gib=graphs_gib,
        ram_gib=host.ram_used_gib,
        process_gib=host.process_gib,
        problem=problem,
    )


def _first_line(error: RuntimeError) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
