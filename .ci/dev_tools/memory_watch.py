"""Watches how much memory the server takes while it works."""

import asyncio
import contextlib
from types import TracebackType
from typing import Any

import psutil

INTERVAL_S = 0.25


class MemoryWatch:
    """Samples the memory four times a second and keeps the highest reading since `restart`.

    With CUDA this is the memory of the first device that the driver counts as used, by whomever; else the resident memory of
    the server's processes.
    """

    def __init__(self, client: Any, pid: int, with_cuda: bool) -> None:
        """`client` is a ComfyClient, `pid` the server's process."""
        self._client, self._process, self._with_cuda = client, psutil.Process(pid), with_cuda
        self._peak_bytes = 0
        self._task: asyncio.Task[None] | None = None

    @property
    def peak_gib(self) -> float:
        """The highest reading, in GiB."""
        return self._peak_bytes / 2**30

    def restart(self) -> None:
        """Forget the readings so far."""
        self._peak_bytes = 0

    async def _read(self) -> int:
        if self._with_cuda:
            device = (await self._client.system_stats())["devices"][0]
            return device["vram_total"] - device["vram_free"]
        return sum(process.memory_info().rss for process in (self._process, *self._process.children(recursive=True)))

    async def _watch(self) -> None:
        while True:
            with contextlib.suppress(psutil.NoSuchProcess):  # a server that died is noticed by who waits for its events
                self._peak_bytes = max(self._peak_bytes, await self._read())
            await asyncio.sleep(INTERVAL_S)

    async def __aenter__(self) -> "MemoryWatch":
        """Start sampling."""
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop sampling."""
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)  # who waits for the events has a better error to tell
