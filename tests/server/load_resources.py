"""What a server's process holds, before and after a load, and the bounds of its growth, for test_load.py."""

import asyncio
import time
from dataclasses import dataclass

import aiohttp
import psutil
from fast_sprites.nodes.benchmark.server import ComfyServer

from .conftest import TIMEOUT_S

MAX_GROWTH_MIB = 64.0
MAX_MORE_THREADS = 2  # asyncio's pool, which grows up to its limit with the files that were served
MAX_MORE_HANDLES = 4  # connections that the kernel has not taken back yet


@dataclass(frozen=True)
class Resources:
    """What the server's process holds."""

    rss_mib: float
    num_handles: int
    num_threads: int


def settled(server: ComfyServer, before: Resources | None = None) -> Resources:
    """What the server holds once its models and cached results are dropped, waiting until it is within the bounds of `before`."""

    async def free() -> None:
        async with aiohttp.ClientSession(server.address) as session, session.post("/fast-sprites/free", json={}) as response:
            assert response.status == 200

    process = psutil.Process(server.pid)
    asyncio.run(free())
    deadline = time.monotonic() + (TIMEOUT_S if before else 2.0)
    while True:
        time.sleep(0.5)
        now = Resources(process.memory_info().rss / 2**20, process.num_fds(), process.num_threads())
        if time.monotonic() > deadline or (before is not None and excess(before, now) == []):
            return now


def excess(before: Resources, after: Resources) -> list[str]:
    """What did not come back."""
    found = []
    if after.rss_mib > before.rss_mib + MAX_GROWTH_MIB:
        found.append(f"RSS {before.rss_mib:.0f} -> {after.rss_mib:.0f} MiB")
    if after.num_handles > before.num_handles + MAX_MORE_HANDLES:
        found.append(f"handles {before.num_handles} -> {after.num_handles}")
    if after.num_threads > before.num_threads + MAX_MORE_THREADS:
        found.append(f"threads {before.num_threads} -> {after.num_threads}")
    return found


def told_resources(before: Resources, after: Resources) -> str:
    return (
        f"RSS {before.rss_mib:.0f} -> {after.rss_mib:.0f} MiB, handles {before.num_handles} -> {after.num_handles}, "
        f"threads {before.num_threads} -> {after.num_threads}"
    )
