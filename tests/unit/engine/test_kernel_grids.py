"""Grids of the kernels on pictures of any size: only the first axis may pass 65535 (CUDA Programming Guide, technical specifications)."""

import importlib
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")


class Kernel:
    """Stands in for a Triton kernel and keeps its grids."""

    def __init__(self) -> None:
        self.grids: list[tuple[int, ...]] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        self.grids.append(grid)
        return lambda *args, **kwargs: None


@pytest.mark.parametrize("channels", [128, 512])
@pytest.mark.parametrize("side", [1024, 4096])
def test_group_norm_of_the_vaes_largest_pictures(monkeypatch, channels, side):
    pictures = importlib.import_module("fast_sprites.nodes.engine.kernels.triton_pictures")
    tuning = importlib.import_module("fast_sprites.nodes.engine.kernels.tuning")
    kernel = Kernel()
    for name in ("_group_norm_sums", "_group_norm_finalize", "_group_norm_apply", "_upsample"):
        monkeypatch.setattr(pictures, name, kernel)
    x = torch.empty(2, side, side, channels, device="meta", dtype=torch.bfloat16)
    weight = torch.empty(channels, device="meta")
    for launches in (tuning.DEFAULT, *tuning.BY_CAPABILITY.values()):
        pictures.group_norm(x, weight, weight, 32, 1e-6, tuning=launches)
    pictures.upsample(x, [2 * side, 2 * side])
    assert len(kernel.grids) == 3 * (1 + len(tuning.BY_CAPABILITY)) + 1
    assert max(max(grid[1:]) for grid in kernel.grids) <= 65535


@pytest.mark.parametrize(
    ("module", "name"), [("runtime", "PTXASError"), ("runtime", "OutOfResources"), ("compiler", "CompilationError")]
)
def test_what_triton_raises_for_a_kernel_that_it_cannot_compile_is_known(module, name):
    ops = importlib.import_module("fast_sprites.nodes.engine.kernels.ops").engine_ops("fast")
    error = getattr(importlib.import_module(f"triton.{module}.errors"), name)
    assert issubclass(error, ops.compile_errors)


@pytest.mark.parametrize("compiler", ["false", "no-such-compiler"])
def test_a_launcher_that_cannot_be_built_is_a_compile_error(compiler, monkeypatch, tmp_path):
    """The C compiler fails (no headers, no libcuda), or is not there."""
    ops = importlib.import_module("fast_sprites.nodes.engine.kernels.ops").engine_ops("fast")
    build = importlib.import_module("triton.runtime.build")
    monkeypatch.setenv("CC", compiler)
    with pytest.raises(ops.compile_errors):
        build._build("launcher", str(tmp_path / "launcher.c"), str(tmp_path), [], [], [], [])


def test_a_cache_that_cannot_be_written_is_a_compile_error(monkeypatch, tmp_path):
    """As the one below a home folder that belongs to another user, or on a full disk."""
    ops = importlib.import_module("fast_sprites.nodes.engine.kernels.ops").engine_ops("fast")
    cache = importlib.import_module("triton.runtime.cache")
    (tmp_path / "file").touch()
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with pytest.raises(ops.compile_errors):
        cache.get_cache_manager("ab")
