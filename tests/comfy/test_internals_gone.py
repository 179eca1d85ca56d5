"""A ComfyUI that lacks an internal: the technique that needs it is refused with the reason, everything else goes on."""

import contextlib
import functools
import importlib
import inspect
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from fast_sprites.nodes.comfy_adapters import internals, vae

from .optimized import optimize, sample
from .test_batch_sprite_sampler import Bench
from .test_optimize_vae import latents
from .test_optimize_vae import optimize as optimize_vae

TOLERANCE = 1e-4


def paths(*techniques: str) -> list[str]:
    return sorted({path for technique in techniques for path in internals.NEEDS[technique]})


def words(path: str) -> str:
    name, _, argument = path.removesuffix(")").replace(":", ".").partition("(")
    return f"this ComfyUI has no {f'argument {argument} of {name}' if argument else name}"


@contextlib.contextmanager
def without(path: str) -> Iterator[None]:
    """This ComfyUI without one internal, or with a function that lacks an argument."""
    module, _, rest = path.partition(":")
    names, _, argument = rest.removesuffix(")").partition("(")
    *owners, last = names.split(".")
    owner = functools.reduce(getattr, owners, importlib.import_module(module))
    with pytest.MonkeyPatch.context() as patch:
        if argument:
            signature = inspect.signature(getattr(owner, last))
            others = [parameter for name, parameter in signature.parameters.items() if name != argument]
            stand_in: Any = lambda *_: None  # noqa: E731 - a def cannot be typed as one that gets a __signature__
            stand_in.__signature__ = signature.replace(parameters=others)
            patch.setattr(owner, last, stand_in)
        else:
            patch.delattr(owner, last)
        yield


@pytest.fixture(autouse=True)
def inference_mode() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.mark.parametrize("technique", internals.NEEDS)
def test_this_comfyui_has_everything(comfyui, technique):
    assert internals.lacking(technique) == ""


@pytest.mark.parametrize("path", paths("model"))
def test_a_model_is_passed_through_untouched(pack_nodes, tiny_sdxl, path):
    with without(path):
        model, report = optimize(pack_nodes, tiny_sdxl.model)
    assert model is tiny_sdxl.model
    assert f"refused: all: {words(path)}; passed through untouched" in report
    assert "applied: engine" in optimize(pack_nodes, tiny_sdxl.model)[1]


@pytest.mark.parametrize("path", paths("engine", "attention", "precision"))
def test_one_technique_of_a_model_is_refused(pack_nodes, tiny_sdxl, path):
    with without(path):
        _, with_engine = optimize(pack_nodes, tiny_sdxl.model)
        _, with_precision = optimize(pack_nodes, tiny_sdxl.model, engine="off", precision="bf16")
    for technique, report in (("engine", with_engine), ("attention", with_engine), ("precision", with_precision)):
        lacks = path in internals.NEEDS[technique]
        assert (f"refused: {technique}: {words(path)}" in report) == lacks, report
    assert ("applied: engine" in with_engine) == (path not in internals.NEEDS["engine"])
    assert ("applied: precision" in with_precision) == (path not in internals.NEEDS["precision"])


def test_without_the_engine_the_pictures_are_stock(comfyui, pack_nodes, tiny_sdxl, conds):
    expected = sample(comfyui, tiny_sdxl.model, conds)
    with without("comfy.ldm.modules.attention:GEGLU"):
        model, _ = optimize(pack_nodes, tiny_sdxl.model)
        assert torch.equal(sample(comfyui, model, conds), expected)


@pytest.mark.parametrize("path", paths("vae"))
def test_a_vae_is_passed_through_untouched(pack_nodes, tiny_sdxl, path):
    with without(path):
        passed, report = optimize_vae(pack_nodes, tiny_sdxl.vae)
    assert passed is tiny_sdxl.vae
    assert f"refused: all: {words(path)}; passed through untouched" in report


@pytest.mark.parametrize("name", vae.VAE_NAMES)
def test_a_vae_without_an_attribute_is_passed_through_untouched(pack_nodes, tiny_sdxl, name, monkeypatch):
    monkeypatch.delattr(tiny_sdxl.vae, name)
    passed, report = optimize_vae(pack_nodes, tiny_sdxl.vae)
    assert passed is tiny_sdxl.vae
    assert f"refused: all: this ComfyUI's VAE has no {name}" in report


@pytest.mark.parametrize("path", paths("vae decoder"))
def test_a_vae_keeps_comfyuis_decoder(pack_nodes, tiny_sdxl, path):
    expected = tiny_sdxl.vae.decode(latents(1))
    with without(path):
        optimized, report = optimize_vae(pack_nodes, tiny_sdxl.vae, channels_last="on", precision="bf16")
    assert f"refused: channels-last decoder: {words(path)}" in report
    assert "refused: precision: needs the channels-last decoder" in report
    assert "applied: memory" in report
    assert (optimized.decode(latents(1)) - expected).abs().max() < TOLERANCE


@pytest.fixture(scope="module")
def bench(comfyui, pack_nodes, tiny_checkpoint) -> Bench:
    return Bench(comfyui, pack_nodes, tiny_checkpoint, torch.float32)


@pytest.mark.parametrize("path", paths("sprites"))
def test_sprites_are_refused_in_a_sentence(bench, path):
    with without(path), pytest.raises(Exception, match=r"Sprites cannot be drawn") as refusal:
        bench.run(sampler_name="euler", count=1)
    assert words(path) in str(refusal.value)


@pytest.mark.parametrize("path", paths("noise of each step"))
def test_samplers_without_noise_go_on(bench, path):
    with without(path):
        with pytest.raises(Exception, match="Sprites cannot be drawn with euler_ancestral: this ComfyUI has no"):
            bench.run(sampler_name="euler_ancestral", count=1)
        assert bench.batch(sampler_name="euler", count=1).shape[0] == 1


def test_sprites_are_drawn_without_preview_and_now(bench):
    with without("latent_preview:get_previewer"):
        assert bench.batch(sampler_name="euler", count=1).shape[0] == 1
    with without("comfy_execution.graph_utils:ExecutionBlocker"):
        with pytest.raises(Exception, match="draw cannot be 'while saving': this ComfyUI has no"):
            bench.run(sampler_name="euler", count=1, draw="while saving")
        assert bench.batch(sampler_name="euler", count=1).shape[0] == 1


@pytest.mark.parametrize("part", ["models held", "DynamicVRAM", "pinned memory"])
def test_a_reading_says_what_it_lacks(pack_nodes, part):
    node: Any = pack_nodes["MemoryProbe"].PREPARE_CLASS_CLONE(None)
    for path in paths(part):
        with without(path):
            report = node.execute(value=None, label="", reset_peak=False, snapshot="", compare_with="").result[1]
        assert f"Without {part}: {words(path)}." in report
        assert "This process: " in report


@pytest.mark.parametrize("path", paths("nodes of a run"))
def test_runs_that_cannot_be_followed_are_told(comfyui, path):
    from fast_sprites.nodes.comfy_adapters.progress import follow_runs

    with without(path):
        assert follow_runs(object()) == words(path)  # type: ignore[arg-type]
