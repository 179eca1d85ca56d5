"""What the machine does meanwhile: the card's clock, heat, power and neighbours, read beside the server."""

import contextlib
import importlib
import os
import shutil
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

from ...engine.memory.nvml import memory_info
from .record import DeviceSample

GIB = 1024**3
INTERVAL_S = 0.1
BUSY_LOAD = 1.25  # waiting programs for each CPU over the last minute; the server itself may keep all of them busy
# On Windows some thirty programs with a window count as computing, explorer.exe among them, whatever they do.
LISTS_WINDOWS = sys.platform == "win32"
# nvmlClocksEventReason* of nvml.h that tell of trouble; the others (idle, application clocks, power cap) are normal.
BAD_REASONS = {0x08: "a hardware slowdown", 0x20: "heat (software)", 0x40: "heat (hardware)", 0x80: "the power brake"}
# SM MHz, degrees C, W, GiB used, reasons, computing processes; None for what a card does not tell: GB10 its memory, laptops their power
Reading = tuple[int | None, int | None, float | None, float | None, int | None, int | None]
Told = TypeVar("Told")


class DeviceReader(Protocol):
    """One way to ask a card."""

    def limits(self) -> dict[str, Any]:
        """What does not change: name, driver, power limit, highest clock."""
        ...

    def read(self) -> Reading | None:
        """The card now, None if it tells nothing."""
        ...


class Watched:
    """The readings of one run."""

    def __init__(self) -> None:
        """Nothing is read yet."""
        self.readings: list[Reading] = []
        self.load_per_cpu = 0.0

    def sample(self) -> DeviceSample | None:
        """Their summary: the median clock, the rest at its highest; None without readings."""
        if not self.readings:
            return None
        told = [[value for value in values if value is not None] for values in zip(*self.readings, strict=True)]
        clocks, degrees, watts, used, reasons, processes = told
        seen = 0
        for mask in reasons:
            seen |= int(mask)
        return DeviceSample(
            sm_clock_mhz=int(statistics.median(clocks)) if clocks else None,
            temperature_c=int(max(degrees)) if degrees else None,
            power_w=round(max(watts), 1) if watts else None,
            used_gib=round(max(used), 3) if used else None,
            throttled_by=[name for bit, name in BAD_REASONS.items() if seen & bit],
            other_processes=max(0, int(max(processes)) - 1) if processes else None,
        )

    def disturbances(self) -> list[str]:
        """One phrase for each thing that may have slowed the run down."""
        found: list[str] = []
        sample = self.sample()
        if sample is not None:
            found += [f"the card was slowed down by {name}" for name in sample.throttled_by]
            if sample.other_processes:
                found.append(f"{sample.other_processes} other processes computed on the card")
        if self.load_per_cpu > BUSY_LOAD:
            found.append("more programs wanted to run than the machine has CPUs")
        return found


class DeviceWatch:
    """Watches the card of a server on this machine; one elsewhere, or without an NVIDIA card, is not watched."""

    def __init__(self, reader: DeviceReader | None, is_local: bool, note: str = "") -> None:
        """Use `watch_device`; `note` says why nothing is read."""
        self._reader, self._is_local, self.note = reader, is_local, note

    def limits(self) -> dict[str, Any]:
        """What does not change about the card, empty where it is not watched."""
        return self._reader.limits() if self._reader else {}

    @contextmanager
    def watching(self) -> Generator[Watched, None, None]:
        """Read in the background as long as the block runs."""
        watched = Watched()
        stop = threading.Event()
        thread = threading.Thread(target=self._poll, args=(watched, stop), daemon=True)
        if self._reader is not None:
            thread.start()
        try:
            yield watched
        finally:
            stop.set()
            if self._reader is not None:
                thread.join()
            if self._is_local and hasattr(os, "getloadavg"):
                watched.load_per_cpu = os.getloadavg()[0] / (os.cpu_count() or 1)

    def _poll(self, watched: Watched, stop: threading.Event) -> None:
        assert self._reader is not None
        while not stop.wait(INTERVAL_S):
            reading = self._reader.read()
            if reading is not None:
                watched.readings.append(reading)


def watch_device(address: str, stats: Mapping[str, Any]) -> DeviceWatch:
    """The watch for the first device of the server at `address` whose /system_stats are `stats`."""
    is_local = urlsplit(address).hostname in ("127.0.0.1", "localhost", "::1")
    device: dict[str, Any] = stats["devices"][0]
    if not is_local:
        return DeviceWatch(None, is_local, "The server is on another machine, so its card's clock, heat and power were not read.")
    if device["type"] != "cuda":
        return DeviceWatch(None, is_local)
    reader = _nvml(device) or _nvidia_smi(device)
    note = "" if reader else "Neither nvidia-ml-py nor nvidia-smi is there, so the card's clock, heat and power were not read."
    return DeviceWatch(reader, is_local, note)


class Nvml:
    """NVML through nvidia-ml-py, several times a run."""

    def __init__(self, pynvml: Any, handle: Any) -> None:
        """Use `watch_device`."""
        self._nvml, self._handle = pynvml, handle

    def limits(self) -> dict[str, Any]:
        """What does not change."""
        nvml, handle = self._nvml, self._handle
        values = {
            "name": lambda: nvml.nvmlDeviceGetName(handle),
            "driver": lambda: nvml.nvmlSystemGetDriverVersion(),
            "power_limit_w": lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000,
            "max_sm_clock_mhz": lambda: nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM),
            "total_gib": lambda: round(memory_info(nvml, handle).total / GIB, 2),
        }
        found: dict[str, Any] = {"read_by": "NVML"}
        for name, read in values.items():
            with contextlib.suppress(nvml.NVMLError):  # not every card tells everything
                found[name] = read()
        return found

    def read(self) -> Reading | None:
        """The card now."""
        nvml, handle = self._nvml, self._handle
        reading = (
            self._told(lambda: int(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM))),
            self._told(lambda: int(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))),
            self._told(lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000),
            self._told(lambda: memory_info(nvml, handle).used / GIB),
            self._told(lambda: int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))),
            None if LISTS_WINDOWS else self._told(lambda: len(nvml.nvmlDeviceGetComputeRunningProcesses(handle))),
        )
        return reading if any(value is not None for value in reading) else None

    def _told(self, read: Callable[[], Told]) -> Told | None:
        try:
            return read()
        except self._nvml.NVMLError:
            return None


def _nvml(device: Mapping[str, Any]) -> Nvml | None:
    try:
        pynvml: Any = importlib.import_module("pynvml")
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        # "cuda:0 NAME : allocator", in which an RTX 4060 is not to be taken for an RTX 4060 Ti
        same = [handle for handle in handles if f" {pynvml.nvmlDeviceGetName(handle)} :" in f"{device['name']} :"]
    except pynvml.NVMLError:
        return None
    # CUDA_VISIBLE_DEVICES may renumber the server's cards; cards of one name are told apart by their number alone.
    index = int(device.get("index") or 0)
    return Nvml(pynvml, same[min(index, len(same) - 1)]) if same else None


class NvidiaSmi:
    """The driver's own program, for machines without nvidia-ml-py."""

    LIMITS = {"name": "name", "driver": "driver_version", "power_limit_w": "power.limit", "max_sm_clock_mhz": "clocks.max.sm"}
    READING = "clocks.sm,temperature.gpu,power.draw,memory.used,clocks_throttle_reasons.active"

    def __init__(self, program: str, index: int) -> None:
        """Use `watch_device`."""
        self._program, self._index = program, index

    def limits(self) -> dict[str, Any]:
        """What does not change."""
        found = self._ask("gpu", ",".join(self.LIMITS.values()))
        return {"read_by": "nvidia-smi", **dict(zip(self.LIMITS, found[0], strict=True))} if found else {}

    def read(self) -> Reading | None:
        """The card now."""
        found = self._ask("gpu", self.READING)
        if not found or len(found[0]) != len(self.READING.split(",")):
            return None
        clock, degrees, watts, used_mib, reasons = (_number(text) for text in found[0])
        return (
            None if clock is None else int(clock),
            None if degrees is None else int(degrees),
            watts,
            None if used_mib is None else used_mib / 1024,
            None if reasons is None else int(reasons),
            None if LISTS_WINDOWS else len(self._ask("compute-apps", "pid")),
        )

    def _ask(self, what: str, fields: str) -> list[list[str]]:
        command = [self._program, f"--query-{what}={fields}", "--format=csv,noheader,nounits", f"--id={self._index}"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return []
        lines = done.stdout.splitlines() if done.returncode == 0 else []
        return [[field.strip() for field in line.split(",")] for line in lines]


def _number(text: str) -> float | None:
    """A decimal or hexadecimal number; None for "[N/A]", with which a card says that it does not tell."""
    try:
        return int(text, 16) if text.startswith("0x") else float(text)
    except ValueError:
        return None


def _nvidia_smi(device: Mapping[str, Any]) -> NvidiaSmi | None:
    program = shutil.which("nvidia-smi")
    return NvidiaSmi(program, int(device.get("index") or 0)) if program else None
