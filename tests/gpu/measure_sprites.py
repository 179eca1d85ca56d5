"""Measures BatchSpriteSampler and the memory readings on one GPU.

COMFYUI_PATH=... python tests/gpu/measure_sprites.py CHECKPOINT [--size 1024] [--sizes 1 2 4 8 16] [--samplers euler ...] [--json OUT]

Prints, for each sampler, how far a batch of four lies from four single KSampler runs; for each micro-batch size the seconds per sprite and
the peak memory beside what the plan expects; and what one reading costs and how far it lies from torch's own figures.
"""

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from comfy_on_gpu import PACK_ROOT, load_pack, start_comfyui

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("checkpoint")
parser.add_argument("--legacy", action="store_true", help="without DynamicVRAM")
parser.add_argument("--size", type=int, default=1024, help="pixels")
parser.add_argument("--sizes", type=int, nargs="*", default=[1, 2, 4, 8, 12, 16])
parser.add_argument("--samplers", nargs="*", help="default: all")
parser.add_argument("--steps", type=int, default=20)
parser.add_argument("--json", type=Path)
parser.add_argument("--cpu", action="store_true", help="try the script out without a GPU")
args = parser.parse_args()

comfy_nodes = start_comfyui(dynamic_vram=not args.legacy, flags=("--cpu",) if args.cpu else ())
import comfy.sd  # noqa: E402
import torch  # noqa: E402

load_pack()
from fast_sprites.nodes.engine.memory.readings import GIB, read_memory  # noqa: E402
from fast_sprites.nodes.engine.memory.run_probe import comfy_memory  # noqa: E402
from fast_sprites.nodes.engine.sprites.micro_batches import samples_per_sprite, sprite_bytes  # noqa: E402
from fast_sprites.nodes.engine.sprites.request import SpriteRequest  # noqa: E402
from fast_sprites.nodes.engine.sprites.run_batch import _facts, draw_sprites, sampler_names  # noqa: E402

DEVICE = torch.device("cpu") if args.cpu else torch.device("cuda", 0)


def draw(model: Any, conds: Any, sampler: str, count: int, micro_batch: int, steps: int) -> torch.Tensor:
    request = SpriteRequest(
        count, args.size, args.size, 11, "increment", steps, 8.0, sampler, "karras", 1.0, micro_batch=micro_batch
    )
    return draw_sprites(model, conds[0], conds[1], None, request, "1", {}).latent["samples"]


def single(model: Any, conds: Any, sampler: str, seed: int, steps: int) -> torch.Tensor:
    latent = {"samples": torch.zeros(1, 4, args.size // 8, args.size // 8)}
    return comfy_nodes.common_ksampler(model, seed, steps, 8.0, sampler, "karras", conds[0], conds[1], latent)[0]["samples"]


def compare_samplers(model: Any, conds: Any) -> dict[str, dict[str, float | bool]]:
    found = {}
    for sampler in args.samplers or sampler_names():
        count = 2 if sampler == "dpm_adaptive" else 4
        singles = torch.cat([single(model, conds, sampler, 11 + i, 4) for i in range(count)])
        batch, alone = draw(model, conds, sampler, count, 0, 4), draw(model, conds, sampler, 1, 0, 4)
        error = torch.linalg.vector_norm(batch - singles) / torch.linalg.vector_norm(singles)
        found[sampler] = {"alone_is_identical": torch.equal(alone, singles[:1]), "batch_relative_error": error.item()}
        print(sampler, found[sampler], flush=True)
    return found


def sweep_sizes(model: Any, conds: Any) -> list[dict[str, float]]:
    facts = _facts(model, torch.zeros(1, 4, args.size // 8, args.size // 8))
    expected = sprite_bytes(facts, samples_per_sprite(8.0, "euler")) / GIB
    rows = []
    for size in args.sizes:
        draw(model, conds, "euler_ancestral", size, size, 2)  # warm up, load
        if not args.cpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(DEVICE)
        before = 0.0 if args.cpu else torch.cuda.memory_allocated(DEVICE) / GIB
        started = time.perf_counter()
        draw(model, conds, "euler_ancestral", size, size, args.steps)
        row = {"micro_batch": size, "seconds_per_sprite": (time.perf_counter() - started) / size}
        if not args.cpu:
            stats = torch.cuda.memory_stats(DEVICE)
            growth = stats["allocated_bytes.all.peak"] / GIB - before
            row |= {"peak_growth_gib_per_sprite": growth / size, "planned_gib_per_sprite": expected}
            row["peak_reserved_gib"] = stats["reserved_bytes.all.peak"] / GIB
        rows.append(row)
        print(row, flush=True)
    return rows


def measure_readings() -> dict[str, float]:
    held = comfy_memory()
    read_memory(DEVICE, held)
    started = time.perf_counter()
    for _ in range(1000):
        read_memory(DEVICE, held)
    found = {"milliseconds_per_reading": (time.perf_counter() - started)}
    started = time.perf_counter()
    for _ in range(1000):
        comfy_memory()
    found["milliseconds_per_model_list"] = time.perf_counter() - started
    if not args.cpu:
        reading, stats = read_memory(DEVICE), torch.cuda.memory_stats(DEVICE)
        assert reading.torch is not None
        assert reading.driver is not None
        found["reserved_difference_gib"] = reading.torch.reserved_gib - stats["reserved_bytes.all.current"] / GIB
        free, total = torch.cuda.mem_get_info(DEVICE)
        found["driver_difference_gib"] = reading.driver.used_gib - (total - free) / GIB
        print(reading.to_json())
    print(found)
    return found


@torch.inference_mode()
def main() -> None:
    asyncio.run(comfy_nodes.load_custom_node(str(PACK_ROOT / "tests" / "tiny_sdxl" / "comfy_extension")))
    model, clip = comfy.sd.load_checkpoint_guess_config(args.checkpoint)[:2]
    assert clip is not None, "the checkpoint has no text encoder"
    conds = [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("pixel art, a red slime", "blurry")]
    record = {
        "device": "cpu" if args.cpu else torch.cuda.get_device_name(DEVICE),
        "samplers": compare_samplers(model, conds),
        "micro_batches": sweep_sizes(model, conds),
        "readings": measure_readings(),
    }
    if args.json:
        args.json.write_text(json.dumps(record, indent=1) + "\n")


main()
