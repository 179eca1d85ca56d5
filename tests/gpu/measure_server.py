"""Prompt to picture through a real ComfyUI server: stock and optimised graphs in turn, with DynamicVRAM as users have it.

COMFYUI_PATH=... python tests/gpu/measure_server.py CHECKPOINT [--repeats 3] [--json OUT] [--flags ...]
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

PACK_ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(Path(__file__).resolve().parent))
from comfy_on_gpu import load_pack  # noqa: E402

load_pack()
from fast_sprites.nodes.benchmark.client import Cached, NodeStarted, connect  # noqa: E402
from fast_sprites.nodes.benchmark.server import ComfyServer, ServerSetup  # noqa: E402

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("checkpoint", type=Path)
parser.add_argument("--repeats", type=int, default=3)
parser.add_argument("--json", type=Path)
parser.add_argument("--frontend", default=os.environ.get("FRONTEND_ROOT", ""))
parser.add_argument("--flags", nargs="*", default=[])
args = parser.parse_args()

GRAPHS = {"single": ("baseline_single", "sprite_optimized"), "batch 8": ("baseline_batch", "batch_optimized")}


def graph(name: str, seed: int) -> dict:
    prompt = json.loads((PACK_ROOT / "workflows" / "api" / f"{name}.json").read_text())
    for node in prompt.values():
        if node["class_type"] == "CheckpointLoaderSimple":
            node["inputs"]["ckpt_name"] = args.checkpoint.name
        if "seed" in node["inputs"]:
            node["inputs"]["seed"] = seed
    return prompt


async def run(client, prompt: dict) -> dict:
    """Seconds of the whole prompt and of each kind of node, by the server's events."""
    prompt_id = await client.queue(prompt)
    spans: dict[str, float] = {}
    current, since, start = None, 0.0, None
    async for event in client.follow(prompt_id):
        now = time.perf_counter()
        if start is None:
            start = now
        if isinstance(event, Cached):
            sampled = [n for n in event.node_ids if "seed" in prompt[n]["inputs"]]
            assert not sampled, "the sampler's result came from the cache"
        if isinstance(event, NodeStarted):
            if current:
                spans[current] = spans.get(current, 0.0) + now - since
            current, since = prompt[event.node_id]["class_type"], now
    end = time.perf_counter()
    if current:
        spans[current] = spans.get(current, 0.0) + end - since
    job = await client.job(prompt_id)
    return {
        "total_s": (job["execution_end_time"] - job["execution_start_time"]) / 1e3,
        **{k: round(v, 3) for k, v in spans.items()},
    }


async def measure(address: str, record: dict) -> None:
    async with connect(address) as client:
        record["system"] = (await client.system_stats())["system"]
        seed = 1000
        for title, pair in GRAPHS.items():
            rows: dict[str, list[dict]] = {name: [] for name in pair}
            for repeat in range(args.repeats + 1):
                for name in pair:
                    seed += 100
                    row = await run(client, graph(name, seed))
                    print(title, name, "warm-up" if repeat == 0 else repeat, row, flush=True)
                    if repeat:
                        rows[name].append(row)
                    else:
                        record.setdefault("warm_up", {})[name] = row
            for name, found in rows.items():
                keys = {k for row in found for k in row}
                record.setdefault("median", {})[name] = {
                    k: round(statistics.median(row.get(k, 0.0) for row in found), 3) for k in sorted(keys)
                }
                record.setdefault("runs", {})[name] = found
                print("MEDIAN", title, name, record["median"][name], flush=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary)
        (base / "custom_nodes").mkdir()
        (base / "models" / "checkpoints").mkdir(parents=True)
        (base / "custom_nodes" / "fast-sprites").symlink_to(PACK_ROOT)
        (base / "models" / "checkpoints" / args.checkpoint.name).symlink_to(args.checkpoint.resolve())
        flags = ["--disable-api-nodes", "--database-url", "sqlite:///:memory:", *args.flags]
        if args.frontend:
            flags += ["--front-end-root", args.frontend]
        setup = ServerSetup(Path(sys.executable), Path(os.environ["COMFYUI_PATH"]), base, base / "server.log", tuple(flags))
        record: dict = {"flags": args.flags}
        with ComfyServer(setup) as server:
            try:
                asyncio.run(measure(server.address, record))
            finally:
                lines = server.log_text().splitlines()
                print("\n".join(line for line in lines if "engine" in line or "OptimizeModel" in line or "rror" in line)[-3000:])
        if args.json:
            args.json.write_text(json.dumps(record, indent=1))


main()
