"""What the timeline does when NVML breaks, a device disappears, and there are two of them."""

import logging
import types

import torch
from fast_sprites.nodes.engine.memory import nvml, readings
from fast_sprites.nodes.engine.memory.readings import GIB
from fast_sprites.nodes.engine.memory.samples import take_quick_sample, take_sample

from .made_up_card import CUDA, UUID, pool


def test_nvml_that_stops_answering_leaves_cudas_figures(card, caplog):
    def lost(handle, version=None):
        raise card.module.NVMLError("GPU is lost")

    assert take_sample(CUDA).driver_gib == 14
    card.module.nvmlDeviceGetMemoryInfo = lost
    with caplog.at_level(logging.DEBUG):
        seen = take_sample(CUDA)
    assert (seen.driver_gib, seen.active_gib, seen.problem) == (18, 3, "")
    assert caplog.records == []


def test_a_device_may_vanish_and_come_back(card, monkeypatch):
    def lost(_index):
        raise RuntimeError("CUDA error: unknown error\nsecond line")

    nvml._open.cache_clear()
    card.nvml_error = card.module.NVMLError("driver not loaded")
    answers = torch.cuda.mem_get_info
    monkeypatch.setattr(torch.cuda, "mem_get_info", lost)
    gone = take_sample(CUDA)
    assert (gone.problem, gone.active_gib, gone.driver_gib) == ("CUDA error: unknown error", None, None)
    assert gone.process_gib > 0
    monkeypatch.setattr(torch.cuda, "mem_get_info", answers)
    assert (take_sample(CUDA).problem, take_sample(CUDA).driver_gib) == ("", 18)


def test_ten_thousand_readings_ask_a_broken_nvml_once(card, caplog):
    asked = []
    card.module.nvmlInit = lambda: asked.append(1) or card._init()
    card.nvml_error = card.module.NVMLError("library not found")
    nvml._open.cache_clear()
    with caplog.at_level(logging.DEBUG):
        for _ in range(10_000):
            take_quick_sample(CUDA)
        for _ in range(100):
            assert take_sample(CUDA).driver_gib == 18
    assert len(asked) == 1
    assert caplog.records == []


def test_a_second_gpu_is_read_by_its_own_number_and_uuid(card, monkeypatch):
    second = {"active_bytes": pool(11, 12), "reserved_bytes": pool(13, 14)}
    monkeypatch.setattr(torch.cuda, "memory_stats_as_nested_dict", [card.stats, second].__getitem__)
    cards = [types.SimpleNamespace(name=f"Card {i}", is_integrated=False, uuid=uuid) for i, uuid in enumerate((UUID, "9z"))]
    monkeypatch.setattr(torch.cuda, "get_device_properties", cards.__getitem__)
    used = {1: 14, 2: 40}
    card.module.nvmlDeviceGetHandleByUUID = {f"GPU-{UUID}": 1, "GPU-9z": 2}.__getitem__
    card.module.nvmlDeviceGetMemoryInfo = lambda handle, version: types.SimpleNamespace(used=used[handle] * GIB, total=80 * GIB)
    readings._cuda_properties.cache_clear()
    nvml._open.cache_clear()
    first, other = (take_sample(torch.device("cuda", index)) for index in (0, 1))
    assert (first.active_gib, first.reserved_gib, first.driver_gib) == (3, 4, 14)
    assert (other.active_gib, other.reserved_gib, other.driver_gib) == (11, 13, 40)
    assert (first.graphs_gib, other.graphs_gib) == (3, 0)
    assert take_quick_sample(torch.device("cuda", 1)).active_gib == 11
