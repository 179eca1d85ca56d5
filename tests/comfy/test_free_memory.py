"""Asking ComfyUI's prompt worker to free memory, whatever it does at that moment."""

import asyncio
import time
import types
from collections.abc import Callable
from typing import Any

import pytest

BOTH = {"unload_models": True, "free_memory": True}
WAIT_S = 60.0


class Worker:
    """The queue of a ComfyUI and what its prompt worker does with it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        from execution import PromptQueue

        self.prompt_queue = PromptQueue(types.SimpleNamespace(queue_updated=lambda: None))
        self.loop = self
        self.calls: list[asyncio.TimerHandle] = []
        self._loop = loop

    def call_later(self, delay_s: float, callback: Callable[..., None], *arguments: Any) -> None:
        """Schedule a call, of which `calls` has those that are still to come."""

        def call() -> None:
            self.calls.remove(handle)
            callback(*arguments)

        handle = self._loop.call_later(delay_s, call)
        self.calls.append(handle)

    def look(self) -> dict[str, Any]:
        """Take the flags, as after a prompt and after every wait."""
        return self.prompt_queue.get_flags()

    async def wait(self) -> float:
        """Wait for a prompt, of which there is none, and return for how long."""
        start = time.monotonic()
        assert await asyncio.to_thread(self.prompt_queue.get, timeout=WAIT_S) is None
        return time.monotonic() - start


@pytest.fixture
def routes(comfyui, pack_nodes, monkeypatch):
    from fast_sprites.nodes.comfy_adapters import routes

    monkeypatch.setattr(routes, "_WORKER_CALL", routes._WorkerCall())
    monkeypatch.setattr(routes, "WAKE_INTERVAL_S", 0.1)
    return routes


def test_a_worker_that_waits_takes_both_flags_at_once(routes, monkeypatch):
    async def ask() -> None:
        worker = Worker(asyncio.get_running_loop())
        monkeypatch.setattr(routes, "_server", lambda: worker)
        waiting = asyncio.create_task(worker.wait())
        await asyncio.sleep(0.2)
        routes.request_free(models=True, results=True)
        assert await waiting < WAIT_S / 2
        assert worker.look() == BOTH

    asyncio.run(ask())


@pytest.mark.parametrize("num_requests", [1, 3])
def test_a_worker_that_was_busy_does_not_wait_for_the_next_prompt(routes, monkeypatch, num_requests):
    async def ask() -> None:
        worker = Worker(asyncio.get_running_loop())
        monkeypatch.setattr(routes, "_server", lambda: worker)
        for _ in range(2):  # the second time finds nothing left of the first
            assert worker.look() == {}
            for _ in range(num_requests):  # while the worker collects garbage
                routes.request_free(models=True, results=True)
            assert await worker.wait() < WAIT_S / 2
            assert worker.look() == BOTH
        assert len(worker.calls) == 1  # however many requests
        while worker.calls:
            await asyncio.sleep(routes.WAKE_INTERVAL_S)

    asyncio.run(ask())
