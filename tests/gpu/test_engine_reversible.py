"""Nothing is left behind: the stock branch stays bit-identical, and memory comes back, whatever happened in ours."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch

from .conftest import NODES, WHY_NOT

if NODES is None:
    pytest.skip(WHY_NOT, allow_module_level=True)

import comfy.model_management
from comfy.model_management import InterruptProcessingException

from ..lora_keys import LORA_KEYS
from .engine_checks import (
    DEVICE,
    ON_CPU,
    TOLERANCE,
    StopError,
    device_memory,
    optimize,
    random_conds,
    relative_error,
    sample,
    with_control,
    with_lora,
)


def test_stock_branch_is_bit_identical_before_between_and_after(tiny, conds):
    settings = [{}, {"width": 104, "height": 152}, {"batch": 3}]
    before = [sample(tiny.model, conds, **s) for s in settings]
    ours = optimize(tiny.model)[0]
    for s, expected in zip(settings, before, strict=True):
        sample(ours, conds, **s)
        assert torch.equal(sample(tiny.model, conds, **s), expected)
    sample(with_lora(ours, 1.0), conds)
    for s, expected in zip(settings, before, strict=True):
        assert torch.equal(sample(tiny.model, conds, **s), expected)


def planted(error: type[Exception]) -> Callable[[], None]:
    """Return a function that raises, as the person, the device or another node would."""

    def cancel() -> None:
        comfy.model_management.interrupt_current_processing(True)
        comfy.model_management.throw_exception_if_processing_interrupted()

    def fail() -> None:
        raise error("planted")

    return cancel if error is InterruptProcessingException else fail


ERRORS = [StopError, InterruptProcessingException, torch.OutOfMemoryError]


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("where", ["first step", "capture"])
def test_an_error_in_the_engine(tiny, conds, watch, error, where):
    before = sample(tiny.model, conds)
    ours = optimize(tiny.model)[0]
    plant, calls = planted(error), []

    def fail(capturing: bool) -> None:
        calls.append(capturing)
        if capturing is (where == "capture") and len(calls) % 2 == 0:  # the second of two upsamplers: in mid-forward
            plant()

    watch.fail = fail
    if error is torch.OutOfMemoryError:  # the engine steps back for the rest of the run
        assert relative_error(sample(ours, conds), before) < TOLERANCE
    else:
        with pytest.raises(error):
            sample(ours, conds)
    assert (where == "capture") in calls
    watch.fail = None
    assert torch.equal(sample(tiny.model, conds), before)
    watch.reset()
    assert relative_error(sample(ours, conds), before) < TOLERANCE
    assert (watch.captures, watch.stock) == (2, 1 if where == "first step" else 0), "the engine did not recover"
    assert torch.equal(sample(tiny.model, conds), before)


@pytest.mark.parametrize("error", ERRORS)
def test_an_error_in_another_nodes_patch_at_a_later_step(tiny, conds, error):
    before = sample(tiny.model, conds)
    ours = optimize(tiny.model)[0]
    plant, calls = planted(error), []

    def patch(h: torch.Tensor, _options: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) > 25:
            plant()
        return h

    failing = ours.clone()
    failing.set_model_input_block_patch(patch)
    with pytest.raises(error):
        sample(failing, conds)
    assert torch.equal(sample(tiny.model, conds), before)
    assert relative_error(sample(ours, conds), before) < TOLERANCE


def test_memory_running_out_in_a_capture_with_control(tiny, conds, watch):
    """A forward takes a ControlNet's residuals out of their lists; the second attempt needs them again."""
    controlled = with_control(conds)
    expected = sample(tiny.model, controlled)

    def fail(capturing: bool) -> None:
        if capturing:
            raise torch.OutOfMemoryError("planted")

    watch.fail = fail
    assert relative_error(sample(optimize(tiny.model)[0], controlled), expected) < TOLERANCE


@pytest.mark.parametrize("wait", [lambda t: t.item(), lambda t: t.nonzero(), lambda t: t.to(torch.float64).cpu()])
def test_what_waits_for_the_device_costs_the_graph_alone(tiny, conds, watch, caplog, wait):
    if ON_CPU and "cpu" in wait.__code__.co_names:
        pytest.skip("a copy to the CPU costs a CPU nothing")
    before = sample(tiny.model, conds)
    ours = optimize(tiny.model)[0]
    watch.fail = lambda capturing: wait(torch.ones((), device=DEVICE))
    for _ in range(2):
        caplog.clear()
        with caplog.at_level("INFO", "fast_sprites"):
            assert relative_error(sample(ours, conds), before) < TOLERANCE
        assert "waits for the device" in caplog.text
    assert (watch.captures, watch.replays) == (0, 0)
    watch.fail = None
    assert torch.equal(sample(tiny.model, conds), before)
    assert relative_error(sample(optimize(tiny.model)[0], conds), before) < TOLERANCE
    assert watch.replays > 0


def test_disagreement_with_stock_turns_the_engine_off(tiny, conds, watch, monkeypatch, caplog):
    from fast_sprites.nodes.engine.unet.forward import UNetForward

    before = sample(tiny.model, conds)
    resblock = UNetForward.resblock
    monkeypatch.setattr(UNetForward, "resblock", lambda *args: resblock(*args) * 1.1)
    with caplog.at_level("INFO", "fast_sprites"):
        assert torch.equal(sample(optimize(tiny.model)[0], conds), before)
    assert "differed from ComfyUI's by" in caplog.text
    assert watch.captures == 0


SIZES = [(128, 128), (104, 152), (64, 64), (160, 96), (200, 152)]
MEMORY_SLACK_BYTES = 64 * 1024**2


def runs(model: Any, conds: Any, count: int, scale: int, **options: Any) -> None:
    """Draw `count` times, another size, batch and LoRA each time."""
    changes = itertools.cycle((size, batch) for batch in (1, 2, 3) for size in SIZES)
    for index, ((width, height), batch) in zip(range(count), changes, strict=False):
        lora = with_lora(model, 1 if index % 2 else -0.5, index, LORA_KEYS[:1])
        sample(lora, conds, width=width * scale, height=height * scale, batch=batch, **options)


@pytest.mark.skipif(ON_CPU, reason="needs the driver's figures")
@pytest.mark.parametrize("size", ["tiny", "full"])
def test_memory_is_flat_over_fifty_runs_and_comes_back(request, size):
    checkpoint = request.getfixturevalue(size)
    conds = request.getfixturevalue("conds") if size == "tiny" else random_conds()
    scale = 1 if size == "tiny" else 2
    ours = optimize(checkpoint.model)[0]
    runs(ours, conds, 16, scale, steps=2)  # every library has its workspaces, every kernel its code
    torch.cuda.synchronize()
    after_sixteen = torch.cuda.memory_reserved()
    used_before, reserved_before = device_memory()
    runs(ours, conds, 50, scale, steps=2)
    torch.cuda.synchronize()
    growth = torch.cuda.memory_reserved() - after_sixteen
    used, reserved = device_memory()
    print(f"{size}: reserved grew by {growth / 2**20:.0f} MiB, driver {(used - used_before) / 2**20:.0f} MiB after unloading")
    assert growth <= MEMORY_SLACK_BYTES
    assert used - used_before <= MEMORY_SLACK_BYTES
    assert reserved - reserved_before <= MEMORY_SLACK_BYTES
    del ours
    used, reserved = device_memory()
    assert used - used_before <= MEMORY_SLACK_BYTES
