"""Compares every Triton kernel with its reference in Triton's interpreter, on the CPU; run by test_kernels.py in a process of its own."""

import importlib.util
import itertools
import sys
from pathlib import Path
from typing import Any

import torch
from triton.runtime import interpreter

PACK_ROOT = Path(__file__).resolve().parents[3]
spec = importlib.util.spec_from_file_location(
    "fast_sprites", PACK_ROOT / "__init__.py", submodule_search_locations=[str(PACK_ROOT)]
)
assert spec is not None
assert spec.loader is not None
sys.modules["fast_sprites"] = importlib.util.module_from_spec(spec)

from fast_sprites.nodes.engine.kernels import reference, triton_pictures, triton_tokens  # noqa: E402

patch_tensor: Any = interpreter._patch_lang_tensor


def patch_tensor_and_index(tensor: Any, scope: Any) -> None:
    """Triton 3.6's interpreter makes numbers of arrays of one element for loops, which numpy 2.4 refuses."""
    patch_tensor(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())


interpreter._patch_lang_tensor = patch_tensor_and_index
TOLERANCE = {torch.float32: 3e-6, torch.float16: 1e-4}


def check(name, out, expected):
    if isinstance(out, reference.Fp8Rows):
        check(f"{name} scales", out.scales, expected.scales)
        assert out.values.dtype == reference.FP8
        # Triton 3.6's interpreter loses the carry of a mantissa that rounds up to the next power of two; GPUs do not.
        same = (out.values.float() == expected.values.float()).float().mean().item()
        assert same > 0.93, f"{name} {tuple(out.values.shape)}: {same:.1%} of the values are the same"
        return
    error = (torch.linalg.vector_norm((out - expected).double()) / torch.linalg.vector_norm(expected.double())).item()
    assert error < TOLERANCE[out.dtype], f"{name} {tuple(out.shape)} {out.dtype}: {error:.1e}"


torch.manual_seed(0)
for dtype, (n, h, w, c) in ((torch.float32, (2, 4, 3, 64)), (torch.float32, (1, 3, 5, 96)), (torch.float16, (1, 5, 7, 320))):
    x = (torch.randn(n, h, w, c) * 2 + 5).to(dtype)
    weight, bias, add = torch.randn(c).to(dtype), torch.randn(c).to(dtype), torch.randn(n, c).to(dtype)
    for extra, silu in itertools.product((None, add), (True, False)):
        check(
            "group_norm",
            triton_pictures.group_norm(x, weight, bias, 32, 1e-5, add=extra, silu=silu),
            reference.group_norm(x, weight, bias, 32, 1e-5, add=extra, silu=silu),
        )
    for ways in (triton_pictures, reference):
        y = x.clone()
        assert ways.group_norm(y, weight, bias, 32, 1e-5, add=add, in_place=True) is y
        assert torch.equal(y, ways.group_norm(x, weight, bias, 32, 1e-5, add=add)), "group_norm in place"
    cut = c // 2 + 16
    split = x[..., :cut].contiguous(), x[..., cut:].contiguous()
    check(
        "group_norm of two",
        triton_pictures.group_norm(split[0], weight, bias, 32, 1e-5, second=split[1], add=add),
        reference.group_norm(x, weight, bias, 32, 1e-5, add=add),
    )
    for b, residual in ((bias, x), (bias, None), (None, x)):
        check("add_bias", triton_tokens.add_bias(x.clone(), b, residual), reference.add_bias(x.clone(), b, residual))
    tokens = x.view(n, h * w, c)
    for delta, offset in itertools.product((None, torch.randn_like(tokens)), (None, torch.randn(c))):
        norms = (triton_tokens.residual_layer_norm, reference.residual_layer_norm)
        ours, theirs = (norm(tokens, delta, offset, weight, bias, 1e-5) for norm in norms)
        check("sum", ours[0], theirs[0])
        check("residual_layer_norm", ours[1], theirs[1])
        ours = triton_tokens.residual_layer_norm(tokens, delta, offset, weight, bias, 1e-5, fp8=True)
        theirs = reference.residual_layer_norm_fp8(tokens, delta, offset, weight, bias, 1e-5)
        check("sum", ours[0], theirs[0])
        check("residual_layer_norm_fp8", ours[1], theirs[1])
    projected = torch.randn(n, h * w, 2 * c).to(dtype)
    check("geglu", triton_tokens.geglu(projected), reference.geglu(projected))
    check("geglu_fp8", triton_tokens.geglu_fp8(projected), reference.geglu_fp8(projected))
    tokens[0, 0] = 0
    check("quantize_rows", triton_tokens.quantize_rows(tokens), reference.quantize_rows(tokens))
    for size in ((2 * h, 2 * w), (2 * h - 1, 2 * w + 1)):
        expected = torch.nn.functional.interpolate(x.permute(0, 3, 1, 2), size=size, mode="nearest").permute(0, 2, 3, 1)
        assert torch.equal(triton_pictures.upsample(x, size), expected)
print("kernels agree")
