"""ComfyUI's samplers with sigmas whose numbers the host knows: stock's bits, and no look at the device at every step."""

from typing import Any

import pytest
import torch

from ..waits import Waits
from .optimized import package
from .test_batch_sprite_sampler import SAMPLERS, Bench

# Looks at the device at each step all the same, for numbers that are not the schedule's: noise between two sigmas of the sampler's own.
LOOKS_PER_STEP = {"dpmpp_sde": 3, "dpmpp_sde_gpu": 3, "euler_ancestral_cfg_pp": 1}


@pytest.fixture(scope="module")
def bench(comfyui, pack_nodes, tiny_checkpoint) -> Bench:
    return Bench(comfyui, pack_nodes, tiny_checkpoint, torch.float32)


@pytest.fixture(scope="module")
def knowing(bench, pack_nodes) -> Any:
    """A clone whose samplers get sigmas of which the host knows the numbers."""
    clone = bench.model.clone()
    known_sigmas = package(pack_nodes, "engine.model.known_sigmas").known_sigmas
    package(pack_nodes, "comfy_adapters.model_patcher").wrap_schedule(clone, known_sigmas)
    return clone


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_draws_stocks_bits_without_a_look_at_the_device_in_each_step(bench, knowing, monkeypatch, sampler):
    looks = []
    for steps in (4, 6):
        monkeypatch.setattr(bench, "steps", steps)
        with Waits() as watch:
            picture = bench.single(5, sampler, model=knowing)
        looks.append(watch.count)
    assert torch.equal(picture, bench.single(5, sampler))
    if sampler != "dpm_adaptive":  # takes as many steps as it likes
        assert looks[1] - looks[0] == 2 * LOOKS_PER_STEP.get(sampler, 0)


@pytest.mark.parametrize("sampler", ["euler_ancestral", "dpmpp_2m_sde"])
def test_a_batchs_sprites_are_drawn_so_too(bench, knowing, monkeypatch, sampler):
    monkeypatch.setattr(bench, "scheduler", "beta")
    with Waits() as watch:
        drawn = bench.batch(model=knowing, sampler_name=sampler, count=2)
    with Waits() as stocks:
        assert torch.equal(drawn, bench.batch(sampler_name=sampler, count=2))
    assert watch.count < stocks.count


def test_another_packs_sampler_gets_the_sigmas_as_they_are(bench, knowing):
    import comfy.sample
    import comfy.samplers

    seen = []

    def of_another_pack(model, x, sigmas, **_options):
        seen.append(type(sigmas))
        return x

    sampler = comfy.samplers.KSAMPLER(of_another_pack)
    latent = torch.zeros(1, 4, 8, 8)
    comfy.sample.sample_custom(knowing, latent, 5.0, sampler, torch.tensor([1.0, 0.0]), bench.positive, bench.negative, latent)
    assert seen == [torch.Tensor]


def test_optimizing_again_leaves_one_wrapper(knowing, pack_nodes):
    import comfy.patcher_extension

    clone = package(pack_nodes, "comfy_adapters.model_patcher").clone(knowing)
    assert not clone.get_wrappers(comfy.patcher_extension.WrappersMP.SAMPLER_SAMPLE, "fast_sprites")
    assert len(knowing.get_wrappers(comfy.patcher_extension.WrappersMP.SAMPLER_SAMPLE, "fast_sprites")) == 1
