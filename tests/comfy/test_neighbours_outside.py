"""Packs that leave the MODEL alone and replace what is around it: noise, samplers, previews, the executor; and ComfyUI's own patch nodes."""

import asyncio
import importlib
import inspect
from typing import Any

import pytest
import torch

from .optimized import STEPS, TOLERANCE, relative_error, sample, with_lora
from .test_batch_sprite_sampler import SEEDS, Bench, assert_same_pictures
from .test_memory_probe import probe_node, queue

SMALL = {"width": 64, "height": 64}


@pytest.fixture(scope="module")
def bench(comfyui, pack_nodes, tiny_checkpoint) -> Bench:
    return Bench(comfyui, pack_nodes, tiny_checkpoint)


def test_noise_of_another_pack_reaches_every_sprite(bench, monkeypatch):
    """Inspire's variation seeds and smZNodes: comfy.sample.prepare_noise is replaced for all samplers."""
    import comfy.sample

    stock: Any = comfy.sample.prepare_noise
    plain = bench.single(SEEDS[0], "euler")

    def varied(latent: torch.Tensor, seed: int, noise_inds: Any = None) -> torch.Tensor:
        return 0.8 * stock(latent, seed, noise_inds) + 0.6 * stock(latent, seed + 1000, noise_inds)

    monkeypatch.setattr(comfy.sample, "prepare_noise", varied)
    singles = torch.cat([bench.single(seed, "euler") for seed in SEEDS])
    assert not torch.allclose(singles[:1], plain, rtol=1e-2)
    assert_same_pictures(bench.batch(sampler_name="euler", micro_batch=3), singles)


def test_step_noise_of_another_pack_reaches_every_sprite(bench, monkeypatch):
    """Packs with noise of their own replace k-diffusion's default."""
    import comfy.k_diffusion.sampling

    stock = comfy.k_diffusion.sampling.default_noise_sampler

    def pyramid(x: torch.Tensor, seed: int | None = None) -> Any:
        sampler = stock(x, seed=seed)
        return lambda sigma, sigma_next: sampler(sigma, sigma_next) * 0.5

    plain = bench.single(SEEDS[0], "euler_ancestral")
    monkeypatch.setattr(comfy.k_diffusion.sampling, "default_noise_sampler", pyramid)
    singles = torch.cat([bench.single(seed, "euler_ancestral") for seed in SEEDS])
    assert not torch.allclose(singles[:1], plain, rtol=1e-2)
    assert_same_pictures(bench.batch(sampler_name="euler_ancestral", micro_batch=3), singles)


def test_a_sampler_that_another_pack_adds_is_not_offered(bench, monkeypatch):
    import comfy.samplers

    monkeypatch.setattr(comfy.samplers.KSampler, "SAMPLERS", [*comfy.samplers.KSampler.SAMPLERS, "res_other"])
    with pytest.raises(ValueError, match="sampler_name is 'res_other', which cannot give each sprite its own noise"):
        bench.run(sampler_name="res_other")
    assert torch.isfinite(bench.batch(count=1, steps=1)).all()


def test_a_sampler_object_of_another_pack_asks_the_model_its_own_way(comfyui, tiny_sdxl, optimized, conds):
    """Impact's and Inspire's provided samplers: a function of their own, several sizes of batch, more than one call a step."""
    import comfy.sample
    import comfy.samplers

    def function(model: Any, x: torch.Tensor, sigmas: torch.Tensor, extra_args: Any = None, callback: Any = None, **_: Any):
        ones = x.new_ones(len(x))
        for i in range(len(sigmas) - 1):
            whole = model(x, sigmas[i] * ones, **extra_args)
            rows = [model(x[r : r + 1], sigmas[i] * 0.9 * ones[:1], **extra_args) for r in range(len(x))]
            denoised = 0.5 * (whole + torch.cat(rows))
            x = denoised + (x - denoised) * sigmas[i + 1] / sigmas[i]
        return x

    def draw(model: Any) -> torch.Tensor:
        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "karras", 3)
        noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(5))
        sampler = comfy.samplers.KSAMPLER(function)
        with torch.inference_mode():
            return comfy.sample.sample_custom(
                model, noise, 5.0, sampler, sigmas, conds[0], conds[1], torch.zeros_like(noise), seed=5
            )

    assert relative_error(draw(optimized), draw(tiny_sdxl.model)) < TOLERANCE


def test_guidance_that_asks_a_second_model(comfyui, tiny_checkpoint, tiny_sdxl, optimized, graphs, watch, conds, caplog):
    """Autoguidance and ComfyUI's DualModelGuider call another checkpoint with the options, and so the wrappers, of the first."""
    import comfy.model_management
    import comfy.samplers
    import comfy.sd

    second = with_lora(comfy.sd.load_checkpoint_guess_config(str(tiny_checkpoint))[0], 2.0)

    def draw(model: Any) -> torch.Tensor:
        def post_cfg(args: dict[str, Any]) -> torch.Tensor:
            comfy.model_management.load_models_gpu([second])
            second.pre_run()
            asked = [second.model, [args["cond"]], args["input"], args["sigma"], args["model_options"]]
            return args["denoised"] + 0.5 * (args["cond_denoised"] - comfy.samplers.calc_cond_batch(*asked)[0])

        guided = model.clone()
        guided.set_model_sampler_post_cfg_function(post_cfg)
        return sample(comfyui, guided, conds, **SMALL)

    expected = draw(tiny_sdxl.model)
    sample(comfyui, optimized, conds, **SMALL)
    captures, forwards = graphs.captures, watch.count
    with caplog.at_level("INFO", "fast_sprites"):
        assert relative_error(draw(optimized), expected) < TOLERANCE
    assert graphs.captures == captures
    assert watch.count == forwards + STEPS
    assert "a second model" in caplog.text


def test_a_previewer_of_another_pack_may_have_no_picture(bench, monkeypatch):
    """VideoHelperSuite and preview packs: latent_preview.get_previewer is replaced, and its previewer skips pictures."""
    import latent_preview

    asked = []

    class Previewer:
        def decode_latent_to_preview_image(self, preview_format: str, x0: torch.Tensor) -> None:
            asked.append(x0.shape)

    monkeypatch.setattr(latent_preview, "get_previewer", lambda device, latent_format: Previewer())
    assert torch.isfinite(bench.batch(count=2, micro_batch=2)).all()
    assert asked == [(2, 4, 8, 8)] * bench.steps


def test_an_executor_that_others_have_wrapped(pack_nodes, monkeypatch):
    """WaveSpeed wraps execution.get_output_data, timers and profilers PromptExecutor.execute and execution.execute."""
    import execution

    seen = []

    def wrap(owner: Any, name: str) -> None:
        stock = getattr(owner, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            seen.append(name)
            return stock(*args, **kwargs)

        monkeypatch.setattr(owner, name, wrapped)

    wrap(execution, "get_output_data")
    wrap(execution, "execute")
    wrap(execution.PromptExecutor, "execute")
    graph = {
        "1": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "2": probe_node("1"),
    }
    first, second = queue(graph, times=2)
    assert (sorted(first), second) == (["1", "2"], ["2"])
    assert set(seen) == {"get_output_data", "execute"}


# ComfyUI's own nodes that patch a model. Widgets by name; each changes the picture of the tiny model.
CORE_NODES: dict[str, dict[str, Any]] = {
    "FreeU_V2": {"b1": 1.3, "b2": 1.4, "s1": 0.9, "s2": 0.2},
    "PerturbedAttentionGuidance": {"scale": 3.0},
    "SelfAttentionGuidance": {"scale": 0.5, "blur_sigma": 2.0},
    "PatchModelAddDownscale": {
        "block_number": 3, "downscale_factor": 2.0, "start_percent": 0.0, "end_percent": 0.6, "downscale_after_skip": True,
        "downscale_method": "bicubic", "upscale_method": "bicubic",
    },
    "RescaleCFG": {"multiplier": 0.7},
    "LazyCache": {"reuse_threshold": 0.9, "start_percent": 0.1, "end_percent": 0.95, "verbose": False},
    "NAGuidance": {"nag_scale": 5.0, "nag_alpha": 0.5, "nag_tau": 1.5},
    "Epsilon Scaling": {"scaling_factor": 1.1},
    "TCFG": {},
    "ModelSamplingDiscrete": {"sampling": "lcm", "zsnr": True},
}  # fmt: skip
EXTRAS = ("freelunch", "pag", "sag", "model_downscale", "model_advanced", "easycache", "nag", "eps", "tcfg")


@pytest.fixture(scope="module")
def core_nodes(comfyui) -> dict[str, Any]:
    """The node classes of comfy_extras by their ids."""
    found: dict[str, Any] = {}
    for name in EXTRAS:
        module = importlib.import_module(f"comfy_extras.nodes_{name}")
        found |= getattr(module, "NODE_CLASS_MAPPINGS", {})
        if hasattr(module, "comfy_entrypoint"):

            async def nodes(module: Any = module) -> list[Any]:
                extension = module.comfy_entrypoint()  # a coroutine in most
                return await (await extension if inspect.isawaitable(extension) else extension).get_node_list()

            found |= {node.define_schema().node_id: node for node in asyncio.run(nodes())}
    return found


def apply_core(node: Any, model: Any, widgets: dict[str, Any]) -> Any:
    if hasattr(node, "execute"):
        return node.execute(model, **widgets).args[0]
    return getattr(node(), node.FUNCTION)(model, **widgets)[0]


@pytest.fixture(scope="module")
def plain(comfyui, tiny_sdxl, conds) -> torch.Tensor:
    """Stock's picture."""
    return sample(comfyui, tiny_sdxl.model, conds, **SMALL)


@pytest.mark.parametrize("name", list(CORE_NODES))
def test_comfyuis_own_patch_nodes(comfyui, tiny_sdxl, optimized, conds, plain, core_nodes, name):
    expected = sample(comfyui, apply_core(core_nodes[name], tiny_sdxl.model, CORE_NODES[name]), conds, **SMALL)
    assert relative_error(expected, plain) > 10 * TOLERANCE
    assert relative_error(sample(comfyui, optimized, conds, **SMALL), plain) < TOLERANCE
    got = sample(comfyui, apply_core(core_nodes[name], optimized, CORE_NODES[name]), conds, **SMALL)
    assert relative_error(got, expected) < TOLERANCE
