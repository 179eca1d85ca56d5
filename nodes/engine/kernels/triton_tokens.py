"""Triton kernels on rows of channels, tokens [N, L, C] for the most part; reference.py states what each computes."""
# Triton compiles these bodies; its annotations describe neither launches nor values inside them.
# pyright: reportCallIssue=false, reportArgumentType=false, reportIndexIssue=false, reportOperatorIssue=false, reportReturnType=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from .reference import FP8, FP8_MAX, SMALLEST_SCALE, Fp8Rows
from .tuning import Empty, Tuning, device_tuning, fresh

_TRITON_DTYPE = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16, torch.float32: tl.float32}
_FP8_MAX = tl.constexpr(FP8_MAX)
_SMALLEST_SCALE = tl.constexpr(SMALLEST_SCALE)


@triton.jit
def _add_bias(
    x_ptr,
    bias_ptr,
    residual_ptr,
    count,
    channels,
    BLOCK: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    ok = at < count
    value = tl.load(x_ptr + at, mask=ok, other=0.0).to(tl.float32)
    if HAS_BIAS:
        value += tl.load(bias_ptr + at % channels, mask=ok, other=0.0).to(tl.float32)
    if HAS_RESIDUAL:
        value += tl.load(residual_ptr + at, mask=ok, other=0.0).to(tl.float32)
    tl.store(x_ptr + at, value.to(x_ptr.dtype.element_ty), mask=ok)


@triton.jit
def _row_scales(values, scales_ptr, r, rows):
    """Store the scale that puts each row's largest magnitude at FP8's largest, return its inverse; `values` are 0 outside the row."""
    scales = tl.maximum(tl.max(tl.abs(values), 1) / _FP8_MAX, _SMALLEST_SCALE)
    tl.store(scales_ptr + r, scales, mask=r < rows)
    return (1.0 / scales)[:, None]


@triton.jit(do_not_specialize=["rows"])
def _residual_layer_norm(
    x_ptr, delta_ptr, offset_ptr, weight_ptr, bias_ptr, sum_ptr, out_ptr, scales_ptr, rows, eps,
    C: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, HAS_DELTA: tl.constexpr, HAS_OFFSET: tl.constexpr, FP8: tl.constexpr,
):  # fmt: skip
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.arange(0, BLOCK)
    c_ok = c < C
    ok = (r < rows)[:, None] & c_ok[None, :]
    at = r[:, None].to(tl.int64) * C + c[None, :]
    value = tl.load(x_ptr + at, mask=ok, other=0.0).to(tl.float32)
    if HAS_DELTA:
        value += tl.load(delta_ptr + at, mask=ok, other=0.0).to(tl.float32)
        rounded = value.to(sum_ptr.dtype.element_ty)
        tl.store(sum_ptr + at, rounded, mask=ok)
        value = rounded.to(tl.float32)
    if HAS_OFFSET:
        value += tl.load(offset_ptr + c, mask=c_ok, other=0.0)[None, :]
    mean = tl.sum(value, 1) / C
    centred = tl.where(ok, value - mean[:, None], 0.0)
    variance = tl.sum(centred * centred, 1) / C
    weight = tl.load(weight_ptr + c, mask=c_ok, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + c, mask=c_ok, other=0.0).to(tl.float32)
    normed = centred * tl.rsqrt(variance + eps)[:, None] * weight[None, :] + bias[None, :]
    if FP8:
        normed = normed * _row_scales(normed, scales_ptr, r, rows)
    tl.store(out_ptr + at, normed.to(out_ptr.dtype.element_ty), mask=ok)


@triton.jit
def _gelu(x):
    return 0.5 * x * (1.0 + tl.math.erf(x * 0.7071067811865476))


@triton.jit(do_not_specialize=["rows"])
def _geglu(projected_ptr, out_ptr, rows, INNER: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr):
    r = tl.program_id(0) * TILE + tl.arange(0, TILE)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    ok = (r < rows)[:, None] & (c < INNER)[None, :]
    at = r[:, None].to(tl.int64) * (2 * INNER) + c[None, :]
    value = tl.load(projected_ptr + at, mask=ok, other=0.0).to(tl.float32)
    gate = tl.load(projected_ptr + at + INNER, mask=ok, other=0.0).to(tl.float32)
    gated = value * _gelu(gate)
    tl.store(out_ptr + r[:, None].to(tl.int64) * INNER + c[None, :], gated.to(out_ptr.dtype.element_ty), mask=ok)


@triton.jit
def _gated_part(row_ptr, START: tl.constexpr, BLOCK: tl.constexpr, INNER: tl.constexpr):
    c = START + tl.arange(0, BLOCK)
    value = tl.load(row_ptr + c, mask=c < INNER, other=0.0).to(tl.float32)
    gate = tl.load(row_ptr + INNER + c, mask=c < INNER, other=0.0).to(tl.float32)
    return value * _gelu(gate)


@triton.jit
def _geglu_fp8(projected_ptr, out_ptr, scales_ptr, INNER: tl.constexpr, FIRST: tl.constexpr, REST: tl.constexpr):
    # SDXL's rows are five quarters of a power of two: one block of the next power would compute three eighths for nothing.
    row = tl.program_id(0).to(tl.int64)
    row_ptr = projected_ptr + row * 2 * INNER
    first = _gated_part(row_ptr, 0, FIRST, INNER)
    rest = _gated_part(row_ptr, FIRST, REST, INNER)
    largest = tl.maximum(tl.max(tl.abs(first), 0), tl.max(tl.abs(rest), 0))
    scale = tl.maximum(largest / _FP8_MAX, _SMALLEST_SCALE)
    tl.store(scales_ptr + row, scale)
    out = out_ptr + row * INNER
    inverse = 1.0 / scale
    tl.store(out + tl.arange(0, FIRST), (first * inverse).to(out_ptr.dtype.element_ty))
    c = FIRST + tl.arange(0, REST)
    tl.store(out + c, (rest * inverse).to(out_ptr.dtype.element_ty), mask=c < INNER)


@triton.jit(do_not_specialize=["rows"])
def _quantize_rows(
    x_address, out_ptr, scales_ptr, rows, DTYPE: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr
):
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.arange(0, BLOCK)
    ok = (r < rows)[:, None] & (c < C)[None, :]
    at = r[:, None].to(tl.int64) * C + c[None, :]
    pointers = x_address.to(tl.pointer_type(DTYPE)) + at
    value = tl.load(tl.multiple_of(pointers, [1, 16]), mask=ok, other=0.0).to(tl.float32)
    value = value * _row_scales(value, scales_ptr, r, rows)
    tl.store(out_ptr + at, value.to(out_ptr.dtype.element_ty), mask=ok)


def add_bias(x: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
    """Add `bias` and `residual` to `x` in place; see reference.add_bias."""
    block = 2048  # so many that each is one thread's alone: what a thread has written no other may still have to read
    _add_bias[(triton.cdiv(x.numel(), block),)](
        x, x if bias is None else bias, x if residual is None else residual, x.numel(), x.shape[-1],
        BLOCK=block, HAS_BIAS=bias is not None, HAS_RESIDUAL=residual is not None, num_warps=4,
    )  # fmt: skip
    return x


def residual_layer_norm(
    x: Tensor,
    delta: Tensor | None,
    offset: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    *,
    fp8: bool = False,
    empty: Empty = fresh,
    tuning: Tuning | None = None,
) -> tuple[Tensor, Tensor | Fp8Rows]:
    """Return the sum and its LayerNorm, in FP8 if asked; see reference.residual_layer_norm and residual_layer_norm_fp8."""
    channels = x.shape[-1]
    rows = x.numel() // channels
    total = x if delta is None else empty(x.shape, x.dtype, x.device)
    out = empty(x.shape, FP8 if fp8 else x.dtype, x.device)
    scales = empty((*x.shape[:-1], 1), torch.float32, x.device) if fp8 else x
    launch = (tuning or device_tuning(x.device)).layer_norm
    block = triton.next_power_of_2(channels)
    rows_per_program = launch.rows * max(1, 2048 // block)
    _residual_layer_norm[(triton.cdiv(rows, rows_per_program),)](
        x, x if delta is None else delta, weight if offset is None else offset, weight, bias, total, out, scales, rows, eps,
        C=channels, BLOCK=block, ROWS=rows_per_program, HAS_DELTA=delta is not None, HAS_OFFSET=offset is not None, FP8=fp8,
        num_warps=launch.warps,
    )  # fmt: skip
    return total, Fp8Rows(out, scales) if fp8 else out


def geglu(projected: Tensor, *, empty: Empty = fresh, tuning: Tuning | None = None) -> Tensor:
    """Return `value * gelu(gate)`; see reference.geglu."""
    inner = projected.shape[-1] // 2
    rows = projected.numel() // (2 * inner)
    out = empty((*projected.shape[:-1], inner), projected.dtype, projected.device)
    launch = (tuning or device_tuning(projected.device)).geglu
    _geglu[(triton.cdiv(rows, launch.rows), triton.cdiv(inner, launch.channels))](
        projected, out, rows, INNER=inner, TILE=launch.rows, BLOCK=launch.channels, num_warps=launch.warps
    )
    return out


def geglu_fp8(projected: Tensor, *, empty: Empty = fresh) -> Fp8Rows:
    """Return `value * gelu(gate)` in FP8; see reference.geglu_fp8."""
    inner = projected.shape[-1] // 2
    rows = projected.numel() // (2 * inner)
    out = empty((*projected.shape[:-1], inner), FP8, projected.device)
    scales = empty((*projected.shape[:-1], 1), torch.float32, projected.device)
    first = 1 << (inner.bit_length() - 1)
    rest = triton.next_power_of_2(max(1, inner - first))
    _geglu_fp8[(rows,)](projected, out, scales, INNER=inner, FIRST=first, REST=rest, num_warps=8)
    return Fp8Rows(out, scales)


def quantize_rows(x: Tensor, *, empty: Empty = fresh, tuning: Tuning | None = None) -> Fp8Rows:
    """Return contiguous `x` in FP8 with a scale per row; see reference.quantize_rows.

    The kernel takes the address of `x` as a number, which Triton's launcher does not look up: attention's result, which is
    allocated during a graph's capture, has an address that the lookup refuses. Rows are 16-byte aligned.
    """
    channels = x.shape[-1]
    rows = x.numel() // channels
    out = empty(x.shape, FP8, x.device)
    scales = empty((*x.shape[:-1], 1), torch.float32, x.device)
    launch = (tuning or device_tuning(x.device)).layer_norm
    block = triton.next_power_of_2(channels)
    rows_per_program = launch.rows * max(1, 2048 // block)
    _quantize_rows[(triton.cdiv(rows, rows_per_program),)](
        x.data_ptr(),
        out,
        scales,
        rows,
        DTYPE=_TRITON_DTYPE[x.dtype],
        C=channels,
        BLOCK=block,
        ROWS=rows_per_program,
        num_warps=launch.warps,
    )
    return Fp8Rows(out, scales)
