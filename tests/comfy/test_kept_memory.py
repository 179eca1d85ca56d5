"""What the pack keeps between runs stands in ComfyUI's list of loaded models: it goes when another model needs the room, and not before."""

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from .optimized import COPIED_LORA_KEYS, LORA_KEYS, AddressRange, StopError, optimize, package, sample, with_graphs, with_lora
from .test_optimize_vae import latents
from .test_optimize_vae import optimize as optimize_vae

CAPTURED = 2  # a graph of keys and values, and one of the rest
CPU = torch.device("cpu")
FREE_BYTES = 2**30


def entries(name: str) -> list[Any]:
    """The patchers of this name in ComfyUI's list."""
    import comfy.model_management as management

    return [patcher for patcher in management.loaded_models() if type(patcher.model).__name__ == name]


def shown(pack_nodes: dict[str, Any]) -> dict[str, int]:
    """The resident bytes of each model that the sidebar names."""
    held = package(pack_nodes, "comfy_adapters.memory").held_models()
    return {name: resident for name, _, _, resident, _ in held}


class Pressure:
    """Asks ComfyUI for room as `load_models_gpu` does for another model, which on a CPU it leaves out; sees to all but ours being dynamic."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        import comfy.model_management as management
        from comfy.model_patcher import ModelPatcher

        self._monkeypatch, self._management, self._plain = monkeypatch, management, ModelPatcher

    def of_dynamic(self, beyond_pages: float) -> list[Any]:
        """Ask for what is free and every dynamic model's pages together, and `beyond_pages` more; returns what was unloaded."""
        pages = sum(p.loaded_size() for p in self._management.loaded_models() if type(p) is self._plain)
        with self._monkeypatch.context() as patch:
            patch.setattr(self._plain, "is_dynamic", lambda patcher: type(patcher) is self._plain)
            return self._ask(pages + beyond_pages, for_dynamic=True)

    def of_others(self, missing_bytes: float) -> list[Any]:
        """Ask for more than is free, without DynamicVRAM."""
        return self._ask(missing_bytes, for_dynamic=False)

    def _ask(self, missing_bytes: float, *, for_dynamic: bool) -> list[Any]:
        with self._monkeypatch.context() as patch:
            patch.setattr(
                self._management,
                "get_free_memory",
                lambda _, torch_free_too=False: (FREE_BYTES, 0) if torch_free_too else FREE_BYTES,
            )
            unloaded = self._management.free_memory(FREE_BYTES + missing_bytes, CPU, for_dynamic=for_dynamic)
        return [type(loaded.model.model).__name__ for loaded in unloaded]


@pytest.fixture
def pressure(comfyui: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pressure]:
    import comfy.model_management

    comfy.model_management.unload_all_models()
    yield Pressure(monkeypatch)
    comfy.model_management.unload_all_models()


@pytest.fixture
def at_a_step(optimized: Any) -> Callable[[Callable[[], Any]], Any]:
    """Make a clone of the optimised model at whose every step something happens after the UNet's forward."""

    def clone(happens: Callable[[], Any]) -> Any:
        model = optimized.clone()
        model.set_model_sampler_post_cfg_function(lambda args: (happens(), args["denoised"])[1])
        return model

    return clone


def test_another_model_takes_it_once_pages_do_not_suffice(
    comfyui, pack_nodes, tiny_sdxl, optimized, graphs, conds, on_demand, pressure
):
    stock = sample(comfyui, tiny_sdxl.model, conds)
    sample(comfyui, optimized, conds)
    drawn = sample(comfyui, optimized, conds)  # by graphs alone, as the next
    assert torch.equal(sample(comfyui, optimized, conds), drawn)
    assert pressure.of_dynamic(beyond_pages=0) == []
    assert torch.equal(sample(comfyui, optimized, conds), drawn)
    assert graphs.captures == CAPTURED
    graph = weakref.ref(next(o for o in gc.get_objects() if type(o) is package(pack_nodes, "engine.unet.graphs").CapturedForward))
    assert pressure.of_dynamic(beyond_pages=1) == ["OptimizeModel"]
    gc.collect()  # a stand-in for a graph holds its body
    assert graph() is None
    assert entries("OptimizeModel") == []
    assert torch.equal(sample(comfyui, optimized, conds), drawn)
    assert graphs.captures == 2 * CAPTURED
    assert torch.equal(sample(comfyui, tiny_sdxl.model, conds), stock)


def test_without_dynamicvram_it_goes_before_the_weights(comfyui, tiny_sdxl, optimized, graphs, conds, pressure):
    sample(comfyui, optimized, conds)
    drawn, loaded = sample(comfyui, optimized, conds), tiny_sdxl.model.loaded_size()
    assert loaded > 0
    assert pressure.of_others(missing_bytes=1)[0] == "OptimizeModel"
    assert torch.equal(sample(comfyui, optimized, conds), drawn)
    assert graphs.captures == 2 * CAPTURED


def test_nothing_is_taken_in_the_middle_of_a_run(comfyui, optimized, at_a_step, graphs, conds, on_demand, pressure):
    sample(comfyui, optimized, conds)
    drawn = sample(comfyui, optimized, conds)
    assert torch.equal(sample(comfyui, at_a_step(lambda: pressure.of_dynamic(1e30)), conds), drawn)
    assert graphs.captures == CAPTURED
    assert len(entries("OptimizeModel")) == 1


def test_the_load_of_its_own_model_takes_nothing(comfyui, optimized, graphs, conds, on_demand, pressure, monkeypatch):
    import comfy.model_management as management

    load, unloaded = management.load_models_gpu, []

    def under_pressure(*args: Any, **kwargs: Any) -> None:
        unloaded.append(pressure.of_dynamic(1e30))
        load(*args, **kwargs)

    sample(comfyui, optimized, conds)
    monkeypatch.setattr(management, "load_models_gpu", under_pressure)
    sample(comfyui, optimized, conds)
    assert unloaded == [[]]
    assert graphs.captures == CAPTURED


def test_it_is_shown_by_name_and_size(comfyui, pack_nodes, optimized, conds, on_demand, pressure):
    import comfy.model_management as management

    sample(comfyui, optimized, conds)
    (patcher,) = entries("OptimizeModel")
    cache = next(o for o in gc.get_objects() if type(o) is package(pack_nodes, "engine.unet.graphs").GraphCache)
    prepared = next(o for o in gc.get_objects() if type(o) is package(pack_nodes, "engine.unet.prepared").PreparedWeights)
    assert patcher.model_size() == cache.nbytes + prepared.nbytes > 0
    assert prepared.own.kept_bytes == prepared.own.nbytes(torch.float32) + sum(b.nbytes for b in prepared.own.biases.values())
    assert shown(pack_nodes)["OptimizeModel"] == pytest.approx(patcher.model_size(), abs=1)
    del cache, prepared, patcher
    assert management.current_loaded_models[0].device == CPU
    management.unload_all_models()
    assert "OptimizeModel" not in shown(pack_nodes)


@pytest.mark.parametrize("how", ["unloaded by name", "stock branch", "other LoRA"])
def test_what_is_given_up_with_the_model_is_not_shown_on(comfyui, pack_nodes, tiny_sdxl, optimized, conds, pressure, how):
    import comfy.model_management as management

    sample(comfyui, optimized, conds)
    if how == "unloaded by name":
        management.unload_model_and_clones(tiny_sdxl.model)
    else:
        sample(comfyui, tiny_sdxl.model if how == "stock branch" else with_lora(tiny_sdxl.model, 1.0), conds)
    assert "OptimizeModel" not in shown(pack_nodes)
    sample(comfyui, optimized, conds)
    assert len(entries("OptimizeModel")) == 1


@pytest.mark.parametrize("collected", [False, True])
def test_nothing_stays_when_the_model_dies(comfyui, pack_nodes, tiny_sdxl, graphs, conds, pressure, collected):
    model = with_graphs(pack_nodes, tiny_sdxl.model)
    sample(comfyui, model, conds)
    (entry,) = entries("OptimizeModel")
    alive = weakref.ref(entry)
    del entry
    gc.disable()
    try:
        if collected:
            model.set_attachments("itself", model)
        del model
        if collected:
            gc.collect()
        assert alive() is None
        assert entries("OptimizeModel") == []
    finally:
        gc.enable()


@pytest.mark.parametrize("error", [StopError, torch.OutOfMemoryError, KeyboardInterrupt])
def test_an_error_in_a_run_leaves_the_list_whole(comfyui, optimized, at_a_step, graphs, conds, pressure, error):
    import comfy.model_management as management

    def fail() -> None:
        raise error("planted")

    sample(comfyui, optimized, conds)
    drawn = sample(comfyui, optimized, conds)
    with pytest.raises(error):
        sample(comfyui, at_a_step(fail), conds)
    assert len(entries("OptimizeModel")) == 1
    management.unload_all_models()
    assert management.current_loaded_models == []
    assert torch.equal(sample(comfyui, optimized, conds), drawn)


def test_comfyuis_other_ways_through_the_list(comfyui, tiny_sdxl, optimized, graphs, conds, on_demand, pressure):
    import comfy.model_management as management

    sample(comfyui, optimized, conds)
    management.load_models_gpu([tiny_sdxl.clip.patcher])
    management.cleanup_models_gc()
    management.cleanup_models()
    management.soft_empty_cache()
    management.use_more_memory(1, management.current_loaded_models, CPU)
    management.unload_model_and_clones(tiny_sdxl.clip.patcher)
    assert (
        management.offloaded_memory([m for m in management.current_loaded_models if m.model in entries("OptimizeModel")], CPU) < 1
    )
    sample(comfyui, optimized, conds)
    assert graphs.captures == CAPTURED
    management.unload_all_models()
    assert management.current_loaded_models == []


def test_weights_that_comfyui_moves_away_are_gone(comfyui, pack_nodes, tiny_sdxl, conds, pressure):
    model = with_lora(optimize(pack_nodes, tiny_sdxl.model)[0], 1.0)
    expected = sample(comfyui, with_lora(tiny_sdxl.model, 1.0), conds)
    sample(comfyui, model, conds)
    drawn = sample(comfyui, model, conds)
    parameters = [p for name, p in tiny_sdxl.model.model.named_parameters() if name.endswith(LORA_KEYS)]
    assert sum(parameter.nbytes > 64 * 1024 for parameter in parameters) > 5, "the engine copies all of them"
    patched = [weakref.ref(parameter) for parameter in parameters]
    del parameters
    assert model.partially_unload(CPU, 1e30) > 0
    assert [parameter for parameter in patched if parameter() is not None] == []
    assert torch.equal(sample(comfyui, model, conds), drawn)
    assert torch.equal(sample(comfyui, with_lora(tiny_sdxl.model, 1.0), conds), expected)


def test_lora_is_followed_after_pressure(comfyui, tiny_sdxl, optimized, graphs, conds, on_demand, pressure):
    drawn = {}
    for turn in range(2):
        for strength in (1.0, -0.5):
            clone = with_lora(optimized, strength, keys=COPIED_LORA_KEYS)
            sample(comfyui, clone, conds)
            picture = sample(comfyui, clone, conds)
            assert torch.equal(drawn.setdefault(strength, picture), picture), f"turn {turn}, strength {strength}"
        pressure.of_dynamic(1e30)
    assert not torch.equal(drawn[1.0], drawn[-0.5])


def test_the_decoders_weights_go_under_pressure_and_come_back(pack_nodes, tiny_sdxl, pressure, monkeypatch):
    monkeypatch.setattr(tiny_sdxl.vae.first_stage_model, "dynamic_vbars", {CPU: AddressRange()}, raising=False)
    stock = tiny_sdxl.vae.decode(latents())
    vae, _ = optimize_vae(pack_nodes, tiny_sdxl.vae, channels_last="on")
    expected = vae.decode(latents())
    (patcher,) = entries("OptimizeVAE")
    decoder = next(o for o in gc.get_objects() if type(o) is package(pack_nodes, "engine.vae.decoder").DecoderForward)
    forward = weakref.ref(decoder)
    assert patcher.model_size() == decoder.nbytes == pytest.approx(shown(pack_nodes)["OptimizeVAE"], abs=1)
    del decoder
    del patcher
    assert torch.equal(vae.decode(latents()), expected)
    assert pressure.of_dynamic(0) == []
    assert pressure.of_dynamic(1e30) == ["OptimizeVAE"]
    assert forward() is None
    assert torch.equal(vae.decode(latents()), expected)
    assert torch.equal(tiny_sdxl.vae.decode(latents()), stock)


def test_a_decode_takes_its_own_weights_from_nobody(pack_nodes, tiny_sdxl, pressure, monkeypatch):
    adapter = package(pack_nodes, "comfy_adapters.vae")
    make_room, asked = adapter.make_room_beside, []

    def under_pressure(vae: Any, needed_bytes: int) -> int:
        asked.append(pressure.of_dynamic(1e30))
        return make_room(vae, needed_bytes)

    monkeypatch.setattr(adapter, "make_room_beside", under_pressure)
    vae, _ = optimize_vae(pack_nodes, tiny_sdxl.vae, channels_last="on")
    expected = vae.decode(latents())
    assert torch.equal(vae.decode(latents()), expected)
    assert asked == [[]]
    assert len(entries("OptimizeVAE")) == 1
    del vae
    gc.collect()
    assert entries("OptimizeVAE") == []


def test_the_vaes_weights_that_comfyui_moves_away_are_gone(pack_nodes, tiny_sdxl, pressure):
    vae, _ = optimize_vae(pack_nodes, tiny_sdxl.vae, channels_last="on")
    convolution = vae.first_stage_model.decoder.conv_in
    vae.patcher.add_patches({"decoder.conv_in.weight": ("diff", (convolution.weight * 0.5,))}, 1.0)
    expected = vae.decode(latents())
    patched = weakref.ref(convolution.weight)
    assert vae.patcher.partially_unload(CPU, 1e30) > 0
    assert patched() is None
    assert torch.equal(vae.decode(latents()), expected)
