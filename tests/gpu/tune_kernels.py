"""Finds the fastest launch sizes of the Triton kernels on this GPU, over the shapes of one 1024x1024 SDXL step at batch 1 and 8.

python tests/gpu/tune_kernels.py        prints the best Tuning for nodes/engine/kernels/tuning.py
"""

import itertools
import sys
from dataclasses import replace
from pathlib import Path

import torch
import triton

sys.path.insert(0, str(Path(__file__).resolve().parent))
from comfy_on_gpu import load_pack

load_pack()
from fast_sprites.nodes.engine.kernels import triton_pictures, triton_tokens  # noqa: E402
from fast_sprites.nodes.engine.kernels.tuning import DEFAULT, Launch  # noqa: E402

# (shape, how often a step runs it): the largest part of each kernel's work.
PICTURES = [
    ((2, 128, 128, 320), 12),
    ((2, 64, 64, 640), 14),
    ((2, 32, 32, 1280), 20),
    ((16, 128, 128, 320), 12),
    ((16, 64, 64, 640), 14),
    ((16, 32, 32, 1280), 20),
]
TOKENS = [((2, 4096, 640), 30), ((2, 1024, 1280), 180), ((16, 4096, 640), 30), ((16, 1024, 1280), 180)]
PROJECTED = [((2, 4096, 5120), 10), ((2, 1024, 10240), 60), ((16, 4096, 5120), 10), ((16, 1024, 10240), 60)]


def half(*shape):
    return torch.randn(shape, device="cuda").half()


def cost(run, cases, tuning):
    """Total ms of a step's calls, batch 1 scaled to weigh like batch 8."""
    total = 0.0
    for shape, count in cases:
        x = half(*shape)
        ms = triton.testing.do_bench(lambda x=x: run(x, tuning), warmup=3, rep=10, return_mode="median")
        total += ms * count * (8 if shape[0] == 2 else 1)
    return total


def sweep(name, run, cases, launches):
    results = [(cost(run, cases, replace(DEFAULT, **{name: launch})), launch) for launch in launches]
    results.sort(key=lambda r: r[0])
    default = cost(run, cases, DEFAULT)
    print(f"{name}: default {default:.3f} ms; best {[(round(ms, 3), launch) for ms, launch in results[:3]]}", flush=True)


def main():
    print(torch.cuda.get_device_name())
    parameters = {}

    def affine(c):
        return parameters.setdefault(c, (half(c), half(c)))

    def norm(x, tuning):
        triton_pictures.group_norm(x, *affine(x.shape[-1]), 32, 1e-5, tuning=tuning)

    def layer_norm(x, tuning):
        triton_tokens.residual_layer_norm(x, None, None, *affine(x.shape[-1]), 1e-5, tuning=tuning)

    def geglu(x, tuning):
        triton_tokens.geglu(x, tuning=tuning)

    geglus = itertools.product((1, 2, 4), (512, 1024), (4, 8))
    sweep("geglu", geglu, PROJECTED, [Launch(rows=r, channels=c, warps=w) for r, c, w in geglus])
    sweep(
        "layer_norm",
        layer_norm,
        TOKENS,
        [Launch(rows=r, channels=0, warps=w) for r, w in itertools.product((1, 2, 4), (2, 4, 8))],
    )
    norms = list(itertools.product((16, 32, 64), (64, 128), (4, 8)))
    sweep("group_norm_sums", norm, PICTURES, [Launch(rows=r, channels=c, warps=w) for r, c, w in norms])
    sweep("group_norm_apply", norm, PICTURES, [Launch(rows=r, channels=c, warps=w) for r, c, w in norms])


main()
