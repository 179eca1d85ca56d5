"""Many prompts from eight API clients at once, cancels and reloads of the page meanwhile, and many small prompts one after another.

A few in every check. The figures of docs/robustness.md:
FAST_SPRITES_LOAD=500 FAST_SPRITES_SOAK=1000 python -m pytest tests/server/test_load.py -s
"""

import asyncio
import json
import os
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import psutil
import pytest
from fast_sprites.nodes.benchmark.server import ComfyServer
from numpy.typing import NDArray
from PIL import Image

from .conftest import Comfy, png_texts

NUM_PROMPTS = int(os.environ.get("FAST_SPRITES_LOAD", "40"))
NUM_SMALL_PROMPTS = int(os.environ.get("FAST_SPRITES_SOAK", "20"))
NUM_CLIENTS = 8
NUM_PAGES = 2
SIDE = 64
# The last one is repeated, as the sidebar does it.
PAGE_ROUTES = ("history?since=0&rate_hz=10", "readings", "table", "spans?runs=5", "history?since=1&rate_hz=10")
STAY_S = 1.0

# Bounds. Two cores are shared with the drawing thread, and the event loop also builds ComfyUI's own answers.
MAX_MEDIAN_ROUTE_S = 0.25
MAX_ROUTE_S = 5.0
MAX_GROWTH_MIB = 64.0
MAX_MORE_THREADS = 2  # asyncio's pool, which grows up to its limit with the files that were served
MAX_MORE_HANDLES = 4  # connections that the kernel has not taken back yet
SETTLE_TIMEOUT_S = 20.0


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
        timeout = aiohttp.ClientTimeout(total=120)
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
    deadline = time.monotonic() + (SETTLE_TIMEOUT_S if before else 2.0)
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


def sentence_of(job: Job) -> str:
    """The one sentence that a wrong prompt got."""
    if job.end == "refused":
        (sentence,) = job.refusal
        return sentence
    assert job.end == "failed", (job.name, job.end)
    assert job.entry is not None
    _, error = job.entry["status"]["messages"][-1]
    assert (error["node_id"], error["exception_type"].rpartition(".")[2]) == ("sample", "BadInputError")
    message: str = error["exception_message"].strip()
    return message


def assert_right_files(job: Job, output: Path) -> None:
    """Its files are whole pictures of its seeds, no more and no fewer; of an interrupted one, the first."""
    files = sorted((output / "load").glob(f"{job.name}_*"))
    if job.end != "done":
        assert len(files) < len(job.seeds) or not files, (job.name, job.end, files)
        assert not files or job.cancel == "interrupt", (job.name, job.end, files)
    else:
        assert job.entry is not None
        told = [image for shown in job.entry["outputs"].values() for image in shown.get("images", ())]
        assert [output / image["subfolder"] / image["filename"] for image in told] == files
        assert len(files) == len(job.seeds)
    for file, seed in zip(files, job.seeds, strict=False):
        with Image.open(file) as picture:
            picture.load()
            assert picture.size == (SIDE, SIDE)
        texts = png_texts(file.read_bytes())
        drawn = texts["fast_sprites"]["seed"] if "fast_sprites" in texts else texts["prompt"]["sample"]["inputs"]["seed"]
        assert drawn == seed, file


def assert_quiet(log: str, jobs: Iterable[Job]) -> None:
    """ComfyUI prints a traceback for each prompt that fails while it runs; there is no other, and no error in its event loop."""
    assert log.count("Traceback (most recent call last)") == sum(job.end == "failed" for job in jobs), log[-4000:]
    for word in ("Error handling request", "Task exception was never retrieved", "Unclosed", "Exception ignored"):
        assert word not in log


def pixels(file: Path) -> NDArray[np.int16]:
    with Image.open(file) as picture:
        return np.asarray(picture).astype(np.int16)


def p95(values: Sequence[float]) -> float:
    return sorted(values)[int(0.95 * (len(values) - 1))]


def told(values: Sequence[float]) -> str:
    return f"median {1000 * statistics.median(values):.0f}, p95 {1000 * p95(values):.0f}, max {1000 * max(values):.0f} ms"


def told_resources(before: Resources, after: Resources) -> str:
    return (
        f"RSS {before.rss_mib:.0f} -> {after.rss_mib:.0f} MiB, handles {before.num_handles} -> {after.num_handles}, "
        f"threads {before.num_threads} -> {after.num_threads}"
    )


@pytest.fixture(scope="module")
def warm(comfy: Comfy) -> None:
    """One prompt of each kind, with a page open, so that lazy imports and pools are not taken for growth."""
    jobs = [build(comfy, f"warm{i}", 5) for i, build in enumerate((stock_sampler, batch, probe, wrong))]
    asyncio.run(Load(comfy.server.address).run(jobs))


def redrawn(comfy: Comfy, jobs: Sequence[Job], output: Path) -> None:
    """Prompts of the load, run again alone with their results forgotten, give the same pictures."""
    for job in jobs:
        before = [pixels(file) for file in sorted((output / "load").glob(f"{job.name}_*"))]
        again = Job(f"again{job.name}", job.kind, json.loads(json.dumps(job.prompt).replace("load/", "load/again")), job.seeds)
        asyncio.run(Load(comfy.server.address).run([again], num_clients=1, num_pages=0))
        after = [pixels(file) for file in sorted((output / "load").glob(f"{again.name}_*"))]
        assert len(before) == len(after) > 0
        for one, other in zip(before, after, strict=True):
            assert np.abs(one - other).max() <= 1, job.name


@pytest.mark.slow
@pytest.mark.usefixtures("warm", "goes_on")
def test_a_queue_of_eight_clients(comfy: Comfy, server: ComfyServer):
    before = settled(server)
    log_before = len(server.log_text())
    jobs = [mixed(comfy, number) for number in range(NUM_PROMPTS)]
    load = Load(server.address)
    took_s = asyncio.run(asyncio.wait_for(load.run(jobs), timeout=60 + 5 * NUM_PROMPTS))
    output = server.setup.base_directory / "output"
    for job in jobs:
        if job.kind == "wrong":
            sentence = sentence_of(job)
            assert job.says in sentence
            assert "\n" not in sentence
            assert len(sentence) < 300
        else:
            allowed = {"delete": {"done", "deleted"}, "interrupt": {"done", "interrupted"}, "": {"done"}}[job.cancel]
            assert job.end in allowed, (job.name, job.kind, job.cancel, job.end, job.entry)
        assert_right_files(job, output)
    ends = Counter(job.end for job in jobs)
    assert ends["deleted"] > 0
    assert ends["interrupted"] > 0
    assert not [path for path in (output / "load").rglob("*") if path.is_file() and path.suffix != ".png"]
    assert_quiet(server.log_text()[log_before:], jobs)
    after = settled(server, before)
    assert excess(before, after) == []
    redrawn(comfy, [job for job in jobs if job.end == "done" and job.seeds][-2:], output)

    print(f"\n{NUM_PROMPTS} prompts from {NUM_CLIENTS} clients in {took_s:.1f} s, {load.num_reloads} page loads; {dict(ends)}")
    for kind in ("KSampler", "BatchSpriteSampler", "MemoryProbe"):
        print(f"{kind}: {told([job.run_s for job in jobs if job.kind == kind and job.end == 'done'])}")
    for route, taken in load.route_s.items():
        print(f"/fast-sprites/{route}: {len(taken)} requests, {told(taken)}")
    print(told_resources(before, after))
    for route, taken in load.route_s.items():
        assert statistics.median(taken) < MAX_MEDIAN_ROUTE_S, (route, told(taken))
        assert max(taken) < MAX_ROUTE_S, (route, told(taken))


@pytest.mark.slow
@pytest.mark.usefixtures("warm", "goes_on")
def test_a_soak_of_small_prompts(comfy: Comfy, server: ComfyServer):
    """One sprite of one step each, in ten parts; memory, handles and threads are looked at after each."""
    before = settled(server)
    log_before = len(server.log_text())
    jobs = [batch(comfy, f"soak{number:05}", number, count=1, steps=1) for number in range(NUM_SMALL_PROMPTS)]
    parts = [jobs[NUM_SMALL_PROMPTS * i // 10 : NUM_SMALL_PROMPTS * (i + 1) // 10] for i in range(10)]
    process = psutil.Process(server.pid)
    rss_mib, took_s = [], []
    for part in parts:
        took_s.append(asyncio.run(Load(server.address).run(part, num_pages=0)))
        rss_mib.append(process.memory_info().rss / 2**20)
    for job in jobs:
        assert job.end == "done", (job.name, job.end, job.entry)
        assert_right_files(job, server.setup.base_directory / "output")
    assert_quiet(server.log_text()[log_before:], jobs)
    after = settled(server, before)
    assert excess(before, after) == []
    print(f"\n{NUM_SMALL_PROMPTS} small prompts in {sum(took_s):.1f} s: {told([job.run_s for job in jobs])}")
    print(f"seconds of each tenth: {[round(value, 1) for value in took_s]}")
    print(f"RSS after each tenth, results still cached: {[round(value) for value in rss_mib]} MiB")
    print(told_resources(before, after))
