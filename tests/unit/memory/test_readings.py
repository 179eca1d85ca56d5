import dataclasses
import json
import logging
import sys
import time
import types

import psutil
import pytest
import torch
from fast_sprites.nodes.engine.errors import BadInputError
from fast_sprites.nodes.engine.memory import graph_pools, nvml, readings, snapshots
from fast_sprites.nodes.engine.memory.profile import profile
from fast_sprites.nodes.engine.memory.readings import GIB, ComfyMemory, HeldModel, read_memory
from fast_sprites.nodes.engine.memory.report import comparison, report
from fast_sprites.nodes.engine.memory.samples import take_quick_sample

from .made_up_card import CPU, CUDA, Card, Holder, pool


def test_torchs_figures_stay_apart(card):
    memory = read_memory(CUDA).torch
    assert memory == readings.TorchMemory(
        allocated_gib=2, active_gib=3, reserved_gib=4, peak_allocated_gib=5, peak_reserved_gib=7, num_alloc_retries=1, num_ooms=2
    )
    assert card.reset_calls == 0


def test_driver_tells_other_processes_apart(card):
    driver = read_memory(CUDA).driver
    assert driver == readings.DriverMemory(used_gib=14, total_gib=24, outside_torch_gib=10, other_processes_gib=8)


@pytest.mark.parametrize("hidden", ["pid of the host", "no sizes"])
def test_processes_that_cannot_be_told_apart_are_not_guessed(card, hidden):
    if hidden == "no sizes":
        card.processes[0].usedGpuMemory = None
    else:
        card.processes[1].pid = 4321
    reading = read_memory(CUDA)
    assert (reading.driver.other_processes_gib, reading.driver.outside_torch_gib) == (None, 10)
    assert "Outside torch (context, libraries, other processes): 10.0 GiB" in report(reading)


def test_a_sample_asks_for_no_processes(card):
    card.module.nvmlDeviceGetComputeRunningProcesses = lambda handle: pytest.fail("processes were asked for")
    driver = read_memory(CUDA, processes=False).driver
    assert (driver.used_gib, driver.outside_torch_gib, driver.other_processes_gib) == (14, 10, None)


def test_missing_nvml_is_a_sentence(card, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    reading = read_memory(CUDA)
    assert reading.missing == ("Other processes are not told apart: the package nvidia-ml-py is not installed.",)
    assert reading.driver.used_gib == 18
    assert not caplog.records


def test_foreign_module_called_pynvml_is_a_sentence(card, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", types.ModuleType("pynvml"))
    assert "not installed" in read_memory(CUDA).missing[0]


def test_broken_nvml_is_a_sentence_and_stays_quiet(card, caplog):
    card.nvml_error = card.module.NVMLError("Driver/library version mismatch")
    with caplog.at_level(logging.DEBUG):
        seen = [read_memory(CUDA) for _ in range(3)]
    assert seen[2].missing == ("Other processes are not told apart: NVML does not work here (Driver/library version mismatch).",)
    assert seen[2].driver.used_gib == 18
    assert not caplog.records


def test_card_that_stops_answering_is_a_sentence(card):
    def gone(handle, version=None):
        raise card.module.NVMLError("GPU is lost")

    assert read_memory(CUDA).missing == ()
    card.module.nvmlDeviceGetMemoryInfo = gone
    reading = read_memory(CUDA)
    assert "NVML stopped answering (GPU is lost)" in reading.missing[0]
    assert reading.driver.used_gib == 18


def test_drivers_own_reserve_is_not_in_use(card):
    assert read_memory(CUDA).driver.used_gib == 14
    card.has_nvml_v2 = False  # a driver before R510 knows no such difference
    nvml._open.cache_clear()
    assert read_memory(CUDA).driver.used_gib == 15


def test_processes_may_be_refused_while_memory_is_read(card):
    def refuse(handle):
        raise card.module.NVMLError("Insufficient Permissions")

    card.module.nvmlDeviceGetComputeRunningProcesses = refuse
    driver = read_memory(CUDA).driver
    assert (driver.used_gib, driver.other_processes_gib) == (14, None)


def test_unified_memory_is_one_pool(monkeypatch):
    Card(monkeypatch, integrated=True)
    reading = read_memory(CUDA)
    assert reading.is_unified
    text = report(reading)
    assert "Driver" not in text
    assert "RAM, shared with the GPU:" in text
    assert "torch: 3.0 GiB active, 4.0 GiB reserved" in text


def test_amd_is_read_through_torch(monkeypatch):
    card = Card(monkeypatch, hip="6.4")
    card.module.nvmlInit = lambda: pytest.fail("NVML is NVIDIA's")
    assert read_memory(CUDA).driver == readings.DriverMemory(18, 24, 14, None)


def test_intel_is_read_through_torch(monkeypatch):
    monkeypatch.setattr(
        torch.xpu, "memory_stats_as_nested_dict", lambda device: {"active_bytes": pool(1, 2), "reserved_bytes": pool(3, 4)}
    )
    monkeypatch.setattr(torch.xpu, "get_device_properties", lambda device: types.SimpleNamespace(name="Arc"))
    monkeypatch.setattr(torch.xpu, "mem_get_info", lambda device: (6 * GIB, 16 * GIB), raising=False)
    reading = read_memory(torch.device("xpu", 0))
    assert (reading.device, reading.torch.active_gib, reading.torch.reserved_gib) == ("Arc", 1, 3)
    assert reading.driver == readings.DriverMemory(10, 16, 7, None)

    def cannot(_device):
        raise RuntimeError("The device (Arc) doesn't support querying the available free memory.")

    monkeypatch.setattr(torch.xpu, "mem_get_info", cannot)  # as on an integrated GPU
    reading = read_memory(torch.device("xpu", 0))
    assert (reading.torch.active_gib, reading.driver) == (1, None)
    assert "doesn't support querying" in reading.missing[0]


def test_mps_is_read_through_torch(monkeypatch):
    for name, gib in (("current_allocated_memory", 2), ("driver_allocated_memory", 3), ("recommended_max_memory", 12)):
        monkeypatch.setattr(torch.mps, name, lambda gib=gib: gib * GIB)
    reading = read_memory(torch.device("mps"))
    assert (reading.is_unified, reading.torch.allocated_gib, reading.torch.reserved_gib) == (True, 2, 3)
    assert "Peak" not in report(reading)
    assert reading.missing == ("torch keeps no peaks on MPS.",)


def test_cpu_says_why_there_is_no_gpu_part(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    reading = read_memory(CPU)
    assert (reading.torch, reading.driver) == (None, None)
    assert "no GPU" in reading.missing[0]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert read_memory(CPU).missing == ("ComfyUI runs on the CPU (--cpu), so no GPU is read.",)


def test_unknown_devices_say_so():
    assert read_memory(torch.device("hpu")).missing == ("torch has no memory statistics for devices of type hpu.",)


def test_host_agrees_with_psutil():
    host, ram, swap = readings.host_memory(), psutil.virtual_memory(), psutil.swap_memory()
    assert host.ram_total_gib == pytest.approx(ram.total / GIB)
    assert host.ram_used_gib == pytest.approx((ram.total - ram.available) / GIB, abs=0.5)
    assert host.swap_total_gib == pytest.approx(swap.total / GIB)
    assert host.process_gib == pytest.approx(psutil.Process().memory_info().rss / GIB, abs=0.05)


def test_windows_without_performance_counters_has_no_swap(monkeypatch: pytest.MonkeyPatch):
    """Samples are taken in every run of every workflow: what a reading raises would end it."""

    def refuse() -> None:
        raise RuntimeError("PdhAddEnglishCounterW failed. Performance counters may be disabled.")

    monkeypatch.setattr(readings.sys, "platform", "win32")
    monkeypatch.setattr(psutil, "swap_memory", refuse)
    assert take_quick_sample(CPU).ram_gib > 0
    reading = read_memory(CPU)
    assert (reading.host.swap_used_gib, reading.host.swap_total_gib) == (None, None)
    assert reading.missing[-1] == "Swap is not read: Windows' performance counters are switched off."
    assert "Swap:" not in report(reading)
    assert "swap" not in comparison(reading, reading, "before")


def test_a_reading_takes_less_than_a_fifth_of_a_millisecond():
    read_memory(CPU)
    started = time.process_time()
    for _ in range(500):
        read_memory(CPU)
    assert (time.process_time() - started) / 500 < 0.2e-3


def test_json_carries_everything(card):
    held = ComfyMemory((HeldModel("SDXL", "cuda:0", 4.8, 4.8, 1.5),), dynamic_vram_gib=1.5, pinned_host_gib=0.5)
    data = json.loads(read_memory(CUDA, held).to_json())
    assert data["torch"]["peak_allocated_gib"] == 5
    assert data["graphs"] == {"own_gib": 0.0, "captured_gib": 3.0}
    assert data["comfyui"] == {
        "models": [{"name": "SDXL", "device": "cuda:0", "size_gib": 4.8, "resident_gib": 4.8, "outside_torch_gib": 1.5}],
        "dynamic_vram_gib": 1.5,
        "pinned_host_gib": 0.5,
    }


def test_report_in_words(card):
    held = ComfyMemory((HeldModel("SDXL", "cuda:0", 4.8, 3.2),), dynamic_vram_gib=1.5, pinned_host_gib=0.5)
    reading = dataclasses.replace(
        read_memory(CUDA, held),
        host=readings.HostMemory(1.25, ram_used_gib=10, ram_total_gib=32, swap_used_gib=1, swap_total_gib=8),
    )
    assert report(reading, "after decode").splitlines() == [
        "after decode",
        "Card",
        "torch: 3.0 GiB active, 4.0 GiB reserved",
        "Peak since reset: 5.0 GiB allocated, 7.0 GiB reserved",
        "Allocation retries: 1, out of memory: 2",
        "Driver: 14.0 of 24.0 GiB in use",
        "Other processes: 8.0 GiB",
        "CUDA graphs: 0.0 GiB in torch (this pack's), 3.0 GiB allocated in captures",
        "DynamicVRAM: 1.5 GiB of weights outside torch",
        "Model SDXL: 3.2 of 4.8 GiB on cuda:0",
        "This process: 1.2 GiB of RAM",
        "Pinned for transfers: 0.5 GiB of RAM",
        "RAM: 10.0 of 32.0 GiB in use",
        "Swap: 1.0 of 8.0 GiB in use",
    ]


def test_comparison_says_what_grew(card):
    before = read_memory(CUDA, ComfyMemory((HeldModel("CLIP", "cpu", 1, 1),)))
    card.stats["active_bytes"] = pool(5, 6)
    holder = Holder()
    graph_pools.count_own(holder, CUDA, GIB)
    after = dataclasses.replace(read_memory(CUDA, ComfyMemory((HeldModel("SDXL", "cuda:0", 4, 4),))), host=before.host)
    assert (
        comparison(before, after, "start")
        == "Since 'start' (GiB): torch active +2.0, CUDA graphs +1.0, model SDXL came, model CLIP left"
    )
    assert comparison(after, after, "end") == "Since 'end' (GiB): no change"


def test_snapshots_are_named_and_bounded(monkeypatch):
    monkeypatch.setattr(snapshots, "_snapshots", type(snapshots._snapshots)())
    reading = read_memory(CPU)
    for i in range(70):
        snapshots.keep(f"s{i}", reading)
    assert snapshots.recall("s69") is reading
    with pytest.raises(BadInputError, match=r"compare_with is 's5', but no probe has taken that snapshot \(taken: 's6', "):
        snapshots.recall("s5")


def test_reset_starts_the_peak_anew(card):
    readings.reset_peak(CUDA)
    readings.reset_peak(CPU)
    assert card.reset_calls == 1


def test_profile_measures_a_block_and_every_call(card):
    with profile("block", CUDA) as measured:
        card.stats["allocated_bytes"] = pool(2, 9)
    assert (measured.name, measured.peak_growth_gib, card.reset_calls) == ("block", 7, 1)
    assert measured.seconds > 0

    @profile("calls", CUDA, reset=False)
    def work():
        return 5

    assert (work(), work()) == (5, 5)
    assert card.reset_calls == 1


def test_profile_ends_with_an_exception():
    with pytest.raises(KeyError), profile("fails", CPU) as measured:
        raise KeyError
    assert measured.after is not None
    assert measured.peak_growth_gib is None
