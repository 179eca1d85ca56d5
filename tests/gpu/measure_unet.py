"""Measures the UNet engine against stock on one GPU: a ladder of techniques, error, peak memory, and where a step's time goes.

COMFYUI_PATH=... python tests/gpu/measure_unet.py CHECKPOINT [--legacy] [--batches 1 8] [--profile] [--json OUT]
"""

import argparse
import itertools
import json
import logging
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from comfy_on_gpu import load_pack, start_comfyui

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("checkpoint")
parser.add_argument("--legacy", action="store_true", help="without DynamicVRAM")
parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
parser.add_argument("--steps", type=int, default=20)
parser.add_argument("--repeats", type=int, default=3)
parser.add_argument("--size", type=int, default=1024)
parser.add_argument("--sampler", default="euler_ancestral")
parser.add_argument("--rungs", nargs="+")
parser.add_argument("--profile", nargs="*", metavar="RUNG", help="profile these rungs, or with no name the last one")
parser.add_argument("--json", type=Path)
args = parser.parse_args()

comfy_nodes = start_comfyui(dynamic_vram=not args.legacy)
import comfy.sd  # noqa: E402
import torch  # noqa: E402

logging.basicConfig(level=logging.WARNING)
logging.getLogger("fast_sprites").setLevel(logging.INFO)  # what the engine notes of its runs
load_pack()
from fast_sprites.nodes.engine.model.apply_model_plan import apply_model_plan  # noqa: E402
from fast_sprites.nodes.engine.model.plan import ModelPlan  # noqa: E402

LADDER = {
    "stock": None,
    "eager engine": ModelPlan(engine="eager"),
    "+ Triton kernels": ModelPlan(engine="fast"),
    "+ cuDNN attention": ModelPlan(engine="fast", attention="cudnn"),
    "+ CUDA graph": ModelPlan(engine="fast", attention="cudnn", cuda_graph=True),
    "+ known sigmas": ModelPlan(engine="fast", attention="cudnn", cuda_graph=True, known_sigmas=True),
    "+ FP8": ModelPlan(engine="fast", attention="cudnn", cuda_graph=True, known_sigmas=True, fp8=True),
}


def sample(model, conds, batch, steps, cfg, seed=7):
    latent = {"samples": torch.zeros(batch, 4, args.size // 8, args.size // 8)}
    return comfy_nodes.common_ksampler(model, seed, steps, cfg, args.sampler, "karras", conds[0], conds[1], latent)[0]["samples"]


def timed(model, conds, batch):
    """Seconds of one sampling run, ms from one step's report to the next, and the result of the first step."""
    stamps = []

    def callback(step, x0, x, total):
        stamps.append(time.perf_counter())

    import comfy.sample

    latent = torch.zeros(batch, 4, args.size // 8, args.size // 8)
    noise = comfy.sample.prepare_noise(latent, 7)
    start = time.perf_counter()
    comfy.sample.sample(
        model,
        noise,
        args.steps,
        8.0,
        args.sampler,
        "karras",
        conds[0],
        conds[1],
        latent,
        disable_pbar=True,
        callback=callback,
        seed=7,
    )
    torch.cuda.synchronize()
    total = time.perf_counter() - start
    return total, statistics.median(b - a for a, b in itertools.pairwise(stamps)) * 1e3, (stamps[0] - start) * 1e3


def wall_ms(model, conds, batch, steps):
    torch.cuda.synchronize()
    start = time.perf_counter()
    sample(model, conds, batch, steps, 8.0)
    torch.cuda.synchronize()
    return (time.perf_counter() - start) * 1e3


@torch.inference_mode()
def main():
    model, _, _ = comfy.sd.load_checkpoint_guess_config(args.checkpoint, output_vae=False, output_clip=False)[:3]
    generator = torch.Generator().manual_seed(1)
    conds = [
        [[torch.randn(1, 77, 2048, generator=generator), {"pooled_output": torch.randn(1, 1280, generator=generator)}]]
        for _ in range(2)
    ]
    record = {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "dynamic": not args.legacy,
        "patcher": type(model).__name__,
        "rows": [],
    }
    print(record, flush=True)
    for batch in args.batches:
        sample(model, conds, batch, 1, 1.0)  # cuDNN chooses other algorithms in a process's first call
        reference = sample(model, conds, batch, 1, 1.0)
        for name, plan in LADDER.items():
            if args.rungs and name not in args.rungs:
                continue
            patched = model if plan is None else apply_model_plan(model, plan, "0")
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            start = time.perf_counter()
            out = sample(patched, conds, batch, 1, 1.0)
            torch.cuda.synchronize()
            first_s = time.perf_counter() - start
            error = (torch.linalg.vector_norm(out - reference) / torch.linalg.vector_norm(reference)).item()
            _, _, second_ms = timed(patched, conds, batch)
            runs = [timed(patched, conds, batch) for _ in range(args.repeats)]
            walls = [wall_ms(patched, conds, batch, args.steps) / args.steps for _ in range(args.repeats)]
            free, whole = torch.cuda.mem_get_info()
            row = {
                "batch": batch, "rung": name, "step_ms": round(statistics.median(r[1] for r in runs), 2),
                "run_per_step_ms": round(statistics.median(walls), 2), "spread_ms": round(max(walls) - min(walls), 2),
                "first_step_ms": round(statistics.median(r[2] for r in runs), 1), "first_use_s": round(first_s, 2), "first_run_step_ms": round(second_ms, 1),
                "error": error, "peak_alloc_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
                "peak_reserved_gib": round(torch.cuda.max_memory_reserved() / 2**30, 2), "driver_used_gib": round((whole - free) / 2**30, 2),
            }  # fmt: skip
            record["rows"].append(row)
            print(row, flush=True)
            if args.profile is not None and name in (args.profile or list(LADDER)[-1:]):
                profile(patched, conds, batch)
                profile_start(patched, conds, batch)
            del patched
            torch.cuda.empty_cache()
        again = sample(model, conds, batch, 1, 1.0)
        print("stock after ours bit-identical:", torch.equal(again, reference), flush=True)
    if args.json:
        args.json.write_text(json.dumps(record, indent=1))


def profile_start(model, conds, batch):
    """Print where the host spends a run of one step."""
    import cProfile
    import pstats

    profiler = cProfile.Profile()
    profiler.enable()
    sample(model, conds, batch, 1, 8.0)
    torch.cuda.synchronize()
    profiler.disable()
    pstats.Stats(profiler).sort_stats("tottime").print_stats(22)


def profile(model, conds, batch):
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as prof:
        sample(model, conds, batch, 4, 8.0)
        torch.cuda.synchronize()
    rows = sorted(prof.key_averages(), key=lambda e: -e.self_device_time_total)[:28]
    total = sum(e.self_device_time_total for e in prof.key_averages())
    print(f"profile of 4 steps, batch {batch}: {total / 4e3:.2f} ms of kernels a step")
    for e in rows:
        print(f"{e.self_device_time_total / 4e3:8.3f} ms {e.count / 4:7.1f}x  {e.key[:110]}")


main()
