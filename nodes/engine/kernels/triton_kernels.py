"""The fused operations of the engine as Triton kernels; reference.py states what each computes.

GroupNorm in channels-last memory is three launches: per-channel sums over slices of rows, one small reduction to a scale and a
shift per sample and channel, one pass that applies them. Sums are taken relative to each channel's first pixel, so that a large
mean does not cancel the variance away.
"""
# Triton compiles these bodies; its annotations describe neither launches nor values inside them.
# pyright: reportCallIssue=false, reportArgumentType=false, reportIndexIssue=false, reportOperatorIssue=false, reportReturnType=false

import functools
from collections.abc import Callable, Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .reference import FP8, FP8_MAX, SMALLEST_SCALE, Fp8Rows
from .tuning import DEFAULT, Tuning, tuning_for

Empty = Callable[[Sequence[int], torch.dtype, torch.device], Tensor]

_TRITON_DTYPE = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16, torch.float32: tl.float32}
_FP8_MAX = tl.constexpr(FP8_MAX)
_SMALLEST_SCALE = tl.constexpr(SMALLEST_SCALE)

# One program reads this many rows of one channel block; small pictures get fewer, so that every multiprocessor has work.
MAX_ROWS_PER_PROGRAM = 512


@triton.jit
def _load_pixels(x_ptr, second_ptr, row, c, ok, channels, first, SPLIT: tl.constexpr):
    """Load channels `c` of pixels `row` in fp32, from x and, where SPLIT, from `first` on out of the second picture."""
    if SPLIT:
        value = tl.load(x_ptr + row * first + c, mask=ok & (c < first), other=0.0).to(tl.float32)
        beyond = second_ptr + row * (channels - first) + (c - first)
        value += tl.load(beyond, mask=ok & (c >= first), other=0.0).to(tl.float32)
    else:
        value = tl.load(x_ptr + row * channels + c, mask=ok, other=0.0).to(tl.float32)
    return value


@triton.jit
def _group_norm_sums(
    x_ptr, second_ptr, sums_ptr, rows, channels, first, slices,
    ROWS: tl.constexpr, TILE: tl.constexpr, BLOCK_C: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    sample = tl.program_id(0)
    block = tl.program_id(1)
    part = tl.program_id(2)
    c = block * BLOCK_C + tl.arange(0, BLOCK_C)
    c_ok = c < channels
    top = sample.to(tl.int64) * rows
    pivot = _load_pixels(x_ptr, second_ptr, top, c, c_ok, channels, first, SPLIT)
    total = tl.zeros([TILE, BLOCK_C], tl.float32)
    squares = tl.zeros([TILE, BLOCK_C], tl.float32)
    for start in range(0, ROWS, TILE):
        r = part * ROWS + start + tl.arange(0, TILE)
        ok = (r < rows)[:, None] & c_ok[None, :]
        value = _load_pixels(x_ptr, second_ptr, top + r[:, None], c[None, :], ok, channels, first, SPLIT)
        value = tl.where(ok, value - pivot[None, :], 0.0)
        total += value
        squares += value * value
    out = sums_ptr + ((sample * slices + part) * 2).to(tl.int64) * channels
    tl.store(out + c, tl.sum(total, 0), mask=c_ok)
    tl.store(out + channels + c, tl.sum(squares, 0), mask=c_ok)


@triton.jit
def _group_norm_finalize(
    x_ptr, second_ptr, sums_ptr, weight_ptr, bias_ptr, add_ptr, affine_ptr, rows, channels, first, eps,
    SLICES: tl.constexpr, GROUP: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_S: tl.constexpr, HAS_ADD: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    sample = tl.program_id(0)
    group = tl.program_id(1)
    g = tl.arange(0, BLOCK_G)
    ok = g < GROUP
    c = group * GROUP + g
    total = tl.zeros([BLOCK_G], tl.float32)
    squares = tl.zeros([BLOCK_G], tl.float32)
    for start in range(0, SLICES, BLOCK_S):
        s = start + tl.arange(0, BLOCK_S)
        where = sums_ptr + ((sample * SLICES + s) * 2)[:, None].to(tl.int64) * channels + c[None, :]
        both = (s < SLICES)[:, None] & ok[None, :]
        total += tl.sum(tl.load(where, mask=both, other=0.0), 0)
        squares += tl.sum(tl.load(where + channels, mask=both, other=0.0), 0)
    pivot = _load_pixels(x_ptr, second_ptr, sample.to(tl.int64) * rows, c, ok, channels, first, SPLIT)
    mean = pivot + total / rows
    spread = squares - total * total / rows
    shift = tl.zeros([BLOCK_G], tl.float32)
    if HAS_ADD:
        shift = tl.load(add_ptr + sample * channels + c, mask=ok, other=0.0).to(tl.float32)
    mean = tl.where(ok, mean + shift, 0.0)
    group_mean = tl.sum(mean, 0) / GROUP
    away = tl.where(ok, mean - group_mean, 0.0)
    variance = (tl.sum(tl.where(ok, spread, 0.0), 0) / rows + tl.sum(away * away, 0)) / GROUP
    scale = tl.load(weight_ptr + c, mask=ok, other=0.0).to(tl.float32) / tl.sqrt(variance + eps)
    offset = tl.load(bias_ptr + c, mask=ok, other=0.0).to(tl.float32) + (shift - group_mean) * scale
    out = affine_ptr + sample * 2 * channels + c
    tl.store(out, scale, mask=ok)
    tl.store(out + channels, offset, mask=ok)


@triton.jit
def _group_norm_apply(
    x_ptr, second_ptr, affine_ptr, out_ptr, rows, channels, first,
    TILE: tl.constexpr, BLOCK_C: tl.constexpr, SILU: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    sample = tl.program_id(0)
    c = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    c_ok = c < channels
    r = tl.program_id(1) * TILE + tl.arange(0, TILE)
    affine = affine_ptr + sample * 2 * channels + c
    scale = tl.load(affine, mask=c_ok, other=0.0)
    offset = tl.load(affine + channels, mask=c_ok, other=0.0)
    ok = (r < rows)[:, None] & c_ok[None, :]
    row = sample.to(tl.int64) * rows + r[:, None]
    value = _load_pixels(x_ptr, second_ptr, row, c[None, :], ok, channels, first, SPLIT)
    value = value * scale[None, :] + offset[None, :]
    if SILU:
        value = value * tl.sigmoid(value)
    tl.store(out_ptr + row * channels + c[None, :], value.to(out_ptr.dtype.element_ty), mask=ok)


@triton.jit
def _add_bias(
    x_ptr,
    bias_ptr,
    residual_ptr,
    out_ptr,
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
    tl.store(out_ptr + at, value.to(out_ptr.dtype.element_ty), mask=ok)


@triton.jit
def _row_scales(values, scales_ptr, r, rows):
    """Store the scale that puts each row's largest magnitude at FP8's largest, return its inverse; `values` are 0 outside the row."""
    scales = tl.maximum(tl.max(tl.abs(values), 1) / _FP8_MAX, _SMALLEST_SCALE)
    tl.store(scales_ptr + r, scales, mask=r < rows)
    return (1.0 / scales)[:, None]


@triton.jit
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


@triton.jit
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


@triton.jit
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


@triton.jit
def _upsample(x_ptr, out_ptr, rows, height, width, out_height, out_width, channels, TILE: tl.constexpr, BLOCK_C: tl.constexpr):
    r = tl.program_id(0) * TILE + tl.arange(0, TILE)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    ok = (r < rows)[:, None] & (c < channels)[None, :]
    row, column = r // out_width, r % out_width
    sample, row = row // out_height, row % out_height
    source = (sample * height + row * height // out_height) * width + column * width // out_width
    value = tl.load(x_ptr + source[:, None].to(tl.int64) * channels + c[None, :], mask=ok)
    tl.store(out_ptr + r[:, None].to(tl.int64) * channels + c[None, :], value, mask=ok)


def _fresh(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.empty(tuple(shape), dtype=dtype, device=device)


def _channel_block(channels: int, widest: int) -> int:
    block = widest
    while block > 32 and channels % block:
        block //= 2
    return block


@functools.cache
def _tuning(device: torch.device) -> Tuning:
    return tuning_for(torch.cuda.get_device_capability(device)) if device.type == "cuda" else DEFAULT


def group_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    *,
    second: Tensor | None = None,
    add: Tensor | None = None,
    silu: bool = True,
    empty: Empty = _fresh,
    tuning: Tuning | None = None,
) -> Tensor:
    """Return GroupNorm of `x + add` over channel groups, then SiLU if asked; see reference.group_norm."""
    samples, height, width, first = x.shape
    channels = weight.shape[0]
    other = x if second is None else second
    split = second is not None
    rows = height * width
    tuning = tuning or _tuning(x.device)
    sums_launch, apply_launch = tuning.group_norm_sums, tuning.group_norm_apply
    block = _channel_block(channels, sums_launch.channels)
    blocks = triton.cdiv(channels, block)
    # about eight programs for each of a large card's 132 multiprocessors
    wanted_slices = max(1, 1056 // (samples * blocks))
    per_program = min(MAX_ROWS_PER_PROGRAM, triton.next_power_of_2(triton.cdiv(rows, wanted_slices)))
    per_program = max(sums_launch.rows, per_program)
    slices = triton.cdiv(rows, per_program)
    sums = empty((samples, slices, 2, channels), torch.float32, x.device)
    affine = empty((samples, 2, channels), torch.float32, x.device)
    out = empty((samples, height, width, channels), x.dtype, x.device)
    _group_norm_sums[(samples, blocks, slices)](
        x, other, sums, rows, channels, first, slices,
        ROWS=per_program, TILE=sums_launch.rows, BLOCK_C=block, SPLIT=split, num_warps=sums_launch.warps,
    )  # fmt: skip
    group = channels // groups
    _group_norm_finalize[(samples, groups)](
        x, other, sums, weight, bias, x if add is None else add, affine, rows, channels, first, eps,
        SLICES=slices, GROUP=group, BLOCK_G=triton.next_power_of_2(group), BLOCK_S=16, HAS_ADD=add is not None, SPLIT=split,
        num_warps=1,
    )  # fmt: skip
    block = _channel_block(channels, apply_launch.channels)
    _group_norm_apply[(samples, triton.cdiv(rows, apply_launch.rows), triton.cdiv(channels, block))](
        x, other, affine, out, rows, channels, first,
        TILE=apply_launch.rows, BLOCK_C=block, SILU=silu, SPLIT=split, num_warps=apply_launch.warps,
    )  # fmt: skip
    return out


def add_bias(x: Tensor, bias: Tensor | None, residual: Tensor | None, *, empty: Empty = _fresh) -> Tensor:
    """Return `x + bias + residual`; see reference.add_bias."""
    out = empty(x.shape, x.dtype, x.device)
    block = 2048
    _add_bias[(triton.cdiv(x.numel(), block),)](
        x, x if bias is None else bias, x if residual is None else residual, out, x.numel(), x.shape[-1],
        BLOCK=block, HAS_BIAS=bias is not None, HAS_RESIDUAL=residual is not None, num_warps=4,
    )  # fmt: skip
    return out


def residual_layer_norm(
    x: Tensor,
    delta: Tensor | None,
    offset: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    *,
    fp8: bool = False,
    empty: Empty = _fresh,
    tuning: Tuning | None = None,
) -> tuple[Tensor, Tensor | Fp8Rows]:
    """Return the sum and its LayerNorm, in FP8 if asked; see reference.residual_layer_norm and residual_layer_norm_fp8."""
    channels = x.shape[-1]
    rows = x.numel() // channels
    total = x if delta is None else empty(x.shape, x.dtype, x.device)
    out = empty(x.shape, FP8 if fp8 else x.dtype, x.device)
    scales = empty((*x.shape[:-1], 1), torch.float32, x.device) if fp8 else x
    launch = (tuning or _tuning(x.device)).layer_norm
    block = triton.next_power_of_2(channels)
    rows_per_program = launch.rows * max(1, 2048 // block)
    _residual_layer_norm[(triton.cdiv(rows, rows_per_program),)](
        x, x if delta is None else delta, weight if offset is None else offset, weight, bias, total, out, scales, rows, eps,
        C=channels, BLOCK=block, ROWS=rows_per_program, HAS_DELTA=delta is not None, HAS_OFFSET=offset is not None, FP8=fp8,
        num_warps=launch.warps,
    )  # fmt: skip
    return total, Fp8Rows(out, scales) if fp8 else out


def geglu(projected: Tensor, *, empty: Empty = _fresh, tuning: Tuning | None = None) -> Tensor:
    """Return `value * gelu(gate)`; see reference.geglu."""
    inner = projected.shape[-1] // 2
    rows = projected.numel() // (2 * inner)
    out = empty((*projected.shape[:-1], inner), projected.dtype, projected.device)
    launch = (tuning or _tuning(projected.device)).geglu
    _geglu[(triton.cdiv(rows, launch.rows), triton.cdiv(inner, launch.channels))](
        projected, out, rows, INNER=inner, TILE=launch.rows, BLOCK=launch.channels, num_warps=launch.warps
    )
    return out


def geglu_fp8(projected: Tensor, *, empty: Empty = _fresh) -> Fp8Rows:
    """Return `value * gelu(gate)` in FP8; see reference.geglu_fp8."""
    inner = projected.shape[-1] // 2
    rows = projected.numel() // (2 * inner)
    out = empty((*projected.shape[:-1], inner), FP8, projected.device)
    scales = empty((*projected.shape[:-1], 1), torch.float32, projected.device)
    first = 1 << (inner.bit_length() - 1)
    rest = triton.next_power_of_2(max(1, inner - first))
    _geglu_fp8[(rows,)](projected, out, scales, INNER=inner, FIRST=first, REST=rest, num_warps=8)
    return Fp8Rows(out, scales)


def quantize_rows(x: Tensor, *, empty: Empty = _fresh, tuning: Tuning | None = None) -> Fp8Rows:
    """Return contiguous `x` in FP8 with a scale per row; see reference.quantize_rows.

    The kernel takes the address of `x` as a number, which Triton's launcher does not look up: attention's result, which is
    allocated during a graph's capture, has an address that the lookup refuses. Rows are 16-byte aligned.
    """
    channels = x.shape[-1]
    rows = x.numel() // channels
    out = empty(x.shape, FP8, x.device)
    scales = empty((*x.shape[:-1], 1), torch.float32, x.device)
    launch = (tuning or _tuning(x.device)).layer_norm
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


def upsample(x: Tensor, size: Sequence[int], *, empty: Empty = _fresh) -> Tensor:
    """Return the picture [N, H, W, C] at `size` (height, width), nearest neighbour."""
    samples, height, width, channels = x.shape
    out_height, out_width = size
    out = empty((samples, out_height, out_width, channels), x.dtype, x.device)
    rows, tile, block = samples * out_height * out_width, 16, _channel_block(channels, 128)
    _upsample[(triton.cdiv(rows, tile), triton.cdiv(channels, block))](
        x, out, rows, height, width, out_height, out_width, channels, TILE=tile, BLOCK_C=block, num_warps=4
    )
    return out
