import logging
import threading
import time

import pytest
from fast_sprites.nodes.engine.memory import sampler as sampler_module
from fast_sprites.nodes.engine.memory.sampler import CONNECT_S, WATCH_S, Sampler
from fast_sprites.nodes.engine.memory.samples import Sample, now_s
from fast_sprites.nodes.engine.memory.timeline import Timeline

THREAD = "fast-sprites-memory"


class World:
    """A sampler with tabs and a server that a test opens and closes."""

    def __init__(self) -> None:
        self.tabs = 1
        self.server_is_there = True
        self.problem = ""
        self.sent: list[tuple[int, int]] = []
        self.timeline = Timeline()
        self.sampler = Sampler(self.timeline, self.take, self.publish, lambda: self.tabs)

    def take(self) -> Sample:
        return Sample(now_s(), None, None, None, None, None, 8, 1, problem=self.problem)

    def publish(self, seq: int, changes: int) -> bool:
        self.sent.append((seq, changes))
        return self.server_is_there

    def wait_for_end(self) -> None:
        deadline = time.monotonic() + 30
        while self.sampler.is_running:
            assert time.monotonic() < deadline
            time.sleep(0.005)


@pytest.fixture
def world(monkeypatch):
    world = World()
    yield world
    world.sampler.stop()
    assert THREAD not in [thread.name for thread in threading.enumerate()]


@pytest.fixture
def clock(monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(sampler_module, "now_s", lambda: clock[0])
    return clock


def test_there_is_no_thread_until_somebody_watches(world):
    assert not world.sampler.is_running
    world.sampler.set_busy(True)
    assert not world.sampler.is_running
    world.sampler.watch(10)
    assert world.sampler.is_running
    assert THREAD in [thread.name for thread in threading.enumerate()]


def test_rates(world, clock):
    world.tabs = 1
    assert world.sampler.interval_s() is None
    world.sampler._is_stopped = True  # no thread: only the arithmetic
    world.sampler.watch(4)
    assert world.sampler.interval_s() == 1 / 4
    world.sampler.set_busy(True)
    assert world.sampler.interval_s() == 1 / 20
    world.sampler.watch(10)
    assert world.sampler.interval_s() == 1 / 50
    world.sampler.set_busy(False)
    clock[0] += WATCH_S / 2
    world.sampler.watch(1)
    assert world.sampler.interval_s() == 1 / 10
    clock[0] += WATCH_S / 2 + 1
    assert world.sampler.interval_s() == 1
    clock[0] += WATCH_S
    assert world.sampler.interval_s() is None


def test_the_last_tab_that_closes_ends_it(world, clock):
    world.sampler._is_stopped = True
    world.sampler.watch(4)
    world.tabs = 0
    assert world.sampler.interval_s() == 1 / 4  # a page asks before its WebSocket is open
    clock[0] += CONNECT_S + 1
    assert world.sampler.interval_s() is None


def test_a_run_is_told_to_a_tab_that_connected_late(world, clock):
    world.tabs = 0
    world.sampler.watch(4)
    clock[0] += CONNECT_S + 1
    world.sampler.set_busy(True)
    world.wait_for_end()
    world.tabs = 1
    world.sampler.set_busy(False)
    assert world.sampler.is_running


def test_it_samples_faster_while_a_prompt_runs_and_sends_in_batches(world):
    world.sampler.watch(10)
    world.sampler.set_busy(True)
    deadline = time.monotonic() + 20
    while len(world.sent) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    world.sampler.stop()
    rows = len(world.timeline.rows_since(0, 10_000))
    assert rows > len(world.sent)
    assert world.sent == sorted(world.sent)
    assert world.sent[0] == (0, 0)


def test_a_server_that_is_gone_ends_the_thread(world):
    world.server_is_there = False
    world.sampler.watch(10)
    world.wait_for_end()


def test_a_watcher_brings_it_back(world):
    world.server_is_there = False
    world.sampler.watch(10)
    world.wait_for_end()
    world.server_is_there = True
    world.sampler.watch(10)
    assert world.sampler.is_running


def test_stopping_is_for_good(world):
    world.sampler.watch(10)
    world.sampler.stop()
    world.sampler.watch(10)
    assert not world.sampler.is_running


def test_ten_thousand_readings_of_a_broken_device_say_one_line(world, caplog, monkeypatch):
    monkeypatch.setattr(sampler_module, "MAX_RATE_HZ", 1e9)
    monkeypatch.setattr(sampler_module, "BUSY_FACTOR", 1e9)
    world.problem = "CUDA error: device lost"
    with caplog.at_level(logging.DEBUG, "fast_sprites"):
        world.sampler.watch(10)
        world.sampler.set_busy(True)
        deadline = time.monotonic() + 60
        while world.timeline.position[0] < 10_000:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert [record.getMessage() for record in caplog.records] == [
        "The memory of the device cannot be read: CUDA error: device lost"
    ]
    assert world.timeline.problem == "CUDA error: device lost"
    assert len(world.timeline.rows_since(0, 20_000)) == 7200
