"""Triton kernels on pictures [N, H, W, C]; reference.py states what each computes.

GroupNorm in channels-last memory is three launches: per-channel sums over slices of rows, one small reduction to a scale and a
shift per sample and channel, one pass that applies them. Sums are taken relative to each channel's first pixel, so that a large
mean does not cancel the variance away.
"""
# Triton compiles these bodies; its annotations describe neither launches nor values inside them.
# pyright: reportCallIssue=false, reportArgumentType=false, reportIndexIssue=false, reportOperatorIssue=false, reportReturnType=false

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .tuning import Empty, Tuning, device_tuning, fresh

# One program reads this many rows of one channel block; small pictures get fewer, so that every multiprocessor has work.
MAX_ROWS_PER_PROGRAM = 512
# Triton compiles anew for each value of a constexpr, and for arguments that are 1 or divisible by 16. What differs between batches and
# sizes alone is neither: a new shape compiles nothing.


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


@triton.jit(do_not_specialize=["rows", "slices", "per_program"])
def _group_norm_sums(
    x_ptr, second_ptr, sums_ptr, rows, channels, first, slices, per_program,
    TILE: tl.constexpr, BLOCK_C: tl.constexpr, SPLIT: tl.constexpr,
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
    for start in range(0, per_program, TILE):
        r = part * per_program + start + tl.arange(0, TILE)
        ok = (r < rows)[:, None] & c_ok[None, :]
        value = _load_pixels(x_ptr, second_ptr, top + r[:, None], c[None, :], ok, channels, first, SPLIT)
        value = tl.where(ok, value - pivot[None, :], 0.0)
        total += value
        squares += value * value
    out = sums_ptr + ((sample * slices + part) * 2).to(tl.int64) * channels
    tl.store(out + c, tl.sum(total, 0), mask=c_ok)
    tl.store(out + channels + c, tl.sum(squares, 0), mask=c_ok)


@triton.jit(do_not_specialize=["rows", "slices"])
def _group_norm_finalize(
    x_ptr, second_ptr, sums_ptr, weight_ptr, bias_ptr, add_ptr, affine_ptr, rows, channels, first, slices, eps,
    GROUP: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_S: tl.constexpr, HAS_ADD: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    sample = tl.program_id(0)
    group = tl.program_id(1)
    g = tl.arange(0, BLOCK_G)
    ok = g < GROUP
    c = group * GROUP + g
    total = tl.zeros([BLOCK_G], tl.float32)
    squares = tl.zeros([BLOCK_G], tl.float32)
    for start in range(0, slices, BLOCK_S):
        s = start + tl.arange(0, BLOCK_S)
        where = sums_ptr + ((sample * slices + s) * 2)[:, None].to(tl.int64) * channels + c[None, :]
        both = (s < slices)[:, None] & ok[None, :]
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


@triton.jit(do_not_specialize=["rows"])
def _group_norm_apply(
    x_ptr, second_ptr, affine_ptr, out_ptr, rows, channels, first,
    TILE: tl.constexpr, BLOCK_C: tl.constexpr, SILU: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    sample = tl.program_id(1)
    c = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    c_ok = c < channels
    r = tl.program_id(0) * TILE + tl.arange(0, TILE)
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


@triton.jit(do_not_specialize=["rows", "height", "width", "out_height", "out_width"])
def _upsample(x_ptr, out_ptr, rows, height, width, out_height, out_width, channels, TILE: tl.constexpr, BLOCK_C: tl.constexpr):
    r = tl.program_id(0) * TILE + tl.arange(0, TILE)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    ok = (r < rows)[:, None] & (c < channels)[None, :]
    row, column = r // out_width, r % out_width
    sample, row = row // out_height, row % out_height
    source = (sample * height + row * height // out_height) * width + column * width // out_width
    value = tl.load(x_ptr + source[:, None].to(tl.int64) * channels + c[None, :], mask=ok)
    tl.store(out_ptr + r[:, None].to(tl.int64) * channels + c[None, :], value, mask=ok)


def _channel_block(channels: int, widest: int) -> int:
    block = widest
    while block > 32 and channels % block:
        block //= 2
    return block


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
    in_place: bool = False,
    empty: Empty = fresh,
    tuning: Tuning | None = None,
) -> Tensor:
    """Return GroupNorm of `x + add` over channel groups, then SiLU if asked; see reference.group_norm."""
    samples, height, width, first = x.shape
    channels = weight.shape[0]
    other = x if second is None else second
    split = second is not None
    rows = height * width
    tuning = tuning or device_tuning(x.device)
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
    # In place each tile is read whole before it is written: by one thread for each element, as tiles have more of them than threads.
    out = x if in_place else empty((samples, height, width, channels), x.dtype, x.device)
    _group_norm_sums[(samples, blocks, slices)](
        x, other, sums, rows, channels, first, slices, per_program,
        TILE=sums_launch.rows, BLOCK_C=block, SPLIT=split, num_warps=sums_launch.warps,
    )  # fmt: skip
    group = channels // groups
    _group_norm_finalize[(samples, groups)](
        x, other, sums, weight, bias, x if add is None else add, affine, rows, channels, first, slices, eps,
        GROUP=group, BLOCK_G=triton.next_power_of_2(group), BLOCK_S=16, HAS_ADD=add is not None, SPLIT=split,
        num_warps=1,
    )  # fmt: skip
    block = _channel_block(channels, apply_launch.channels)
    # rows first: the other axes of a grid end at 65535, and a VAE's picture of 1024x1024 has 65536 tiles
    _group_norm_apply[(triton.cdiv(rows, apply_launch.rows), samples, triton.cdiv(channels, block))](
        x, other, affine, out, rows, channels, first,
        TILE=apply_launch.rows, BLOCK_C=block, SILU=silu, SPLIT=split, num_warps=apply_launch.warps,
    )  # fmt: skip
    return out


def upsample(x: Tensor, size: Sequence[int], *, empty: Empty = fresh) -> Tensor:
    """Return the picture [N, H, W, C] at `size` (height, width), nearest neighbour."""
    samples, height, width, channels = x.shape
    out_height, out_width = size
    out = empty((samples, out_height, out_width, channels), x.dtype, x.device)
    rows, tile, block = samples * out_height * out_width, 16, _channel_block(channels, 128)
    _upsample[(triton.cdiv(rows, tile), triton.cdiv(channels, block))](
        x, out, rows, height, width, out_height, out_width, channels, TILE=tile, BLOCK_C=block, num_warps=4
    )
    return out
