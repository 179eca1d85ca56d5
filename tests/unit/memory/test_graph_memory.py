"""What CUDA graphs hold: this pack's by its own count, and what captures took, from a made-up driver."""

import types

import pytest
import torch
from fast_sprites.nodes.engine.memory import graph_pools, readings
from fast_sprites.nodes.engine.memory.readings import GIB, read_memory

from .made_up_card import CPU, CUDA, Holder


def test_graphs_of_the_pack_count_while_they_live(card):
    first, second = Holder(), Holder()
    graph_pools.count_own(first, CUDA, 1 * GIB)
    graph_pools.count_own(second, torch.device("cuda", 1), 4 * GIB)
    assert read_memory(CUDA).graphs == readings.GraphMemory(own_gib=1, captured_gib=3)
    graph_pools.count_own(first, CUDA, 2 * GIB)  # another shape
    assert readings.own_graphs_gib(CUDA) == 2
    assert read_memory(CPU).graphs == readings.GraphMemory(own_gib=0, captured_gib=0)
    del first
    assert (readings.own_graphs_gib(CUDA), readings.own_graphs_gib(torch.device("cuda", 1))) == (0, 4)
    del second
    assert graph_pools._own == {}


def test_private_pools_of_torchs_allocator_are_counted_only_when_asked_for(card):
    card.allocator = "native"
    assert read_memory(CUDA).graphs.captured_gib is None
    assert read_memory(CUDA, private_pools=True).graphs.captured_gib == 2
    assert read_memory(torch.device("cuda", 0), private_pools=True).driver == read_memory(CUDA).driver


class Driver:
    """libcuda with two cards, the second of which is handle 7."""

    def __init__(self, status=0):
        self.status = status
        self.trimmed = []

    def cuDeviceGet(self, handle, index):  # noqa: N802 - the driver's name
        handle._obj.value = {0: 0, 1: 7}[index]
        return 0

    def cuDeviceGetGraphMemAttribute(self, card, attribute, value):  # noqa: N802
        assert attribute == 2
        value._obj.value = {0: 5 * GIB, 7: 6 * GIB}[card]
        return self.status

    def cuDeviceGraphMemTrim(self, card):  # noqa: N802
        self.trimmed.append(card)


@pytest.fixture
def libcuda(monkeypatch):
    """Sets what the driver is; an OSError is none."""

    def use(driver):
        def load(name):
            assert name in ("libcuda.so.1", "nvcuda.dll")
            if isinstance(driver, Exception):
                raise driver
            return driver

        monkeypatch.setattr(graph_pools.ctypes, "CDLL", load)
        graph_pools._driver.cache_clear()

    yield use
    graph_pools._driver.cache_clear()


def test_the_driver_says_what_captures_took(libcuda, monkeypatch):
    libcuda(Driver())
    assert (graph_pools.captured_bytes(0), graph_pools.captured_bytes(1)) == (5 * GIB, 6 * GIB)
    libcuda(Driver(status=201))  # CUDA_ERROR_INVALID_CONTEXT
    assert graph_pools.captured_bytes(0) is None
    for absent in (OSError("no such library"), types.SimpleNamespace()):  # a driver before CUDA 11.4 lacks the function
        libcuda(absent)
        assert graph_pools.captured_bytes(0) is None
    libcuda(Driver())
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert graph_pools.captured_bytes(0) is None


def test_what_captures_took_is_given_back_once_the_device_is_idle(libcuda, monkeypatch):
    waited, driver = [], Driver()
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    libcuda(driver)
    graph_pools.give_back_captured(1)
    assert (waited, driver.trimmed) == ([1], [7])
    libcuda(OSError("no such library"))
    graph_pools.give_back_captured(0)
    assert waited == [1]
