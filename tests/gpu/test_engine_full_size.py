"""The engine on a full-size SDXL: error of one forward with and without a graph, LoRA, ControlNet, odd sizes, peak memory."""

import threading
from typing import Any

import pytest
import torch

from .conftest import NODES, WHY_NOT

if NODES is None:
    pytest.skip(WHY_NOT, allow_module_level=True)


from .engine_checks import DEVICE, device_memory, optimize, random_conds, relative_error, sample, with_control, with_lora

# Of one step at CFG 1, which shows one forward; two cuDNN algorithms differ by 1e-3.
FORWARD_TOLERANCE = 2e-3
ONE_STEP: dict[str, Any] = {"steps": 1, "cfg": 1.0}
GIB = 1024**3


@pytest.fixture(scope="module")
def wide_conds(full):
    conds = random_conds()
    sample(full.model, conds, width=1024, height=1024, **ONE_STEP)  # cuDNN chooses other algorithms in a process's first call
    return conds


def check_one_step(watch, ours, stock, conds, **options):
    """Compare the engine's own first step, the captured one and a replayed one with stock's."""
    expected = sample(stock, conds, **ONE_STEP, **options)
    watch.reset()
    for _ in range(3):
        error = relative_error(sample(ours, conds, **ONE_STEP, **options), expected)
        assert error < FORWARD_TOLERANCE, f"relative error {error:.1e}"
    assert (watch.stock, watch.captures, watch.replays) == (1, 2, 2)


@pytest.mark.parametrize("size", [(1024, 1024), (832, 1216), (1000, 760)], ids=str)
def test_one_forward(full, wide_conds, watch, size):
    check_one_step(watch, optimize(full.model)[0], full.model, wide_conds, width=size[0], height=size[1])


def test_batch_of_eight(full, wide_conds, watch):
    check_one_step(watch, optimize(full.model)[0], full.model, wide_conds, width=1024, height=1024, batch=8)


def test_lora_swapped(full, wide_conds):
    ours = optimize(full.model)[0]
    size: dict[str, Any] = {"width": 832, "height": 832}
    plain = sample(full.model, wide_conds, **ONE_STEP, **size)
    for strength, seed in ((1.0, 5), (-0.7, 6)):
        expected = sample(with_lora(full.model, strength, seed), wide_conds, **ONE_STEP, **size)
        assert relative_error(expected, plain) > 10 * FORWARD_TOLERANCE
        after = with_lora(ours, strength, seed)
        for _ in range(2):
            assert relative_error(sample(after, wide_conds, **ONE_STEP, **size), expected) < FORWARD_TOLERANCE
    assert relative_error(sample(ours, wide_conds, **ONE_STEP, **size), plain) < FORWARD_TOLERANCE
    assert torch.equal(sample(full.model, wide_conds, **ONE_STEP, **size), plain)


def test_control_residuals(full, wide_conds, watch):
    controlled = with_control(wide_conds, channels=320)
    size: dict[str, Any] = {"width": 1024, "height": 768}
    plain = sample(full.model, wide_conds, **ONE_STEP, **size)
    assert relative_error(sample(full.model, controlled, **ONE_STEP, **size), plain) > 10 * FORWARD_TOLERANCE
    check_one_step(watch, optimize(full.model)[0], full.model, controlled, **size)


def peak_bytes(model, conds, batch):
    """Return the most that the driver counted as used during two runs, over what was used before them, looking every 2 ms."""
    before, _ = device_memory()  # unloads, and collects what earlier tests left in cycles
    seen, done = [before], threading.Event()

    def look():
        while not done.wait(0.002):
            free, total = torch.cuda.mem_get_info()
            seen.append(total - free)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        for _ in range(2):
            sample(model, conds, width=1024, height=1024, batch=batch, steps=3, cfg=8.0)
        torch.cuda.synchronize()
    finally:
        done.set()
        watcher.join()
    return max(seen) - before


@pytest.mark.skipif(DEVICE.type != "cuda", reason="needs torch's figures of a GPU")
@pytest.mark.parametrize("batch", [1, 8])
def test_peak_is_not_half_a_gib_above_stock(full, wide_conds, batch):
    stock = peak_bytes(full.model, wide_conds, batch)
    ours = peak_bytes(optimize(full.model)[0], wide_conds, batch)
    print(f"batch {batch}: peak stock {stock / GIB:.2f} GiB, ours {ours / GIB:.2f} GiB")
    assert ours - stock <= 0.5 * GIB
