"""Times SDXL's products one by one, to decide which form each takes: joined or apart, FP8 or fp16, fused with GEGLU or not.

python tests/gpu/measure_products.py [--only qkv residual fp8 rows geglu]
"""

# ruff: noqa: N803 - compile-time constants are upper case in Triton
# pyright: reportCallIssue=false
import argparse
import itertools
import sys
from pathlib import Path

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

sys.path.insert(0, str(Path(__file__).resolve().parent))
from comfy_on_gpu import load_pack

load_pack()
from fast_sprites.nodes.engine.kernels import reference, triton_tokens  # noqa: E402
from fast_sprites.nodes.engine.kernels.ops import TritonOps  # noqa: E402
from fast_sprites.nodes.engine.kernels.tuning import DEFAULT, Launch  # noqa: E402

OPS = TritonOps()
TOKENS = [(2048, 1280, 60), (16384, 1280, 60), (8192, 640, 10), (65536, 640, 10)]  # rows, channels, blocks with them


def half(*shape, scale=1.0):
    return (torch.randn(shape, device="cuda") * scale).half()


def ms(run):
    return triton.testing.do_bench(run, warmup=20, rep=60, return_mode="median")


def show(name, rows, channels, blocks, **times):
    print(
        f"{name:10} {rows:6}x{channels}: " + ", ".join(f"{k} {v * blocks:.2f}" for k, v in times.items()), "ms a step", flush=True
    )


def qkv():
    for rows, c, blocks in TOKENS:
        x, weights = half(1, rows, c), [half(c, c) for _ in range(3)]
        joined = torch.cat(weights)
        apart = ms(lambda x=x, weights=weights: [OPS.linear(x, w, None) for w in weights])
        show("qkv", rows, c, blocks, apart=apart, joined=ms(lambda x=x, joined=joined: OPS.linear(x, joined, None)))


def residual():
    for rows, c, blocks in TOKENS:
        for k in (c, 4 * c):
            x, weight, bias, total = half(1, rows, k), half(c, k, scale=0.01), half(c), half(1, rows, c)
            norm = (half(c), half(c))
            offset = torch.zeros(c, device="cuda")

            def before(x=x, weight=weight, bias=bias, total=total, norm=norm):
                triton_tokens.residual_layer_norm(total, OPS.linear(x, weight, bias), None, *norm, 1e-5)

            def now(x=x, weight=weight, total=total, norm=norm, offset=offset):
                triton_tokens.residual_layer_norm(OPS.linear_onto(total, x, weight), None, offset, *norm, 1e-5)

            times = {
                "product": ms(lambda x=x, weight=weight, bias=bias: OPS.linear(x, weight, bias)),
                "product_onto": ms(lambda x=x, weight=weight, total=total: OPS.linear_onto(total, x, weight)),
            }
            show(f"K={k}", rows, c, blocks, **times, then_norm=ms(before), onto_then_norm=ms(now))


def fp8():
    for rows, c, blocks in TOKENS:
        for k, n in ((c, c), (c, 3 * c), (c, 8 * c), (4 * c, c)):
            x, weight = half(1, rows, k), half(n, k, scale=0.02)
            x8, weight8 = reference.quantize_rows(x), reference.quantize_rows(weight)
            times = {
                "fp16": ms(lambda x=x, weight=weight: OPS.linear(x, weight, None)),
                "fp8": ms(lambda x8=x8, weight8=weight8: OPS.fp8_linear(x8, weight8, None, torch.float16)),
                "quantize": ms(lambda x=x: OPS.quantize_rows(x)),
            }
            show(f"{k}->{n}", rows, c, blocks, **times)


def rows():
    for count, c, blocks in TOKENS:
        x, norm, offset = half(1, count, c), (half(c), half(c)), torch.zeros(c, device="cuda")
        projected = half(1, count, 8 * c)
        for r, warps in itertools.product((1, 2, 4, 8), (2, 4, 8)):
            tuning = DEFAULT.__class__(**{**vars(DEFAULT), "layer_norm": Launch(rows=r, channels=0, warps=warps)})
            norms = {
                f"norm delta={d is not None} fp8={f}": ms(
                    lambda d=d, f=f, x=x, norm=norm, offset=offset, tuning=tuning: triton_tokens.residual_layer_norm(
                        x, d, offset, *norm, 1e-5, fp8=f, tuning=tuning
                    )
                )
                for d, f in ((None, False), (x, True))
            }
            quantize = ms(lambda x=x, tuning=tuning: triton_tokens.quantize_rows(x, tuning=tuning))
            show(f"r{r} w{warps}", count, c, blocks, **norms, quantize=quantize)
        show(
            "geglu",
            count,
            c,
            blocks,
            fp16=ms(lambda p=projected: OPS.geglu(p)),
            fp8=ms(lambda p=projected: OPS.geglu(p, fp8=True)),
        )


@triton.jit
def _geglu_linear(
    x_desc, weight_desc, out_desc, bias_ptr, rows,
    INNER: tl.constexpr, K: tl.constexpr, M: tl.constexpr, N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    tiles_m, tiles_n = tl.cdiv(rows, M), INNER // N
    tile = tl.program_id(0)
    width = GROUP * tiles_n
    first = tile // width * GROUP
    height = min(tiles_m - first, GROUP)
    m0 = (first + tile % width % height) * M
    n0 = tile % width // height * N
    value = tl.zeros([M, N], tl.float32)
    gate = tl.zeros([M, N], tl.float32)
    for k in range(0, K, BLOCK_K):
        x = x_desc.load([m0, k])
        value = tl.dot(x, weight_desc.load([n0, k]).T, value)
        gate = tl.dot(x, weight_desc.load([INNER + n0, k]).T, gate)
    c = n0 + tl.arange(0, N)
    value += tl.load(bias_ptr + c).to(tl.float32)[None, :]
    gate += tl.load(bias_ptr + INNER + c).to(tl.float32)[None, :]
    gated = value * (0.5 * gate * (1.0 + tl.math.erf(gate * 0.7071067811865476)))
    out_desc.store([m0, n0], gated.to(tl.float16))


def geglu_linear(x, weight, bias, m, n, k, warps, stages):
    inner = weight.shape[0] // 2
    out = torch.empty(x.shape[0], inner, dtype=x.dtype, device=x.device)
    descs = [TensorDescriptor.from_tensor(t, [r, c]) for t, r, c in ((x, m, k), (weight, n, k), (out, m, n))]
    grid = (triton.cdiv(x.shape[0], m) * (inner // n),)
    _geglu_linear[grid](
        *descs, bias, x.shape[0], INNER=inner, K=x.shape[1], M=m, N=n, BLOCK_K=k, GROUP=8, num_warps=warps, num_stages=stages
    )
    return out


def geglu():
    for count, c, blocks in TOKENS:
        x, weight, bias = half(count, c), half(8 * c, c, scale=0.03), half(8 * c)
        expected = reference.geglu(OPS.linear(x, weight, bias))

        def apart(x=x, weight=weight, bias=bias):
            OPS.geglu(OPS.linear(x, weight, bias))

        times = {
            "product": ms(lambda x=x, weight=weight, bias=bias: OPS.linear(x, weight, bias)),
            "product_then_geglu": ms(apart),
        }
        for m, n, k, warps, stages in (
            (128, 128, 64, 8, 3), (128, 128, 64, 8, 4), (128, 64, 64, 4, 3), (128, 64, 64, 8, 3), (128, 64, 128, 8, 3), (256, 64, 64, 8, 3),
        ):  # fmt: skip
            name = f"fused {m}x{n}x{k} w{warps} s{stages}"
            try:
                out = geglu_linear(x, weight, bias, m, n, k, warps, stages)
                error = (out - expected).float().norm() / expected.float().norm()
                assert error < 2e-3, f"{name}: {error:.1e}"
                times[name] = ms(
                    lambda x=x, weight=weight, bias=bias, a=(m, n, k, warps, stages): geglu_linear(x, weight, bias, *a)
                )
            except triton.runtime.errors.OutOfResources as error:
                print(name, error)
        show("geglu", count, c, blocks, **times)


SECTIONS = {"qkv": qkv, "residual": residual, "fp8": fp8, "rows": rows, "geglu": geglu}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    print(torch.cuda.get_device_name())
    for section in parser.parse_args().only:
        SECTIONS[section]()
