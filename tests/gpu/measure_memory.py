"""Measures what Memory Probe and an open sidebar tab cost a run, and holds readings against nvidia-smi, on a real server.

COMFYUI_PATH=... python tests/gpu/measure_memory.py CHECKPOINT [--steps 20] [--rounds 6] [--budget-s 60] [--server URL] [--json OUT]

Draws the batch of batch_optimized.json in turn without Memory Probe and without a watcher, and with the probe and a client that asks and is
told what an open tab is. Then runs a graph of both samplers point by point: what the probe said there, what the route and nvidia-smi say
right after, and the peaks of each node from the table. With --server CHECKPOINT is the name of a file that this server has.
"""

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp

sys.path.insert(0, str(Path(__file__).resolve().parent))
from comfy_on_gpu import PACK_ROOT, load_pack

load_pack()
from fast_sprites.nodes.benchmark.bench import graphs  # noqa: E402
from fast_sprites.nodes.benchmark.bench.statistics import MIN_RATIOS, paired_ratio  # noqa: E402
from fast_sprites.nodes.benchmark.client import ComfyClient, History, connect  # noqa: E402
from fast_sprites.nodes.benchmark.server import ComfyServer, ServerSetup, known_flags  # noqa: E402

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("checkpoint")
parser.add_argument("--server", help="of one that runs, instead of one of its own")
parser.add_argument("--flags", nargs="*", default=[], help="of its own server, as --flags=--disable-dynamic-vram")
parser.add_argument("--size", type=int, default=1024, help="pixels")
parser.add_argument("--count", type=int, default=8, help="sprites in a run")
parser.add_argument("--steps", type=int, default=20)
parser.add_argument("--rounds", type=int, default=6, help="of one run without and one with")
parser.add_argument("--budget-s", type=float, default=60, help="no round begins later, but for the first four")
parser.add_argument("--json", type=Path)
parser.add_argument("--cpu", action="store_true", help="try the script out without a GPU")
args = parser.parse_args()

MIN_ROUNDS = 4
POINT_STEPS = 4
PROBE = {"label": "", "reset_peak": False, "snapshot": "", "compare_with": ""}


@contextmanager
def server() -> Generator[str, None, None]:
    """Address of the server, which is started with this pack and the checkpoint alone unless one is named."""
    if args.server:
        yield args.server
        return
    comfyui = Path(os.environ["COMFYUI_PATH"]).resolve()
    with tempfile.TemporaryDirectory(prefix="fast-sprites-memory-") as temporary:
        base = Path(temporary)
        for name in ("custom_nodes", "models/checkpoints", "input", "output", "user"):
            (base / name).mkdir(parents=True)
        for pack, name in ((PACK_ROOT, "fast-sprites"), (PACK_ROOT / "tests/tiny_sdxl/comfy_extension", "tiny-sdxl")):
            (base / "custom_nodes" / name).symlink_to(pack, target_is_directory=True)
        (base / "models/checkpoints" / Path(args.checkpoint).name).symlink_to(Path(args.checkpoint).resolve())
        own = ("--disable-api-nodes", "--database-url=sqlite:///:memory:", *(["--cpu"] if args.cpu else []), *args.flags)
        setup = ServerSetup(Path(sys.executable), comfyui, base, base / "server.log", known_flags(comfyui, own))
        with ComfyServer(setup) as running:
            try:
                yield running.address
            finally:
                print("\n".join(line for line in running.log_text().splitlines() if "fast_sprites" in line or "Error" in line))


class Routes:
    """What an open page asks the server for, beside its WebSocket."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def get(self, path: str) -> Any:
        async with self._session.get(path) as response:
            response.raise_for_status()
            return await response.json()

    async def reset_peak(self) -> None:
        async with self._session.post("/fast-sprites/reset", json={}) as response:
            response.raise_for_status()

    async def draw(self, graph: graphs.Graph) -> dict[str, Any]:
        """Draw without a WebSocket, for one alone makes a server sample that was watched within the last 90 s."""
        async with self._session.post("/prompt", json={"prompt": graph, "extra_data": {"preview_method": "none"}}) as response:
            response.raise_for_status()
            prompt_id = (await response.json())["prompt_id"]
        # Not the job, for which ComfyUI copies its whole history each time.
        while (await self.get("/prompt"))["exec_info"]["queue_remaining"]:
            await asyncio.sleep(0.25)
        return await self.get(f"/api/jobs/{prompt_id}")

    async def last_sample(self) -> int:
        rows = (await self.get("/fast-sprites/history?limit=1"))["rows"]
        return rows[-1][0] if rows else 0

    async def wait_until_nobody_watches(self) -> None:
        """The server samples on for a moment after the last tab is closed."""
        for _ in range(50):
            before = await self.last_sample()
            await asyncio.sleep(0.6)  # it takes four samples a second
            if await self.last_sample() == before:
                return
        raise SystemExit("Somebody watches this server's memory: close every page of it.")


@asynccontextmanager
async def open_tab(routes: Routes) -> AsyncGenerator[None, None]:
    """Ask inside the block what web/memory_feed.mjs and memory_sidebar.mjs ask at their default settings."""

    async def every(seconds: float, path: str) -> None:
        while True:
            await routes.get(path)
            await asyncio.sleep(seconds)

    await routes.get("/fast-sprites/history?since=0&rate_hz=4")
    asking = [
        asyncio.create_task(every(20, "/fast-sprites/history?since=1&rate_hz=4")),
        asyncio.create_task(every(5, "/fast-sprites/readings")),
    ]
    try:
        yield
        await routes.get("/fast-sprites/table")
    finally:
        for task in asking:
            task.cancel()
        for task in asking:
            with contextlib.suppress(asyncio.CancelledError):
                await task


def batch_graph(seed: int, *, probed: bool) -> graphs.Graph:
    graph = graphs.read_graph(PACK_ROOT / "workflows/api/batch_optimized.json")
    changes: dict[str, Any] = {
        "CheckpointLoaderSimple": {"ckpt_name": Path(args.checkpoint).name},
        "BatchSpriteSampler": {
            "count": args.count,
            "width": args.size,
            "height": args.size,
            "steps": args.steps,
            "seed": seed,
        },
    }
    graph = graphs.with_inputs(graph, changes)
    for node in graph.values():
        if node["class_type"] == "SaveImage":  # coding PNG files takes a second or two, which differ by a tenth from run to run
            node.update(class_type="PreviewAny", inputs={"source": node["inputs"]["images"]})
    return graph if probed else graphs.without_pass_through(graph, {"MemoryProbe": "value"})


async def draw(address: str, routes: Routes, seed: int, *, watched: bool) -> dict[str, Any]:
    """One run: seconds by the server's clock, and how many samples a second it took meanwhile."""
    graph = batch_graph(seed, probed=watched)
    if watched:
        async with connect(address) as client, open_tab(routes):
            job = await run(client, graph)
    else:
        job = await routes.draw(graph)
    assert job["status"] == "completed", job
    start, end = job["execution_start_time"] / 1000, job["execution_end_time"] / 1000
    rows = (await routes.get("/fast-sprites/history"))["rows"]
    samples = sum(start <= row[1] <= end for row in rows)
    await routes.wait_until_nobody_watches()
    side = "watched" if watched else "alone"
    return {"side": side, "seed": seed, "server_s": end - start, "samples_per_s": round(samples / (end - start), 1)}


async def run(client: ComfyClient, graph: graphs.Graph) -> dict[str, Any]:
    """Draw, and return the server's record of it."""
    prompt_id = await client.queue(graph, extra_data={"preview_method": "none"})
    async for _ in client.follow(prompt_id):
        pass
    return await client.job(prompt_id)


def nvidia_smi_gib() -> float | None:
    program = shutil.which("nvidia-smi")
    if program is None or args.cpu:
        return None
    command = [program, "--id=0", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return float(subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout) / 1024


POINTS: tuple[str, ...] = ("checkpoint loaded", "text encoded", "sampled, stock", "sampled, optimised", "decoded")


def graph_up_to(point: str) -> graphs.Graph:
    """Both samplers and a decode, cut off after `point`, with a probe there.

    What ran for the points before stays in the graph, so that ComfyUI keeps its results and only the rest runs.
    """
    texts = {"positive": "game sprite of a knight", "negative": "blurry"}
    common: dict[str, Any] = {
        "steps": POINT_STEPS,
        "cfg": 8.0,
        "sampler_name": "euler_ancestral",
        "scheduler": "karras",
        "denoise": 1.0,
    }
    sampler = {"seed": 7, "positive": ["positive", 0], "negative": ["negative", 0], "latent_image": ["empty", 0], **common}
    optimise = {
        node["class_type"]: {name: value for name, value in node["inputs"].items() if graphs.as_link(value) is None}
        for node in batch_graph(7, probed=False).values()
        if node["class_type"] in graphs.OPTIMIZERS
    }
    nodes: graphs.Graph = {
        "load": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": Path(args.checkpoint).name}},
        **{name: {"class_type": "CLIPTextEncode", "inputs": {"clip": ["load", 1], "text": text}} for name, text in texts.items()},
        "empty": {
            "class_type": "EmptyLatentImage",
            "inputs": {"width": args.size, "height": args.size, "batch_size": args.count},
        },
        "stock": {"class_type": "KSampler", "inputs": {"model": ["load", 0], **sampler}},
        "model": {"class_type": "OptimizeModel", "inputs": {"model": ["load", 0], **optimise["OptimizeModel"]}},
        "sample": {"class_type": "KSampler", "inputs": {"model": ["model", 0], **sampler}},
        "vae": {"class_type": "OptimizeVAE", "inputs": {"vae": ["load", 2], **optimise["OptimizeVAE"]}},
        "decode": {"class_type": "VAEDecode", "inputs": {"samples": ["sample", 0], "vae": ["vae", 0]}},
    }
    ends = dict(zip(POINTS, ("load", "negative", "stock", "sample", "decode"), strict=True))
    wanted: set[str] = set()
    for name in POINTS[: POINTS.index(point) + 1]:
        wanted |= graphs.upstream(nodes, [ends[name]])
    wanted |= {"positive"} if "negative" in wanted else set()
    graph = {name: node for name, node in nodes.items() if name in wanted}
    for name in POINTS[: POINTS.index(point)]:
        graph[f"kept {name}"] = {"class_type": "PreviewAny", "inputs": {"source": [ends[name], 0]}}
    graph["probe"] = {"class_type": "MemoryProbe", "inputs": {**PROBE, "value": [ends[point], 0]}}
    graph["readings"] = {"class_type": "PreviewAny", "inputs": {"source": ["probe", 2]}}
    return graph


def figures(reading: dict[str, Any]) -> dict[str, Any]:
    """Of a whole reading what the table shows."""
    torch_part, driver = reading["torch"] or {}, reading["driver"] or {}
    return {
        "active_gib": torch_part.get("active_gib"),
        "reserved_gib": torch_part.get("reserved_gib"),
        "driver_gib": driver.get("used_gib"),
        "dynamic_vram_gib": reading["comfyui"]["dynamic_vram_gib"],
        "own_graphs_gib": reading["graphs"]["own_gib"],
        "captured_gib": reading["graphs"]["captured_gib"],
        "process_gib": reading["host"]["process_gib"],
    }


def show(gib: float | None) -> str:
    return "      -" if gib is None else f"{gib:7.3f}"


async def measure_points(address: str, routes: Routes, record: dict[str, Any]) -> None:
    """The six points, and the rows of the node table of the runs that led to them, into the record one by one."""
    async with connect(address) as client:
        await client.free()
        for _ in range(100):
            if not (await routes.get("/fast-sprites/readings"))["comfyui"]["models"]:
                break
            await asyncio.sleep(0.1)
        await routes.reset_peak()
        points, nodes = record["points"], record["nodes"] = [], []
        for point in ("start", *POINTS):
            said: dict[str, Any] | None = None
            if point != "start":
                await routes.reset_peak()
                prompt_id = await client.queue(graph_up_to(point), extra_data={"preview_method": "none"})
                async for _ in client.follow(prompt_id):
                    pass
                history: History = await client.history(prompt_id)
                assert history.succeeded, point
                said = figures(json.loads(history.outputs["readings"]["text"][0]))
                table = await routes.get("/fast-sprites/table")
                nodes += [row for row in table["rows"] if row["class_type"] not in ("PreviewAny", "MemoryProbe")]
            reading = await routes.get("/fast-sprites/readings")
            smi = nvidia_smi_gib()
            row = {"point": point, "probe": said, "route": figures(reading), "nvidia_smi_gib": smi}
            difference = ""
            if smi is not None:
                row["difference_pct"] = round((row["route"]["driver_gib"] / smi - 1) * 100, 3)
                difference = f"  nvidia-smi {show(smi)}  difference {row['difference_pct']:+.2f} %"
            points.append(row)
            save(record)
            at = said or row["route"]
            print(
                f"{point:20} active {show(at['active_gib'])}  reserved {show(at['reserved_gib'])}  driver {show(at['driver_gib'])}  "
                f"DynamicVRAM {show(at['dynamic_vram_gib'])}  graphs {show(at['own_graphs_gib'])} and {show(at['captured_gib'])}  "
                f"process {show(at['process_gib'])} | after: driver {show(row['route']['driver_gib'])}{difference}",
                flush=True,
            )


def print_nodes(rows: list[dict[str, Any]]) -> None:
    print("\npeak and growth of each node, GiB (torch's allocated; RAM of the process)")
    for row in rows:
        peak = "" if row["is_peak_exact"] or row["peak_allocated_gib"] is None else ">="
        print(
            f"{row['class_type']:24} {row['seconds']:8.3f} s  peak {peak:2}{show(row['peak_allocated_gib'])}  "
            f"growth {show(row['allocated_growth_gib'])}  process {show(row['peak_process_gib'])}"
        )


async def measure_slowdown(address: str, routes: Routes, record: dict[str, Any]) -> None:
    """Runs in turn, and how much slower the watched ones were, into the record after each round."""
    seed = time.time_ns() % 10**12  # results of an earlier measurement on the same server are no use
    for watched in (False, True):
        print("warm-up", await draw(address, routes, seed := seed + 100, watched=watched), flush=True)
    runs: list[dict[str, Any]] = []
    end = time.monotonic() + args.budget_s
    for number in range(args.rounds):
        if number >= MIN_ROUNDS and time.monotonic() > end:
            break
        # The side that begins changes, so that a card that grows warmer slows both.
        for watched in (False, True) if number % 2 == 0 else (True, False):
            runs.append(await draw(address, routes, seed := seed + 100, watched=watched))
            print(runs[-1], flush=True)
        record["slowdown"] = slowdown(runs)
        save(record)
    found = record["slowdown"]
    rounds = found["slowdown_of_each_round_pct"]
    print(
        f"\nalone {found['median_alone_s']:.3f} s, with probe and tab {found['median_watched_s']:.3f} s: {found['slowdown_pct']:+.2f} % "
        f"(rounds {min(rounds):+.2f} to {max(rounds):+.2f} %, 99.9 % interval {found['interval_999_pct']} %; "
        f"runs alone differ by {found['spread_alone_pct']:.2f} %)\n",
        flush=True,
    )


def slowdown(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """What the runs so far say."""
    alone, watched_s = ([one["server_s"] for one in runs if one["side"] == side] for side in ("alone", "watched"))
    ratio = paired_ratio(alone, watched_s)
    rounds = [round((b / a - 1) * 100, 2) for a, b in zip(alone, watched_s, strict=True)]
    return {
        "runs": runs,
        "median_alone_s": statistics.median(alone),
        "median_watched_s": statistics.median(watched_s),
        "slowdown_pct": round((statistics.median(watched_s) / statistics.median(alone) - 1) * 100, 2),
        "slowdown_of_each_round_pct": rounds,
        "mean_slowdown_pct": round((ratio.value - 1) * 100, 2),
        "interval_999_pct": None if len(alone) < MIN_RATIOS else [round((edge - 1) * 100, 2) for edge in (ratio.low, ratio.high)],
        "spread_alone_pct": round((max(alone) / min(alone) - 1) * 100, 2),
    }


def save(record: dict[str, Any]) -> None:
    """Write what is measured so far, so that a run that is cut off leaves it."""
    if args.json:
        args.json.write_text(json.dumps(record, indent=1) + "\n")


async def main(address: str) -> None:
    async with aiohttp.ClientSession(address) as session:
        routes = Routes(session)
        stats = await routes.get("/system_stats")
        record = {
            "device": stats["devices"][0]["name"],
            "versions": {name: stats["system"][name] for name in ("comfyui_version", "python_version", "pytorch_version")},
            **{name: getattr(args, name) for name in ("count", "size", "steps")},
        }
        await measure_slowdown(address, routes, record)
        await measure_points(address, routes, record)
        print_nodes(record["nodes"])


signal.signal(signal.SIGTERM, signal.default_int_handler)  # of timeout(1): a server of its own is stopped then, too
with server() as started:
    asyncio.run(main(started))
