"""The card's readings, from a made-up NVML and a made-up nvidia-smi."""

import os
import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest
from fast_sprites.nodes.benchmark.bench import machine
from fast_sprites.nodes.benchmark.bench.machine import BUSY_LOAD, GIB, DeviceWatch, Watched, watch_device

LOOPBACK = "http://127.0.0.1:8188"
H100 = {"devices": [{"name": "cuda:0 NVIDIA H100 80GB HBM3 : cudaMallocAsync", "type": "cuda", "index": 0}]}
CPU = {"devices": [{"name": "cpu", "type": "cpu", "index": None}]}

needs_shell_scripts = pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for nvidia-smi is a shell script")


@pytest.fixture
def no_nvml(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    script = tmp_path / "nvidia-smi"
    script.write_text(
        """#!/bin/sh
case "$*" in
  *--id=0*) ;;
  *) exit 6 ;;
esac
case "$*" in
  *--query-gpu=name*) echo "NVIDIA H100 80GB HBM3, 580.65.06, 700.00, 1980" ;;
  *--query-gpu=clocks.sm*) echo "1755, 64, 688.25, 12288, 0x0000000000000024" ;;
  *--query-compute-apps*) printf '4711\\n4712\\n' ;;
esac
"""
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    return script


@needs_shell_scripts
@pytest.mark.usefixtures("no_nvml", "nvidia_smi")
def test_nvidia_smi_stands_in_for_nvml():
    watch = watch_device(LOOPBACK, H100)
    assert watch.note == ""
    assert watch.limits() == {
        "read_by": "nvidia-smi",
        "name": "NVIDIA H100 80GB HBM3",
        "driver": "580.65.06",
        "power_limit_w": "700.00",
        "max_sm_clock_mhz": "1980",
    }
    with watch.watching() as watched:
        while not watched.readings:
            time.sleep(0.01)
    sample = watched.sample()
    assert sample is not None
    assert (sample.sm_clock_mhz, sample.temperature_c, sample.power_w, sample.used_gib) == (1755, 64, 688.2, 12.0)
    # 0x24 is heat and the power cap; the cap is how a card at its limit works.
    assert sample.throttled_by == ["heat (software)"]
    assert sample.other_processes == 1


@needs_shell_scripts
@pytest.mark.usefixtures("no_nvml")
@pytest.mark.parametrize("answer", ["exit 9", "echo garbage"])
def test_a_card_that_does_not_tell_is_no_error(nvidia_smi: Path, answer: str):
    nvidia_smi.write_text(f"#!/bin/sh\n{answer}\n")
    with watch_device(LOOPBACK, H100).watching() as watched:
        time.sleep(0.3)
    assert watched.sample() is None


@needs_shell_scripts
@pytest.mark.usefixtures("no_nvml")
def test_what_nvidia_smi_does_not_tell_costs_nothing_else(nvidia_smi: Path):
    nvidia_smi.write_text(nvidia_smi.read_text().replace("688.25, 12288", "11.17, [N/A]"))
    with watch_device(LOOPBACK, H100).watching() as watched:
        while not watched.readings:
            time.sleep(0.01)
    sample = watched.sample()
    assert sample is not None
    assert (sample.sm_clock_mhz, sample.temperature_c, sample.power_w, sample.used_gib) == (1755, 64, 11.2, None)


@pytest.mark.usefixtures("no_nvml")
def test_without_either_the_record_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("PATH", str(tmp_path))
    watch = watch_device(LOOPBACK, H100)
    assert watch.note == "Neither nvidia-ml-py nor nvidia-smi is there, so the card's clock, heat and power were not read."
    assert watch.limits() == {}


def test_a_server_elsewhere_has_another_card():
    watch = watch_device("http://192.168.1.20:8188", H100)
    assert "on another machine" in watch.note
    with watch.watching() as watched:
        pass
    assert watched.sample() is None
    assert watched.load_per_cpu == 0.0


def test_a_cpu_has_nothing_to_read_and_nothing_to_explain():
    assert watch_device(LOOPBACK, CPU).note == ""


class FakeNvml(types.ModuleType):
    """Two cards, of which the second is the server's; its clock falls from reading to reading."""

    NVML_CLOCK_SM, NVML_TEMPERATURE_GPU = 1, 0

    class NVMLError(Exception):
        """As pynvml's."""

    def __init__(self, *, is_old: bool = False) -> None:
        super().__init__("pynvml")
        self.is_old = is_old
        self.clocks = iter([1980, 1980, 1200] + [1980] * 1000)
        values: dict[str, Any] = {
            "nvmlMemory_v2": 2,
            "nvmlInit": lambda: None,
            "nvmlDeviceGetCount": lambda: 2,
            "nvmlDeviceGetHandleByIndex": lambda index: index,
            "nvmlDeviceGetName": lambda handle: ["NVIDIA A100", "NVIDIA H100 80GB HBM3"][handle],
            "nvmlSystemGetDriverVersion": lambda: "580.1",
            "nvmlDeviceGetEnforcedPowerLimit": lambda _: 700_000,
            "nvmlDeviceGetMaxClockInfo": self.not_supported,
            "nvmlDeviceGetClockInfo": lambda handle, _: (self.only_the_second(handle), next(self.clocks))[1],
            "nvmlDeviceGetTemperature": lambda *_: 60,
            "nvmlDeviceGetPowerUsage": lambda _: 500_000,
            "nvmlDeviceGetMemoryInfo": self.memory,
            "nvmlDeviceGetCurrentClocksThrottleReasons": lambda _: 0,
            "nvmlDeviceGetComputeRunningProcesses": lambda _: ["the server"],
        }
        self.__dict__.update(values)

    def memory(self, _: int, version: int | None = None) -> types.SimpleNamespace:
        if version is not None and self.is_old:
            raise self.NVMLError
        return types.SimpleNamespace(total=80 * GIB, used=(10 if version == 2 else 11) * GIB)

    def not_supported(self, *_: Any) -> int:
        raise self.NVMLError

    @staticmethod
    def only_the_second(handle: int) -> None:
        assert handle == 1


@pytest.mark.parametrize(("old", "used_gib"), [("", 10), ("driver", 11), ("package", 11)])
def test_nvmls_second_figures_are_taken_where_there_are_some(monkeypatch: pytest.MonkeyPatch, old: str, used_gib: int):
    nvml = FakeNvml(is_old=old == "driver")
    if old == "package":
        monkeypatch.delattr(nvml, "nvmlMemory_v2")
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(machine, "INTERVAL_S", 0.001)
    with watch_device(LOOPBACK, H100).watching() as watched:
        while not watched.readings:
            time.sleep(0.001)
    assert watched.readings[0][3] == used_gib


def test_nvml_is_read_during_the_run(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())
    monkeypatch.setattr(machine, "INTERVAL_S", 0.001)
    monkeypatch.setattr(machine, "LISTS_WINDOWS", False)
    watch = watch_device(LOOPBACK, H100)
    assert watch.limits() == {
        "read_by": "NVML",
        "name": "NVIDIA H100 80GB HBM3",
        "driver": "580.1",
        "power_limit_w": 700.0,
        "total_gib": 80.0,
    }
    with watch.watching() as watched:
        while len(watched.readings) < 3:
            time.sleep(0.001)
    sample = watched.sample()
    assert sample is not None
    assert (sample.sm_clock_mhz, sample.used_gib, sample.throttled_by, sample.other_processes) == (1980, 10.0, [], 0)
    count = len(watched.readings)
    time.sleep(0.02)
    assert len(watched.readings) == count  # nothing reads on after the run


@pytest.mark.parametrize(
    ("silent", "field"),
    [
        ("nvmlDeviceGetMemoryInfo", "used_gib"),  # GB10
        ("nvmlDeviceGetPowerUsage", "power_w"),
        ("nvmlDeviceGetClockInfo", "sm_clock_mhz"),
        ("nvmlDeviceGetTemperature", "temperature_c"),
    ],
)
def test_what_nvml_does_not_tell_costs_nothing_else(monkeypatch: pytest.MonkeyPatch, silent: str, field: str):
    nvml = FakeNvml()
    setattr(nvml, silent, nvml.not_supported)
    monkeypatch.setattr(machine, "LISTS_WINDOWS", False)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(machine, "INTERVAL_S", 0.001)
    with watch_device(LOOPBACK, H100).watching() as watched:
        while not watched.readings:
            time.sleep(0.001)
    sample = watched.sample()
    assert sample is not None
    missing = {name for name, value in vars(sample).items() if value is None}
    assert missing == {field}


@pytest.mark.parametrize("reader", ["nvml", pytest.param("nvidia-smi", marks=needs_shell_scripts)])
def test_programs_with_a_window_are_no_neighbours_on_windows(monkeypatch: pytest.MonkeyPatch, nvidia_smi: Path, reader: str):
    nvml = FakeNvml()
    monkeypatch.setattr(nvml, "nvmlDeviceGetComputeRunningProcesses", lambda _: ["python.exe", "explorer.exe", "dwm.exe"])
    monkeypatch.setitem(sys.modules, "pynvml", nvml if reader == "nvml" else None)
    monkeypatch.setattr(machine, "INTERVAL_S", 0.001)
    for on_windows, others in ((False, 2 if reader == "nvml" else 1), (True, None)):
        monkeypatch.setattr(machine, "LISTS_WINDOWS", on_windows)
        with watch_device(LOOPBACK, H100).watching() as watched:
            while not watched.readings:
                time.sleep(0.001)
        sample = watched.sample()
        assert sample is not None
        assert sample.other_processes == others
        assert any("computed on the card" in found for found in watched.disturbances()) == bool(others)


def test_a_card_is_not_taken_for_one_whose_name_begins_alike(monkeypatch: pytest.MonkeyPatch):
    nvml = FakeNvml()
    monkeypatch.setattr(nvml, "nvmlDeviceGetName", ["NVIDIA GeForce RTX 4060", "NVIDIA GeForce RTX 4060 Ti"].__getitem__)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    stats = {"devices": [{"name": "cuda:0 NVIDIA GeForce RTX 4060 Ti : native", "type": "cuda", "index": 0}]}
    assert watch_device(LOOPBACK, stats).limits()["name"] == "NVIDIA GeForce RTX 4060 Ti"


def test_disturbances_are_named():
    watched = Watched()
    assert watched.disturbances() == []
    watched.readings = [(1980, 60, 500.0, 10.0, 0x04, 1), (1200, 88, 690.0, 12.0, 0x40, 3)]
    watched.load_per_cpu = BUSY_LOAD + 0.1
    assert watched.disturbances() == [
        "the card was slowed down by heat (hardware)",
        "2 other processes computed on the card",
        "more programs wanted to run than the machine has CPUs",
    ]


def test_a_run_that_fails_stops_the_reading(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())
    watch: DeviceWatch = watch_device(LOOPBACK, H100)
    import threading

    before = threading.active_count()
    with pytest.raises(RuntimeError), watch.watching():
        raise RuntimeError
    assert threading.active_count() == before
