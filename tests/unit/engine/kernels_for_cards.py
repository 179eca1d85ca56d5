"""Compiles every Triton kernel for cards that are not here, as doctor would run them: CAPABILITY ... (80, 121). Needs no GPU.

Prints what was compiled for each card, and for the last what a level of SDXL's UNet compiles on one shape and then on others.

Run by test_kernels.py in a process of its own, because Triton is given a driver that only answers which card it is.
"""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import torch
from triton import runtime
from triton.backends.compiler import GPUTarget

PACK_ROOT = Path(__file__).resolve().parents[3]
spec = importlib.util.spec_from_file_location(
    "fast_sprites", PACK_ROOT / "__init__.py", submodule_search_locations=[str(PACK_ROOT)]
)
assert spec is not None
sys.modules["fast_sprites"] = importlib.util.module_from_spec(spec)

from fast_sprites.nodes.engine.kernels import triton_pictures, triton_tokens  # noqa: E402
from fast_sprites.nodes.engine.kernels.ops import engine_ops  # noqa: E402
from fast_sprites.nodes.engine.kernels.self_test import FP8_CAPABILITY, check_kernels  # noqa: E402

DTYPES = (torch.float16, torch.bfloat16)


class Card:
    """What Triton asks of a driver before it compiles."""

    def __init__(self, capability: int) -> None:
        self.target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> str:
        return str(self.target.arch)  # Triton keeps what it compiled by device

    def get_current_stream(self, device: int) -> int:
        return 0


triton_runtime: Any = runtime  # typed for callers, and this replaces what is inside
compiled: set[tuple[str, int]] = set()
built_for_shapes: set[tuple[str, str]] = set()
run = triton_runtime.jit.JITFunction.run


def compile_only(kernel: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> Any:
    built = run(kernel, *arguments, grid=grid, warmup=True, **options)
    assert built.asm["cubin"]
    compiled.add((kernel.__name__, built.metadata.target.arch))
    built_for_shapes.add((kernel.__name__, built.hash))
    return built


def one_level(samples: int, height: int, width: int, channels: int = 640) -> None:
    """What a level of the UNet launches: GroupNorms with and without embedding and skip, a transformer's kernels, an upsampling."""

    def empty(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.float16)

    x, weight, embedding = empty(samples, height, width, channels), empty(channels), empty(samples, channels)
    for add, silu in ((None, True), (embedding, True), (None, False)):
        triton_pictures.group_norm(x, weight, weight, 32, 1e-5, add=add, silu=silu)
    wide = empty(2 * channels)
    triton_pictures.group_norm(x, wide, wide, 32, 1e-5, second=x)
    triton_pictures.upsample(x, (2 * height, 2 * width))
    tokens = x.view(samples, height * width, channels)
    triton_tokens.residual_layer_norm(tokens, tokens, torch.empty(channels), weight, weight, 1e-5)
    triton_tokens.geglu(empty(samples, height * width, 2 * channels))
    triton_tokens.add_bias(tokens, weight, tokens)


triton_runtime.jit.JITFunction.run = compile_only
for capability in map(int, sys.argv[1:]):
    triton_runtime.driver.set_active(Card(capability))
    with_fp8 = divmod(capability, 10) >= FP8_CAPABILITY
    results = check_kernels(engine_ops("fast"), torch.device("cpu"), DTYPES, with_fp8=with_fp8)
    # Nothing was launched, so nothing can agree with torch; every other failure is the compiler's.
    failed = [f"{result.kernel} {result.dtype}: {result.failure}" for result in results if result.failure != "differs from torch"]
    assert not failed, f"{capability}: {failed}"
    print(capability, *sorted(name for name, arch in compiled if arch == capability))
built_for_shapes.clear()
one_level(2, 64, 64)
first = len(built_for_shapes)
for samples, height, width in ((16, 64, 64), (2, 52, 76), (2, 63, 48), (1, 8, 8), (4, 160, 128)):
    one_level(samples, height, width)
print("shapes", first, len(built_for_shapes) - first)
