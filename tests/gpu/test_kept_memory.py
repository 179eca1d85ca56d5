"""What the engine and the decoder keep on the card between runs, when other models are loaded there; with and without DynamicVRAM.

FAST_SPRITES_GPU_TESTS_FLAGS=--disable-dynamic-vram runs the same without. The small card is this one with all but CARD_GIB taken.
"""

import gc
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from .conftest import NODES, WHY_NOT, load_checkpoint

if NODES is None:
    pytest.skip(WHY_NOT, allow_module_level=True)

import comfy.memory_management
import comfy.model_management as management
from fast_sprites.nodes.comfy_adapters.memory import held_models
from fast_sprites.nodes.engine.memory.graph_pools import captured_bytes, own_bytes
from fast_sprites.nodes.engine.unet import graphs

from .engine_checks import DEVICE, ON_CPU, STEPS, TOLERANCE, device_memory, encode, optimize, relative_error, sample
from .test_engine_vae import latents
from .test_engine_vae import optimize as optimize_vae

GIB = 1024**3
CARD_GIB = 8.0
CAPTURED = 2  # a graph of keys and values, and one of the rest
DYNAMIC = comfy.memory_management.aimdo_enabled
ON_A_GPU = pytest.mark.skipif(ON_CPU, reason="ComfyUI makes no room on a CPU")


def kept() -> dict[str, int]:
    """The resident bytes of what this pack keeps, by the name that ComfyUI's list has it under."""
    return {name: resident for name, _, _, resident, _ in held_models() if name.startswith("Optimize")}


def after_node() -> None:
    """What execution.py does after a node."""
    if DYNAMIC:
        import comfy_aimdo.model_vbar

        management.reset_cast_buffers()
        comfy_aimdo.model_vbar.vbars_reset_watermark_limits()


@pytest.fixture(autouse=True)
def nothing_loaded(comfyui: Any) -> Iterator[None]:
    management.unload_all_models()
    gc.collect()
    yield
    management.unload_all_models()


@pytest.fixture
def small_card(full: Any) -> Iterator[None]:
    """Leave CARD_GIB of the card, the driver's and torch's own part included."""
    used, _ = device_memory()
    free, total = torch.cuda.mem_get_info()
    own_gib = min(1.0, used / GIB)
    ballast = torch.empty(int(free - (CARD_GIB - own_gib) * GIB), dtype=torch.uint8, device=DEVICE)
    print(f"{torch.cuda.mem_get_info()[0] / GIB:.2f} of {total / GIB:.2f} GiB are free")
    yield
    del ballast
    device_memory()


@ON_A_GPU
def test_another_models_load_takes_it_and_the_next_run_builds_it_again(tiny, other_model, conds, watch):
    stock, graphs_before = sample(tiny.model, conds), own_bytes(DEVICE)
    ours = optimize(tiny.model)[0]
    sample(ours, conds)
    drawn = sample(ours, conds)
    assert kept()["OptimizeModel"] > 0
    watch.reset()
    management.load_models_gpu([other_model])  # there is room for it
    after_node()
    assert torch.equal(sample(ours, conds), drawn)
    assert (watch.captures, watch.stock) == (0, 0), "something was taken without need"
    free: Any = management.get_free_memory(DEVICE)
    management.load_models_gpu([other_model], memory_required=torch.cuda.mem_get_info()[1])  # more than there is
    after_node()
    assert kept() == {}
    assert own_bytes(DEVICE) == graphs_before
    freed: Any = management.get_free_memory(DEVICE)
    print(f"{(freed - free) / 2**20:+.1f} MiB are free")
    again = sample(ours, conds)
    assert watch.captures == CAPTURED
    assert torch.equal(again, drawn), f"{relative_error(again, drawn):.1e}"
    assert torch.equal(sample(tiny.model, conds), stock)


@ON_A_GPU
def test_another_models_load_takes_the_decoders_weights(tiny, other_model):
    stock, ours = tiny.vae.decode(latents(1)), optimize_vae(tiny.vae)
    drawn = ours.decode(latents(1))
    assert kept()["OptimizeVAE"] > 0
    management.load_models_gpu([other_model])
    assert "OptimizeVAE" in kept()
    management.load_models_gpu([other_model], memory_required=torch.cuda.mem_get_info()[1])
    after_node()
    assert kept() == {}
    assert torch.equal(ours.decode(latents(1)), drawn)
    assert torch.equal(tiny.vae.decode(latents(1)), stock)


@pytest.mark.skipif(ON_CPU, reason="needs the driver's figures")
@pytest.mark.parametrize("size", ["tiny", "full"])
def test_what_captures_took_goes_back_to_the_driver(request, size, monkeypatch):
    """cudaMallocAsync alone: torch's own allocator has it in pools that go back by themselves."""
    if torch.cuda.get_allocator_backend() != "cudaMallocAsync":
        pytest.skip("needs cudaMallocAsync")
    checkpoint = request.getfixturevalue(size)
    conds, index = encode(checkpoint.clip), DEVICE.index or 0
    edge = 128 if size == "tiny" else 1024
    give_back = graphs.give_back_captured
    monkeypatch.setattr(graphs, "give_back_captured", lambda index: None)
    used_before, _ = device_memory()
    give_back(index)
    before = captured_bytes(index)
    ours = optimize(checkpoint.model)[0]
    for _ in range(2):
        sample(ours, conds, width=edge, height=edge)
    in_use, listed = captured_bytes(index), kept()["OptimizeModel"]
    used, _ = device_memory()
    left = captured_bytes(index)
    monkeypatch.undo()
    give_back(index)
    used_after, _ = device_memory()
    after = captured_bytes(index)
    assert None not in (before, in_use, left, after)
    print(
        f"{size}: listed {listed / 2**20:.0f} MiB; captures {before / 2**20:.0f} MiB before, {in_use / 2**20:.0f} in use, {left / 2**20:.0f} "
        f"once the graphs are gone, {after / 2**20:.0f} given back; driver {(used - used_before) / 2**20:+.0f}, then "
        f"{(used_after - used_before) / 2**20:+.0f} MiB"
    )
    assert after <= before
    for _ in range(2):
        sample(ours, conds, width=edge, height=edge)
    device_memory()
    assert captured_bytes(index) <= before, "the engine did not give it back by itself"


def prompt(checkpoint: Any, ours: Any, vae: Any, text: str) -> torch.Tensor:
    """Draw one prompt as its nodes do: both text encoders, the UNet, the decoder."""
    conds = encode(checkpoint.clip, text)
    after_node()
    drawn = sample(ours, conds, width=1024, height=1024)
    vae.decode(drawn)
    after_node()
    return drawn


@ON_A_GPU
def test_prompts_in_a_row_on_a_small_card(full, small_card, watch):
    """No model but SDXL's own parts is there, so that under DynamicVRAM nothing has to be captured twice."""
    ours, vae = optimize(full.model)[0], optimize_vae(full.vae)
    drawn = {}
    for turn in range(2):
        for text in ("red slime", "blue slime"):
            watch.reset()
            start = time.perf_counter()
            picture = prompt(full, ours, vae, text)
            torch.cuda.synchronize()
            sizes = {name: f"{nbytes / GIB:.2f} GiB" for name, nbytes in kept().items()}
            print(
                f"{text}, turn {turn}: {time.perf_counter() - start:.2f} s, {watch.captures} captures, stock {watch.stock}, "
                f"replays {watch.replays}, {sizes}, {torch.cuda.mem_get_info()[0] / GIB:.2f} GiB free"
            )
            assert relative_error(picture, drawn.setdefault(text, picture)) < TOLERANCE
            if DYNAMIC:
                assert watch.replays >= STEPS - 1, "the engine did not run"
            if DYNAMIC and (turn, text) != (0, "red slime"):
                assert watch.captures == 0, "captured again without need"


@ON_A_GPU
def test_a_second_model_on_a_small_card(full, small_card, watch):
    """Another SDXL, ComfyUI's own forward and decode, between two runs of ours: nothing runs out, and ours comes back."""
    second = load_checkpoint(Path(os.environ["FAST_SPRITES_GPU_CHECKPOINT"]))
    conds = encode(full.clip)
    after_node()
    expected_second = sample(second.model, conds, width=1024, height=1024)
    ours = optimize(full.model)[0]
    sample(ours, conds, width=1024, height=1024)
    drawn = sample(ours, conds, width=1024, height=1024)
    print(f"between runs {kept()}")
    for turn in range(2):
        picture = sample(second.model, conds, width=1024, height=1024)
        print(f"turn {turn}: kept through the other model's run: {kept()}")
        assert relative_error(picture, expected_second) < TOLERANCE
        second.vae.decode(picture)
        after_node()
        watch.reset()
        again = sample(ours, conds, width=1024, height=1024)
        print(f"turn {turn}: {watch.captures} captures, stock {watch.stock}, replays {watch.replays}")
        assert relative_error(again, drawn) < TOLERANCE
        if DYNAMIC:
            assert watch.replays >= STEPS - 1, "the engine did not run"
