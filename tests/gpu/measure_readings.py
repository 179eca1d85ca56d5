"""Measures what a memory reading costs with a model loaded, and its parts: the median of 1,000 calls after 100.

COMFYUI_PATH=... python tests/gpu/measure_readings.py CHECKPOINT [--json OUT]
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from comfy_on_gpu import PACK_ROOT, load_pack, start_comfyui

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("checkpoint")
parser.add_argument("--json", type=Path)
parser.add_argument("--cpu", action="store_true", help="try the script out without a GPU; times are the process's own then")
args = parser.parse_args()

comfy_nodes = start_comfyui(flags=("--cpu",) if args.cpu else ())
import comfy.model_management  # noqa: E402
import comfy.sd  # noqa: E402
import torch  # noqa: E402

load_pack()
asyncio.run(comfy_nodes.load_custom_node(str(PACK_ROOT / "tests" / "tiny_sdxl" / "comfy_extension")))
sys.path.append(str(Path(__file__).resolve().parent))  # start_comfyui() took it off the front
from fast_sprites.nodes.engine.memory import nvml  # noqa: E402
from fast_sprites.nodes.engine.memory.graph_pools import captured_bytes  # noqa: E402
from fast_sprites.nodes.engine.memory.readings import host_memory  # noqa: E402
from reading_kinds import readers  # noqa: E402

device = comfy.model_management.get_torch_device()
kinds: dict[str, Callable[[], Any]] = readers(device)
if device.type == "cuda":
    properties = torch.cuda.get_device_properties(device)
    uuid, name = str(properties.uuid), properties.name
    found = nvml.read_device(uuid, processes=True)
    print("NVML:", found)
    kinds |= {
        "part: torch's statistics": lambda: torch.cuda.memory_stats_as_nested_dict(device),
        "part: NVML's memory": lambda: nvml.read_device(uuid, processes=False),
        "part: NVML's memory and processes": lambda: nvml.read_device(uuid, processes=True),
        "part: the driver's memory of graphs": lambda: captured_bytes(device.index or 0),
    }
else:
    name = "cpu"
kinds["part: the host"] = host_memory

with torch.inference_mode():
    checkpoint = comfy.sd.load_checkpoint_guess_config(args.checkpoint)
    comfy.model_management.load_models_gpu([checkpoint[0]])
    clock = time.process_time if args.cpu else time.perf_counter  # on the CPU other programs share the cores with this one
    rows: dict[str, dict[str, float]] = {}
    for kind, read in kinds.items():
        times: list[float] = []
        for turn in range(1100):
            started = clock()
            read()
            if turn >= 100:
                times.append((clock() - started) * 1e6)
        rows[kind] = {"median_us": statistics.median(times), "p99_us": statistics.quantiles(times, n=100)[-1]}
        print(f"{kind}: median {rows[kind]['median_us']:.0f} us, 99 of 100 below {rows[kind]['p99_us']:.0f} us", flush=True)
if args.json:
    args.json.write_text(json.dumps({"device": name, "rows": rows}, indent=1) + "\n")
