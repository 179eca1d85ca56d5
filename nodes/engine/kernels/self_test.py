"""Every operation that the fast engine does itself, on Triton and on torch, on small inputs of SDXL's shapes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .ops import TorchOps
from .reference import Fp8Rows

# Relative error allowed: both round once from fp32 to the dtype, and sums run in another order.
TOLERANCE = {torch.float16: 1e-3, torch.bfloat16: 8e-3, torch.float32: 1e-5}
# A value between two of FP8's may go to the other one.
FP8_TOLERANCE = 3e-3
FP8_CAPABILITY = (8, 9)


class Inputs:
    """The same tensors in the same order for both ways of computing."""

    def __init__(self, device: torch.device, dtype: torch.dtype):
        self._generator = torch.Generator().manual_seed(7)
        self._device = device
        self._dtype = dtype

    def __call__(self, *shape: int) -> Tensor:
        """Return normally distributed values about 1 in the dtype of the test."""
        return self.fp32(*shape).to(self._dtype)

    def fp32(self, *shape: int) -> Tensor:
        """Return normally distributed values about 1 in fp32."""
        return (torch.randn(shape, generator=self._generator) + 1).to(self._device)


@dataclass(frozen=True)
class KernelCase:
    """One operation on inputs of its own; `uses_fp8` ones need hardware for it."""

    kernel: str
    run: Callable[[Any, Inputs], Any]
    uses_fp8: bool = False


CASES = (
    KernelCase("GroupNorm", lambda ops, t: ops.group_norm(t(2, 64, 64, 640), t(640), t(640), 32, 1e-5, silu=False)),
    KernelCase(
        "GroupNorm + embedding + SiLU",
        lambda ops, t: ops.group_norm(t(2, 32, 32, 1280), t(1280), t(1280), 32, 1e-5, add=t(2, 1280)),
    ),
    KernelCase(
        "GroupNorm of two pictures",
        lambda ops, t: ops.group_norm(t(1, 13, 19, 640), t(960), t(960), 32, 1e-5, second=t(1, 13, 19, 320)),
    ),
    KernelCase("bias + residual", lambda ops, t: ops.add_bias(t(2, 64, 64, 320), t(320), t(2, 64, 64, 320))),
    KernelCase(
        "residual + LayerNorm",
        lambda ops, t: ops.residual_layer_norm(t(2, 1024, 1280), t(2, 1024, 1280), t.fp32(1280), t(1280), t(1280), 1e-5),
    ),
    KernelCase("GEGLU", lambda ops, t: ops.geglu(t(2, 247, 5120))),
    KernelCase("upsample", lambda ops, t: ops.upsample(t(2, 19, 13, 640), [37, 26])),
    KernelCase("quantise rows", lambda ops, t: ops.quantize_rows(t(2, 247, 1280)), uses_fp8=True),
    KernelCase("GEGLU in FP8", lambda ops, t: ops.geglu(t(2, 247, 10240), fp8=True), uses_fp8=True),
)


@dataclass(frozen=True, kw_only=True)
class KernelResult:
    """How far an operation on Triton lies from torch's; `failure` is "" where it agrees."""

    kernel: str
    dtype: str
    relative_error: float | None
    tolerance: float
    failure: str

    @property
    def passed(self) -> bool:
        """Tell whether both agree."""
        return not self.failure


def check_kernels(ops: TorchOps, device: torch.device, dtypes: Sequence[torch.dtype], *, with_fp8: bool) -> list[KernelResult]:
    """Compare every case on `ops` with torch's own kernels on `device`."""
    return [_check(case, ops, device, dtype) for case in CASES if with_fp8 or not case.uses_fp8 for dtype in dtypes]


def _check(case: KernelCase, ops: TorchOps, device: torch.device, dtype: torch.dtype) -> KernelResult:
    tolerance = max(FP8_TOLERANCE, TOLERANCE[dtype]) if case.uses_fp8 else TOLERANCE[dtype]
    error: float | None = None
    failure = ""
    try:
        out, expected = (list(_tensors(case.run(way, Inputs(device, dtype)))) for way in (ops, TorchOps()))
        error = max(_relative_error(a, b) for a, b in zip(out, expected, strict=True))
        if not error <= tolerance:  # also where it is not a number
            failure = "differs from torch"
    except Exception as raised:  # noqa: BLE001 - compilers, launchers and drivers raise what they like, and all of it is the finding
        failure = f"{type(raised).__name__}: {str(raised).partition(chr(10))[0]}"
    name = str(dtype).removeprefix("torch.")
    return KernelResult(kernel=case.kernel, dtype=name, relative_error=error, tolerance=tolerance, failure=failure)


def _tensors(result: Any) -> Iterator[Tensor]:
    if isinstance(result, Fp8Rows):
        yield result.dequantize()
    elif isinstance(result, Tensor):
        yield result
    else:
        for part in result:
            yield from _tensors(part)


def _relative_error(out: Tensor, expected: Tensor) -> float:
    difference = torch.linalg.vector_norm(out.double() - expected.double())
    return (difference / torch.linalg.vector_norm(expected.double())).item()
