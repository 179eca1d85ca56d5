"""The operations that the engine's forwards are written in, on torch alone or on Triton.

Pictures are [N, H, W, C] contiguous, tokens [N, L, C].
"""

import contextlib
import importlib
import subprocess
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from . import reference
from .arena import Source
from .reference import Fp8Rows


def nhwc(x: Tensor) -> Tensor:
    """Return the [N, H, W, C] view of an [N, C, H, W] picture, copying only if it is not channels-last."""
    return x.permute(0, 2, 3, 1).contiguous()


def nchw(x: Tensor) -> Tensor:
    """Return the [N, C, H, W] view of contiguous [N, H, W, C] memory."""
    return x.permute(0, 3, 1, 2)


class TorchOps:
    """Every operation on torch's own kernels; tensors come from torch's allocator."""

    name = "torch"
    compile_errors: tuple[type[Exception], ...] = ()
    """What is raised where a kernel cannot be compiled for the device."""

    @contextlib.contextmanager
    def allocating_from(self, source: Source | None) -> Iterator[None]:
        """Take results from `source` where the operations allow it; here they do not."""
        yield

    def group_norm(
        self,
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
    ) -> Tensor:
        """See reference.group_norm."""
        return reference.group_norm(x, weight, bias, groups, eps, second=second, add=add, silu=silu, in_place=in_place)

    def add_bias(self, x: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
        """See reference.add_bias."""
        return reference.add_bias(x, bias, residual)

    def residual_layer_norm(
        self, x: Tensor, delta: Tensor | None, offset: Tensor, weight: Tensor, bias: Tensor, eps: float, *, fp8: bool = False
    ) -> tuple[Tensor, Tensor | Fp8Rows]:
        """See reference.residual_layer_norm and residual_layer_norm_fp8."""
        norm = reference.residual_layer_norm_fp8 if fp8 else reference.residual_layer_norm
        return norm(x, delta, offset, weight, bias, eps)

    def geglu(self, projected: Tensor, *, fp8: bool = False) -> Tensor | Fp8Rows:
        """See reference.geglu and geglu_fp8."""
        return reference.geglu_fp8(projected) if fp8 else reference.geglu(projected)

    def quantize_rows(self, x: Tensor) -> Fp8Rows:
        """See reference.quantize_rows."""
        return reference.quantize_rows(x)

    def fp8_linear(self, x: Fp8Rows, weight: Fp8Rows, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
        """See reference.fp8_linear."""
        return reference.fp8_linear(x, weight, bias, dtype)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return `x @ weight.T + bias` over the last dimension."""
        return F.linear(x, weight, bias)

    def linear_onto(self, total: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """Add `x @ weight.T` to contiguous `total` in place and return it: the product is rounded once, and never written alone."""
        total.view(-1, total.shape[-1]).addmm_(x.reshape(-1, x.shape[-1]), weight.t())
        return total

    def conv(self, x: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int]) -> Tensor:
        """Return the convolution of [N, H, W, C] with channels-last `weight`, without a bias."""
        return nhwc(F.conv2d(nchw(x), weight, None, stride=tuple(stride), padding=tuple(padding)))

    def cat(self, x: Tensor, y: Tensor) -> Tensor:
        """Return both pictures' channels side by side."""
        return torch.cat([x, y], dim=3)

    def upsample(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """Return the picture at `size` (height, width), nearest neighbour."""
        return nhwc(F.interpolate(nchw(x), size=tuple(size), mode="nearest"))


class TritonOps(TorchOps):
    """Fused operations on Triton kernels, the rest on torch; every result that a kernel reads can come from a Source."""

    name = "triton"

    def __init__(self) -> None:
        self._pictures: ModuleType = importlib.import_module(".triton_pictures", __package__)
        self._tokens: ModuleType = importlib.import_module(".triton_tokens", __package__)
        # PTXASError, CompilationError and OutOfResources are no RuntimeErrors; the others are a C compiler that fails or is gone, and a
        # cache that cannot be written (triton/runtime/build.py and cache.py).
        self.compile_errors = (importlib.import_module("triton.errors").TritonError, subprocess.CalledProcessError, OSError)
        self._source: Source | None = None

    def __deepcopy__(self, memo: Any) -> "TritonOps":
        """Return a new one: modules cannot be copied, and packs copy whole models and VAEs."""
        return TritonOps()

    @contextlib.contextmanager
    def allocating_from(self, source: Source | None) -> Iterator[None]:
        """Take results from `source` inside the body, from torch's allocator where it is None."""
        self._source = source
        try:
            yield
        finally:
            self._source = None

    def _empty(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        if self._source is not None:
            return self._source.empty(shape, dtype, device)
        return torch.empty(tuple(shape), dtype=dtype, device=device)

    def group_norm(
        self,
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
    ) -> Tensor:
        """See reference.group_norm."""
        return self._pictures.group_norm(
            x, weight, bias, groups, eps, second=second, add=add, silu=silu, in_place=in_place, empty=self._empty
        )

    def add_bias(self, x: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
        """See reference.add_bias."""
        return self._tokens.add_bias(x, bias, residual)

    def residual_layer_norm(
        self, x: Tensor, delta: Tensor | None, offset: Tensor, weight: Tensor, bias: Tensor, eps: float, *, fp8: bool = False
    ) -> tuple[Tensor, Tensor | Fp8Rows]:
        """See reference.residual_layer_norm and residual_layer_norm_fp8."""
        return self._tokens.residual_layer_norm(x, delta, offset, weight, bias, eps, fp8=fp8, empty=self._empty)

    def geglu(self, projected: Tensor, *, fp8: bool = False) -> Tensor | Fp8Rows:
        """See reference.geglu and geglu_fp8."""
        if fp8:
            return self._tokens.geglu_fp8(projected, empty=self._empty)
        return self._tokens.geglu(projected, empty=self._empty)

    def quantize_rows(self, x: Tensor) -> Fp8Rows:
        """See reference.quantize_rows."""
        return self._tokens.quantize_rows(x.contiguous(), empty=self._empty)

    def fp8_linear(self, x: Fp8Rows, weight: Fp8Rows, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
        """See reference.fp8_linear; products are summed in fewer bits than fp32 (use_fast_accum)."""
        features = weight.values.shape[0]
        out = self._empty((*x.values.shape[:-1], features), dtype, x.values.device)
        torch._scaled_mm(  # pyright: ignore[reportPrivateImportUsage]
            x.values.view(-1, x.values.shape[-1]),
            weight.values.t(),
            scale_a=x.scales.view(-1, 1),
            scale_b=weight.scales.view(1, -1),
            bias=bias,
            out_dtype=dtype,
            use_fast_accum=True,
            out=out.view(-1, features),
        )
        return out

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return `x @ weight.T + bias` over the last dimension."""
        out = self._empty((*x.shape[:-1], weight.shape[0]), x.dtype, x.device)
        rows, result = x.reshape(-1, x.shape[-1]), out.view(-1, weight.shape[0])
        if bias is None:
            torch.mm(rows, weight.t(), out=result)
        else:
            torch.addmm(bias, rows, weight.t(), out=result)
        return out

    def conv(self, x: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int]) -> Tensor:
        """Return the convolution of [N, H, W, C] with channels-last `weight`, without a bias."""
        n, height, width, _ = x.shape
        kernel = weight.shape[2:]
        size = [(s + 2 * p - k) // step + 1 for s, p, k, step in zip((height, width), padding, kernel, stride, strict=True)]
        out = self._empty((n, *size, weight.shape[0]), x.dtype, x.device)
        cudnn = torch.backends.cudnn
        torch.ops.aten.cudnn_convolution.out(
            nchw(x),
            weight,
            list(padding),
            list(stride),
            [1, 1],
            1,
            cudnn.benchmark,
            cudnn.deterministic,
            cudnn.allow_tf32,
            out=nchw(out),
        )
        return out

    def cat(self, x: Tensor, y: Tensor) -> Tensor:
        """Return both pictures' channels side by side."""
        out = self._empty((*x.shape[:3], x.shape[3] + y.shape[3]), x.dtype, x.device)
        return torch.cat([x, y], dim=3, out=out)

    def upsample(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """Return the picture at `size` (height, width), nearest neighbour."""
        return self._pictures.upsample(x, size, empty=self._empty)


def compile_failure(error: Exception) -> str:
    """Return one of `compile_errors` in a line."""
    return f"Triton cannot compile a kernel for this device ({type(error).__name__}: {str(error).partition(chr(10))[0]})"


def engine_ops(engine: str) -> TorchOps:
    """Return the operations of `engine`: "fast" on Triton (imported only here), anything else on torch."""
    return TritonOps() if engine == "fast" else TorchOps()
