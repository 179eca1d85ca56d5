"""Many prompts from eight API clients at once, cancels and reloads of the page meanwhile, and many small prompts one after another.

A few in every check. The figures of docs/robustness.md:
FAST_SPRITES_LOAD=500 FAST_SPRITES_SOAK=1000 python -m pytest tests/server/test_load.py -s
"""

import asyncio
import json
import os
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import psutil
import pytest
from fast_sprites.nodes.benchmark.server import ComfyServer
from numpy.typing import NDArray
from PIL import Image

from .conftest import Comfy, png_texts
from .load_clients import NUM_CLIENTS, SIDE, Job, Load, batch, mixed, probe, stock_sampler, wrong
from .load_resources import excess, settled, told_resources

NUM_PROMPTS = int(os.environ.get("FAST_SPRITES_LOAD", "40"))
NUM_SMALL_PROMPTS = int(os.environ.get("FAST_SPRITES_SOAK", "20"))

# Two cores are shared with the drawing thread, and the event loop also builds ComfyUI's own answers.
MAX_MEDIAN_ROUTE_S = 0.25
MAX_ROUTE_S = 5.0


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
    took_s = asyncio.run(asyncio.wait_for(load.run(jobs), timeout=300 + 15 * NUM_PROMPTS))
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
@pytest.mark.parametrize("history", ["kept", "cleared"])
@pytest.mark.usefixtures("warm", "goes_on")
def test_a_soak_of_small_prompts(comfy: Comfy, server: ComfyServer, history: str):
    """One sprite of one step each, in ten parts; memory, handles and threads are looked at after each, ComfyUI's history cleared or not."""
    before = settled(server)
    log_before = len(server.log_text())
    jobs = [batch(comfy, f"soak_{history}{number:05}", number, count=1, steps=1) for number in range(NUM_SMALL_PROMPTS)]
    parts = [jobs[NUM_SMALL_PROMPTS * i // 10 : NUM_SMALL_PROMPTS * (i + 1) // 10] for i in range(10)]
    process = psutil.Process(server.pid)
    rss_mib, took_s = [], []
    for part in parts:
        load = Load(server.address)
        took_s.append(asyncio.run(load.run(part, num_pages=0)))
        if history == "cleared":
            asyncio.run(load.clear_history())
        rss_mib.append(process.memory_info().rss / 2**20)
    for job in jobs:
        assert job.end == "done", (job.name, job.end, job.entry)
        assert_right_files(job, server.setup.base_directory / "output")
    assert_quiet(server.log_text()[log_before:], jobs)
    after = settled(server, before)
    assert excess(before, after) == []
    print(f"\n{NUM_SMALL_PROMPTS} small prompts, history {history}, in {sum(took_s):.1f} s: {told([job.run_s for job in jobs])}")
    print(f"seconds of each tenth: {[round(value, 1) for value in took_s]}")
    print(f"RSS after each tenth, results still cached: {[round(value, 1) for value in rss_mib]} MiB")
    print(told_resources(before, after))
