"""Launch sizes of the Triton kernels, by compute capability; measured by tests/gpu/tune_kernels.py and measure_products.py."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Empty = Callable[[Sequence[int], torch.dtype, torch.device], Tensor]


@dataclass(frozen=True, kw_only=True)
class Launch:
    """Rows and channels that one program takes, and its warps."""

    rows: int
    channels: int
    warps: int


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """One launch per kernel; `layer_norm.channels` is not used, a program takes whole rows."""

    group_norm_sums: Launch
    group_norm_apply: Launch
    layer_norm: Launch
    geglu: Launch


DEFAULT = Tuning(
    group_norm_sums=Launch(rows=32, channels=128, warps=4),
    group_norm_apply=Launch(rows=32, channels=128, warps=4),
    layer_norm=Launch(rows=1, channels=0, warps=4),
    geglu=Launch(rows=4, channels=256, warps=4),
)
BY_CAPABILITY = {
    # H100 80GB HBM3, 2026-11-22
    (9, 0): Tuning(
        group_norm_sums=Launch(rows=64, channels=128, warps=4),
        group_norm_apply=Launch(rows=16, channels=64, warps=8),
        layer_norm=Launch(rows=4, channels=0, warps=4),
        geglu=Launch(rows=1, channels=512, warps=4),
    ),
}


@functools.cache
def device_tuning(device: torch.device) -> Tuning:
    """Return the launch sizes for a device; the defaults for a CPU, where kernels run in Triton's interpreter."""
    return BY_CAPABILITY.get(torch.cuda.get_device_capability(device), DEFAULT) if device.type == "cuda" else DEFAULT


def fresh(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return an uninitialised tensor of torch's allocator."""
    return torch.empty(tuple(shape), dtype=dtype, device=device)
