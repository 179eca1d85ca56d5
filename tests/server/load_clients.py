"""Prompts of several kinds, API clients that queue and cancel them, and pages that load meanwhile, for test_load.py."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from .conftest import TIMEOUT_S, Comfy

NUM_CLIENTS = 8
NUM_PAGES = 2
SIDE = 64
# The last one is repeated, as the sidebar does it.
PAGE_ROUTES = ("history?since=0&rate_hz=10", "readings", "table", "spans?runs=5", "history?since=1&rate_hz=10")
STAY_S = 1.0


@dataclass
class Job:
    """One prompt of the load: how it should end, and what came of it."""

    name: str
    kind: str
    prompt: dict[str, Any]
    seeds: tuple[int, ...] = ()
    """One for each file that it has to write."""
    says: str = ""
    """A part of the one sentence that a wrong prompt gets."""
    cancel: str = ""
    """"delete" from the queue, "interrupt" while it runs, or neither."""
    prompt_id: str = ""
    refusal: tuple[str, ...] = ()
    entry: dict[str, Any] | None = None
    """ComfyUI's history of it; None if it was deleted in time or refused."""

    @property
    def end(self) -> str:
        """How it ended."""
        if self.refusal:
            return "refused"
        if self.entry is None:
            return "deleted"
        if self.entry["status"]["completed"]:
            return "done"
        return {"execution_error": "failed", "execution_interrupted": "interrupted"}[self.entry["status"]["messages"][-1][0]]

    @property
    def run_s(self) -> float:
        """Seconds from the prompt's start to its end, by the server's clock."""
        assert self.entry is not None
        messages = self.entry["status"]["messages"]
        return (messages[-1][1]["timestamp"] - messages[0][1]["timestamp"]) / 1000


def stock_sampler(comfy: Comfy, name: str, seed: int) -> Job:
    prompt = comfy.sprites()
    del prompt["sample"]
    prompt["model"]["inputs"]["engine"] = "eager"
    prompt["latent"] = comfy.node("EmptyLatentImage", width=SIDE, height=SIDE)
    links = {"model": ["model", 0], "positive": ["positive", 0], "negative": ["negative", 0], "latent_image": ["latent", 0]}
    prompt["sample"] = comfy.node("KSampler", **links, seed=seed, steps=2, cfg=4.0)
    prompt["decode"]["inputs"]["samples"] = ["sample", 0]
    prompt["save"]["inputs"]["filename_prefix"] = f"load/{name}"
    return Job(name, "KSampler", prompt, seeds=(seed,))


def batch(comfy: Comfy, name: str, seed: int, count: int = 2, **settings: Any) -> Job:
    prompt = comfy.sprites(seed=seed, count=count, draw="while saving", micro_batch=1, **settings)
    prompt["model"]["inputs"]["engine"] = "eager"
    del prompt["decode"]
    files = {"filename": f"load/{name}_%seed%_%index%", "seeds": ["sample", 1]}
    prompt["save"] = comfy.node("SaveSprites", sprites=["sample", 3], vae=["vae", 0], **files)
    return Job(name, "BatchSpriteSampler", prompt, seeds=tuple(seed + i for i in range(count)))


def probe(comfy: Comfy, name: str, seed: int) -> Job:
    prompt = {
        "latent": comfy.node("EmptyLatentImage", width=SIDE, height=SIDE, batch_size=1 + seed % 64),
        "probe": comfy.node("MemoryProbe", value=["latent", 0], label=name),
    }
    return Job(name, "MemoryProbe", prompt)


def wrong(comfy: Comfy, name: str, seed: int) -> Job:
    """Refused when it is queued, or by our node when it runs."""
    changes, says = (
        ({"count": 0}, "count"),
        ({"seed_mode": "list", "seed_list": "1, two"}, "two"),
        ({"width": 100}, "width is 100 pixels"),
        ({"sampler_name": "nonsense"}, "nonsense"),
    )[seed % 4]
    job = batch(comfy, name, seed)
    job.prompt["sample"]["inputs"] |= changes
    job.kind, job.says, job.seeds = "wrong", says, ()
    return job


def mixed(comfy: Comfy, number: int) -> Job:
    """Every tenth prompt is wrong, every tenth is to be deleted, every tenth to be interrupted."""
    name, seed = f"{number:05}", 1000 + 10 * number
    match number % 10:
        case 0 | 3 | 6:
            return stock_sampler(comfy, name, seed)
        case 1 | 4:
            return batch(comfy, name, seed)
        case 2 | 5:
            return probe(comfy, name, seed)
        case 7:
            return wrong(comfy, name, number // 10)
        case 8:
            job = stock_sampler(comfy, name, seed)
            job.cancel = "delete"
        case _:
            job = batch(comfy, name, seed, count=6, steps=20)
            job.cancel = "interrupt"
    return job


@dataclass
class Load:
    """Clients, pages, and what they measured."""

    address: str
    route_s: dict[str, list[float]] = field(default_factory=dict)
    num_reloads: int = 0

    @asynccontextmanager
    async def session(self) -> AsyncIterator[aiohttp.ClientSession]:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with aiohttp.ClientSession(self.address, timeout=timeout) as session:
            yield session

    async def client(self, name: str, jobs: Sequence[Job]) -> None:
        """Queue all jobs at once, delete some, interrupt others as soon as they run, and stay until cancelled."""
        by_id: dict[str, Job] = {}
        async with self.session() as session, session.ws_connect(f"/ws?clientId={name}", max_msg_size=0) as socket:
            for job in jobs:
                async with session.post("/prompt", json={"prompt": job.prompt, "client_id": name}) as response:
                    answer = await response.json()
                if response.status != 200:
                    nodes = answer["node_errors"].values()
                    job.refusal = tuple(f"{error['message']}: {error['details']}" for node in nodes for error in node["errors"])
                    continue
                job.prompt_id = answer["prompt_id"]
                by_id[job.prompt_id] = job
            doomed = [job.prompt_id for job in jobs if job.prompt_id and job.cancel == "delete"]
            async with session.post("/queue", json={"delete": doomed}) as response:
                assert response.status == 200
            async for message in socket:
                if message.type is not aiohttp.WSMsgType.TEXT:
                    continue  # previews
                event = json.loads(message.data)
                job = by_id.get(event["data"].get("prompt_id", ""))
                if job is not None and event["type"] == "progress" and job.cancel == "interrupt":
                    async with session.post("/interrupt", json={"prompt_id": job.prompt_id}) as response:
                        assert response.status == 200

    async def page(self, name: str) -> None:
        """Load the page again and again: its WebSocket, ComfyUI's requests and the sidebar's; leave without a goodbye."""
        while True:
            async with self.session() as session:
                await session.ws_connect(f"/ws?clientId={name}", max_msg_size=0)
                for path in ("/api/object_info", "/api/queue", "/api/jobs?status=completed&limit=1"):
                    async with session.get(path) as response:
                        assert response.status == 200
                        await response.read()
                for path in PAGE_ROUTES:
                    await self.time_route(session, path)
                await asyncio.sleep(STAY_S)
                await self.time_route(session, PAGE_ROUTES[-1])
            self.num_reloads += 1

    async def time_route(self, session: aiohttp.ClientSession, path: str) -> None:
        begin = time.perf_counter()
        async with session.get(f"/fast-sprites/{path}") as response:
            assert response.status == 200, await response.text()
            await response.json()
        self.route_s.setdefault(path.partition("?")[0], []).append(time.perf_counter() - begin)

    async def until_idle(self, session: aiohttp.ClientSession, jobs: Sequence[Job]) -> None:
        while True:
            async with session.get("/prompt") as response:
                remaining = (await response.json())["exec_info"]["queue_remaining"]
            if remaining == 0 and all(job.prompt_id or job.refusal for job in jobs):
                return
            await asyncio.sleep(0.1)

    async def clear_history(self) -> None:
        async with self.session() as session, session.post("/history", json={"clear": True}) as response:
            assert response.status == 200

    async def run(self, jobs: Sequence[Job], *, num_clients: int = NUM_CLIENTS, num_pages: int = NUM_PAGES) -> float:
        """Send all jobs, wait for the last, fill in what came of them, and return the seconds that it took."""
        begin = time.perf_counter()
        async with self.session() as session:
            others = [asyncio.create_task(self.client(f"client{i}", jobs[i::num_clients])) for i in range(num_clients)]
            others += [asyncio.create_task(self.page(f"page{i}")) for i in range(num_pages)]
            idle = asyncio.create_task(self.until_idle(session, jobs))
            await asyncio.wait([*others, idle], return_when=asyncio.FIRST_COMPLETED)
            took_s = time.perf_counter() - begin
            early = [other for other in others if other.done()]  # clients and pages stay until they are told to go
            for task in (*others, idle):
                if not task.done():
                    task.cancel()
            await asyncio.gather(*others, idle, return_exceptions=True)
            for other in early:
                other.result()
            assert not early, "the server closed a WebSocket"
            for job in jobs:
                if job.prompt_id:
                    async with session.get(f"/history/{job.prompt_id}") as response:
                        job.entry = (await response.json()).get(job.prompt_id)
        return took_s
