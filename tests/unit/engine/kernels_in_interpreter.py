"""Compares every Triton kernel with its reference in Triton's interpreter, on the CPU; run by test_kernels.py in a process of its own."""

import importlib.util
import itertools
import sys
from pathlib import Path

import torch

PACK_ROOT = Path(__file__).resolve().parents[3]
spec = importlib.util.spec_from_file_location(
    "fast_sprites", PACK_ROOT / "__init__.py", submodule_search_locations=[str(PACK_ROOT)]
)
assert spec is not None
assert spec.loader is not None
sys.modules["fast_sprites"] = importlib.util.module_from_spec(spec)

from fast_sprites.nodes.engine.kernels import reference, triton_kernels  # noqa: E402

TOLERANCE = {torch.float32: 3e-6, torch.float16: 1e-4}


def check(name, out, expected):
    error = (torch.linalg.vector_norm((out - expected).double()) / torch.linalg.vector_norm(expected.double())).item()
    assert error < TOLERANCE[out.dtype], f"{name} {tuple(out.shape)} {out.dtype}: {error:.1e}"


torch.manual_seed(0)
for dtype, (n, h, w, c) in ((torch.float32, (2, 4, 3, 64)), (torch.float32, (1, 3, 5, 96)), (torch.float16, (1, 5, 7, 320))):
    x = (torch.randn(n, h, w, c) * 2 + 5).to(dtype)
    weight, bias, add = torch.randn(c).to(dtype), torch.randn(c).to(dtype), torch.randn(n, c).to(dtype)
    for extra, silu in itertools.product((None, add), (True, False)):
        check(
            "group_norm",
            triton_kernels.group_norm(x, weight, bias, 32, 1e-5, add=extra, silu=silu),
            reference.group_norm(x, weight, bias, 32, 1e-5, add=extra, silu=silu),
        )
    for b, residual in ((bias, x), (bias, None), (None, x)):
        check("add_bias", triton_kernels.add_bias(x, b, residual), reference.add_bias(x, b, residual))
    tokens = x.view(n, h * w, c)
    for delta in (None, torch.randn_like(tokens)):
        for out, expected in zip(
            triton_kernels.residual_layer_norm(tokens, delta, weight, bias, 1e-5),
            reference.residual_layer_norm(tokens, delta, weight, bias, 1e-5),
            strict=True,
        ):
            check("residual_layer_norm", out, expected)
    projected = torch.randn(n, h * w, 2 * c).to(dtype)
    check("geglu", triton_kernels.geglu(projected), reference.geglu(projected))
print("kernels agree")
