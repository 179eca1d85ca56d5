"""The engine and the decoder in an arena, on the CPU: as on Triton every result is allocated, and whatever is read before it was written is NaN."""

import contextlib
import gc
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from .optimized import STEPS, Graphs, package, relative_error, sample, with_graphs
from .test_optimize_vae import latents, optimize

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def inference_mode() -> Iterator[None]:
    with torch.inference_mode():  # as ComfyUI runs its nodes
        yield


@pytest.fixture
def ops(pack_nodes, monkeypatch) -> Any:
    """Torch's operations on memory of a source, for every engine and decoder that is made from here on."""
    torch_ops = package(pack_nodes, "engine.kernels.ops").TorchOps

    class SourceOps(torch_ops):
        source: Any = None

        @contextlib.contextmanager
        def allocating_from(self, source: Any) -> Iterator[None]:
            self.source = source
            try:
                yield
            finally:
                self.source = None

        def _moved(self, result: torch.Tensor) -> torch.Tensor:
            if self.source is None:
                return result
            out = self.source.empty(result.shape, result.dtype, result.device).fill_(torch.nan)
            return out.copy_(result)

        def group_norm(self, x, *args, in_place=False, **options):
            result = super().group_norm(x, *args, in_place=in_place, **options)
            return result if in_place else self._moved(result)

        def residual_layer_norm(self, *args, **options):
            total, normed = super().residual_layer_norm(*args, **options)
            return total, self._moved(normed)

        def geglu(self, projected, **options):
            return self._moved(super().geglu(projected, **options))

        def linear(self, x, weight, bias):
            return self._moved(super().linear(x, weight, bias))

        def conv(self, x, weight, stride, padding):
            return self._moved(super().conv(x, weight, stride, padding))

        def cat(self, x, y):
            return self._moved(super().cat(x, y))

        def upsample(self, x, size):
            return self._moved(super().upsample(x, size))

    made = SourceOps()
    monkeypatch.setattr(package(pack_nodes, "engine.model.run_unet_engine"), "engine_ops", lambda engine: made)
    monkeypatch.setattr(package(pack_nodes, "engine.vae.run_decode"), "engine_ops", lambda engine: made)
    return made


class _SameAddresses(Graphs):
    """Graphs that read and write at every replay where they did when they were captured."""

    ops: Any

    def capture(self, graph: Any, body: Any) -> None:
        planned, ops = self.ops.source, self.ops
        first = planned._next
        super().capture(graph, body)

        def replay() -> None:
            planned._next = first
            with ops.allocating_from(planned):
                body()

        graph.body = replay


@pytest.fixture
def engine(pack_nodes, tiny_sdxl, monkeypatch, ops) -> Any:
    """The tiny model on an engine whose graphs lie in an arena, and what counts its captures."""
    graphs = _SameAddresses(pack_nodes, monkeypatch)
    graphs.ops = ops
    return with_graphs(pack_nodes, tiny_sdxl.model), graphs


@pytest.fixture(autouse=True)
def lent(pack_nodes, monkeypatch) -> Any:
    """What asks for memory that is lent; engines of other tests lend none."""
    arena = package(pack_nodes, "engine.kernels.arena")
    monkeypatch.setattr(arena, "_at_rest", weakref.WeakKeyDictionary())
    return arena.lent_tensors


def test_graphs_in_an_arena_draw_the_same_and_are_captured_again_in_its_size(
    comfyui, pack_nodes, tiny_sdxl, engine, conds, monkeypatch
):
    model, graphs = engine
    arena_module = package(pack_nodes, "engine.kernels.arena")
    recordings, sizes = [], []
    lifetimes, planned = arena_module.Recorder.lifetimes, arena_module.Arena.planned

    def recorded(recorder: Any) -> Any:
        recordings.append(lifetimes(recorder))
        return recordings[-1]

    def counted(arena: Any, *args: Any) -> Any:
        try:
            return planned(arena, *args)
        finally:
            sizes.append(arena.nbytes)

    monkeypatch.setattr(arena_module.Recorder, "lifetimes", recorded)
    monkeypatch.setattr(arena_module.Arena, "planned", counted)
    expected = {width: sample(comfyui, tiny_sdxl.model, conds, width=width) for width in (128, 64)}
    for width in (128, 64, 128):
        assert relative_error(sample(comfyui, model, conds, width=width), expected[width]) < 2e-4
    assert (len(recordings), graphs.captures) == (2, 4)
    assert sizes[0] == sizes[1] <= 1.1 * recordings[0].peak_bytes
    model.detach()  # as ComfyUI does when it unloads the model
    for width in (64, 128):
        assert relative_error(sample(comfyui, model, conds, width=width), expected[width]) < 2e-4
    assert (len(recordings), graphs.captures) == (2, 8)


def test_a_decode_between_two_runs_lies_in_the_engines_memory(comfyui, pack_nodes, tiny_sdxl, engine, conds, lent, monkeypatch):
    model, graphs = engine
    decoder = optimize(pack_nodes, tiny_sdxl.vae, channels_last="on")[0]
    pictures = decoder.decode(latents())
    first = sample(comfyui, model, conds)
    arena_module = package(pack_nodes, "engine.kernels.arena")
    placed, place = [], arena_module.Arena.place
    monkeypatch.setattr(arena_module.Arena, "place", lambda *args: placed.append(args[1]) or place(*args))
    assert lent(CPU) is not None
    assert torch.equal(decoder.decode(latents()), pictures)
    assert len(placed) > 50
    assert lent(CPU)._arena.alive() == []
    captures = graphs.captures
    assert torch.equal(sample(comfyui, model, conds), first)
    assert graphs.captures == captures


def test_nothing_is_lent_during_a_run_or_to_another_thread_or_after_an_unload(comfyui, engine, conds, lent):
    model, _ = engine
    seen = []
    sample(comfyui, model, conds)

    def callback(*_: Any) -> None:
        seen.append(lent(CPU))

    watched = model.clone()
    watched.set_model_sampler_post_cfg_function(lambda args: callback() or args["denoised"])
    sample(comfyui, watched, conds)
    assert seen == [None] * STEPS
    assert lent(CPU) is not None
    thread = threading.Thread(target=callback)
    thread.start()
    thread.join()
    assert seen[-1] is None
    model.detach()
    gc.collect()  # a stand-in graph refers to itself
    assert lent(CPU) is None


def test_what_is_lent_outlives_its_owner_and_goes_with_the_decode(
    comfyui, pack_nodes, tiny_sdxl, engine, conds, lent, monkeypatch
):
    model, _ = engine
    decoder = optimize(pack_nodes, tiny_sdxl.vae, channels_last="on")[0]
    pictures = decoder.decode(latents())
    sample(comfyui, model, conds)
    forward = package(pack_nodes, "engine.vae.decoder").DecoderForward
    attention = forward._attention

    def unloaded(*args: Any) -> None:
        model.detach()
        attention(*args)

    monkeypatch.setattr(forward, "_attention", unloaded)
    assert torch.equal(decoder.decode(latents()), pictures)
    gc.collect()
    assert lent(CPU) is None


def test_a_decode_asks_for_less_room_by_what_is_lent_for_certain(
    comfyui, pack_nodes, tiny_sdxl, engine, conds, lent, monkeypatch
):
    model, _ = engine
    adapter, run, plan = (
        package(pack_nodes, name) for name in ("comfy_adapters.vae", "engine.vae.run_decode", "engine.vae.plan")
    )
    asked: list[int] = []
    monkeypatch.setattr(adapter, "make_room", lambda vae, needed_bytes: asked.append(needed_bytes) or 1 << 40)
    monkeypatch.setattr(adapter, "make_room_beside", adapter.make_room)
    vae_plan = plan.VaePlan(decoder="fast", precision="fp32", decoder_channels=32)
    kept = run.KeptDecoder()
    decoder = adapter.with_decode(tiny_sdxl.vae, run.SpriteDecoder(vae_plan, kept, lambda _: None), kept.release)
    decoder.decode(latents(1, 4, 4))
    sample(comfyui, model, conds)
    decoder.decode(latents(1, 4, 4))
    size = 64 * 4 * 4, 4, 32
    spared = plan.lent_bytes(*size, lent(CPU).largest_bytes)
    assert spared > 0
    assert asked == [plan.decode_bytes(*size), plan.decode_bytes(*size) - spared]


def test_room_is_asked_for_again_where_the_owner_of_what_is_lent_made_way(
    comfyui, pack_nodes, tiny_sdxl, engine, conds, lent, monkeypatch
):
    model, _ = engine
    adapter, run, plan = (
        package(pack_nodes, name) for name in ("comfy_adapters.vae", "engine.vae.run_decode", "engine.vae.plan")
    )
    picture_bytes = plan.decode_bytes(64 * 4 * 4, 4, 32)
    asked: list[int] = []

    def make_room(_vae: Any, needed_bytes: int) -> int:
        asked.append(needed_bytes)
        model.detach()
        gc.collect()  # a stand-in graph refers to itself
        return needed_bytes

    monkeypatch.setattr(adapter, "make_room", make_room)
    sample(comfyui, model, conds)
    spared = plan.lent_bytes(64 * 4 * 4, 4, 32, lent(CPU).largest_bytes)
    vae_plan = plan.VaePlan(decoder="fast", precision="fp32", decoder_channels=32)
    notes: list[str] = []
    kept = run.KeptDecoder()
    decoder = adapter.with_decode(tiny_sdxl.vae, run.SpriteDecoder(vae_plan, kept, notes.append), kept.release)
    decoder.decode(latents(1, 4, 4))
    assert asked == [picture_bytes - spared, picture_bytes]
    assert notes == []
