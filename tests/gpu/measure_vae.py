"""Measures OptimizeVAE's decode against stock on one GPU: ms, peak memory, error to an fp32 decode.

COMFYUI_PATH=... python tests/gpu/measure_vae.py CHECKPOINT [--legacy] [--batches 1 8] [--size 1024] [--profile] [--json OUT]
"""

import argparse
import asyncio
import json
import logging
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
parser.add_argument("--legacy", action="store_true", help="without DynamicVRAM")
parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
parser.add_argument("--size", type=int, default=1024, help="pixels")
parser.add_argument("--repeats", type=int, default=5)
parser.add_argument("--profile", action="store_true")
parser.add_argument("--json", type=Path)
parser.add_argument("--cpu", action="store_true", help="try the script out without a GPU")
args = parser.parse_args()

comfy_nodes = start_comfyui(dynamic_vram=not args.legacy, flags=("--cpu",) if args.cpu else ())
import comfy.model_management  # noqa: E402
import comfy.sd  # noqa: E402
import torch  # noqa: E402

logging.basicConfig(level=logging.WARNING)
logging.getLogger("fast_sprites").setLevel(logging.INFO)  # whether ComfyUI's own decoder stood in
load_pack()
from fast_sprites.nodes.engine.vae.apply_vae_plan import optimize_vae  # noqa: E402
from fast_sprites.nodes.engine.vae.plan import VaeSettings  # noqa: E402

GIB = 1024**3


def synchronize() -> None:
    if not args.cpu:
        torch.cuda.synchronize()


def memory_gib(reset: bool = False) -> tuple[float, float, float]:
    """Allocated, peak of allocated and peak of reserved memory."""
    if args.cpu:
        return 0.0, 0.0, 0.0
    if reset:
        torch.cuda.reset_peak_memory_stats()
    cuda = torch.cuda
    return cuda.memory_allocated() / GIB, cuda.max_memory_allocated() / GIB, cuda.max_memory_reserved() / GIB


def seconds(decode: Callable[..., torch.Tensor], samples: torch.Tensor) -> float:
    """Wall seconds of one decode, pictures on the host."""
    synchronize()
    start = time.perf_counter()
    decode(samples)
    synchronize()
    return time.perf_counter() - start


def measure(name: str, decode: Callable[..., torch.Tensor], samples: torch.Tensor, truth: torch.Tensor) -> dict[str, Any]:
    """First use, median time, peak memory over what was taken before, and the mean error of a picture in 0..1."""
    comfy.model_management.soft_empty_cache()
    first_s = seconds(decode, samples)
    comfy.model_management.soft_empty_cache()
    before, _, _ = memory_gib(reset=True)
    times = [seconds(decode, samples) for _ in range(args.repeats)]
    _, peak, reserved = memory_gib()
    error = (decode(samples).float() - truth).abs()
    return {
        "decode": name,
        "batch": samples.shape[0],
        "ms": round(statistics.median(times) * 1e3, 1),
        "spread_ms": round((max(times) - min(times)) * 1e3, 1),
        "first_use_ms": round(first_s * 1e3, 1),
        "peak_gib": round(peak - before, 2),
        "peak_reserved_gib": round(reserved, 2),
        "mean_error": error.mean().item(),
        "max_error": error.max().item(),
    }


def profile(decode: Callable[..., torch.Tensor], samples: torch.Tensor) -> None:
    """Print the kernels of one decode by their time."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as found:
        decode(samples)
        torch.cuda.synchronize()
    rows = found.key_averages()
    print(f"kernels of one decode: {sum(row.self_device_time_total for row in rows) / 1e3:.2f} ms")
    for row in sorted(rows, key=lambda row: -row.self_device_time_total)[:20]:
        print(f"{row.self_device_time_total / 1e3:8.3f} ms {row.count:5d}x  {row.key[:110]}")


@torch.inference_mode()
def main() -> None:
    asyncio.run(comfy_nodes.load_custom_node(str(PACK_ROOT / "tests" / "tiny_sdxl" / "comfy_extension")))
    vae: Any = comfy.sd.load_checkpoint_guess_config(args.checkpoint, output_clip=False, output_model=False)[2]
    optimized, report = optimize_vae(vae, VaeSettings(), "1")
    exact, _ = optimize_vae(vae, VaeSettings(precision="fp32"), "2")
    print(report)
    side, generator = args.size // 8, torch.Generator().manual_seed(3)
    samples = torch.randn(max(args.batches), 4, side, side, generator=generator)
    truth = exact.decode(samples).float()
    record: dict[str, Any] = {
        "device": "cpu" if args.cpu else torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "dynamic": not args.legacy,
        "size": args.size,
        "vae_dtype": str(vae.vae_dtype),
        "rows": [],
    }
    print(record)
    for batch in args.batches:
        for name, decode in (("stock", vae.decode), ("OptimizeVAE", optimized.decode)):
            row = measure(name, decode, samples[:batch], truth[:batch])
            record["rows"].append(row)
            print(row, flush=True)
    same = torch.equal(optimized.decode(samples)[:1], optimized.decode(samples[:1]))
    print("OptimizeVAE gives the same bits in every batch:", same)
    record["same_bits_in_every_batch"] = same
    if args.profile:
        profile(optimized.decode, samples[:1])
    if args.json:
        args.json.write_text(json.dumps(record, indent=1) + "\n")


main()
