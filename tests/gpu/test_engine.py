"""The engine against stock, picture by picture, in everything that a stranger's graph does with a model."""

from typing import Any

import pytest
import torch

from .conftest import NODES, WHY_NOT

if NODES is None:
    pytest.skip(WHY_NOT, allow_module_level=True)

from ..lora_keys import LORA_KEYS
from .engine_checks import (
    ON_CPU,
    STEPS,
    TOLERANCE,
    VISIBLE,
    check,
    encode,
    optimize,
    relative_error,
    sample,
    with_control,
    with_lora,
)


@pytest.mark.skipif(ON_CPU, reason="auto leaves a CPU to ComfyUI")
def test_auto_applies_the_fast_engine_here(tiny):
    report = optimize(tiny.model)[1]
    assert "applied: engine: fast" in report
    assert "applied: CUDA graph" in report


@pytest.mark.skipif(ON_CPU, reason="there is no DynamicVRAM on a CPU")
def test_a_run_writes_no_line_for_each_page_it_holds(tiny, conds, capfd):
    sample(optimize(tiny.model)[0], conds)
    assert "pin_count" not in capfd.readouterr().err


# 104x152 and 125x95 latents of the full size are 832x1216 and 1000x760; odd rows and columns at every level.
@pytest.mark.parametrize("size", [(128, 128), (104, 152), (128, 64), (200, 152), (120, 88)], ids=str)
@pytest.mark.parametrize(("batch", "cfg"), [(1, 2.0), (3, 2.0), (2, 1.0)])
def test_sizes_batches_and_cfg(tiny, conds, watch, size, batch, cfg):
    check(watch, optimize(tiny.model)[0], tiny.model, conds, width=size[0], height=size[1], batch=batch, cfg=cfg)


@pytest.mark.parametrize("sampler", ["euler_ancestral", "dpmpp_2m", "dpmpp_2m_sde"])
def test_samplers(tiny, conds, watch, sampler):
    check(watch, optimize(tiny.model)[0], tiny.model, conds, sampler_name=sampler)


def test_batch_changes_on_one_model(tiny, conds, watch):
    batches = (1, 2, 3, 1, 2)
    expected = {batch: sample(tiny.model, conds, batch=batch) for batch in set(batches)}
    ours = optimize(tiny.model)[0]
    watch.reset()
    for batch in batches:
        assert relative_error(sample(ours, conds, batch=batch), expected[batch]) < TOLERANCE
    assert (watch.captures, watch.stock) == (2 * 3, 3), "a shape was captured twice"
    assert watch.replays == 5 * STEPS - 3


def test_new_prompts_and_seeds_replay_the_same_graph(tiny, conds, watch):
    prompts = [conds, (conds[1], conds[0]), encode(tiny.clip, "blue knight", "blurry")]
    expected = [sample(tiny.model, c, seed=seed) for seed, c in enumerate(prompts)]
    ours = optimize(tiny.model)[0]
    watch.reset()
    for seed, c in enumerate(prompts):
        assert relative_error(sample(ours, c, seed=seed), expected[seed]) < TOLERANCE
    assert watch.captures == 2


@pytest.mark.parametrize("order", ["before", "after"])
def test_lora_swapped_between_runs(tiny, conds, order):
    ours = optimize(tiny.model)[0]
    plain = sample(tiny.model, conds)
    for strength, seed in ((1.0, 5), (-0.5, 5), (1.0, 6)):
        stock = with_lora(tiny.model, strength, seed)
        assert relative_error(sample(stock, conds), plain) > VISIBLE
        expected = sample(stock, conds)
        got = sample(with_lora(ours, strength, seed) if order == "after" else optimize(stock)[0], conds)
        assert relative_error(got, expected) < TOLERANCE
    assert relative_error(sample(ours, conds), plain) < TOLERANCE


def test_two_loras_of_other_strengths_on_both_sides_of_the_node(tiny, conds, watch):
    stock = with_lora(with_lora(tiny.model, 0.8, 5), -0.4, 6, LORA_KEYS[:3])
    ours = with_lora(optimize(with_lora(tiny.model, 0.8, 5))[0], -0.4, 6, LORA_KEYS[:3])
    check(watch, ours, stock, conds)


def test_a_lora_change_reaches_what_was_captured(tiny, conds):
    models = [with_lora(tiny.model, 1.0, seed) for seed in (5, 6, 7)]
    expected = [sample(model, conds) for model in models]
    ours = optimize(tiny.model)[0]
    clones = [with_lora(ours, 1.0, seed) for seed in (5, 6, 7)]
    for clone, picture in zip(clones, expected, strict=True):
        assert relative_error(sample(clone, conds), picture) < TOLERANCE


def test_control_residuals(tiny, conds, watch):
    controlled = with_control(conds)
    assert relative_error(sample(tiny.model, controlled), sample(tiny.model, conds)) > VISIBLE
    check(watch, optimize(tiny.model)[0], tiny.model, controlled)


@pytest.mark.parametrize(("words", "tokens"), [(1, 77), (35, 154), (60, 231)])
def test_long_prompts(tiny, watch, words, tokens):
    conds = encode(tiny.clip, "a knight, " * words)
    assert conds[0][0][0].shape[1] == tokens
    check(watch, optimize(tiny.model)[0], tiny.model, conds)


def regional(conds: Any, kind: str) -> Any:
    """Positive conditioning of several parts: by area, by mask, by step."""
    from node_helpers import conditioning_set_values as put

    first, second = conds
    mask = torch.zeros(1, 128, 128)
    mask[:, :, 64:] = 1
    return {
        "area": put(first, {"area": (16, 8, 0, 0), "strength": 1.0, "set_area_to_bounds": False}) + second,
        "mask": put(first, {"mask": mask, "set_area_to_bounds": False, "mask_strength": 1.0}) + second,
        "scheduled": put(first, {"start_percent": 0.0, "end_percent": 0.4})
        + put(second, {"start_percent": 0.4, "end_percent": 1.0}),
    }[kind]


@pytest.mark.parametrize("kind", ["area", "mask", "scheduled"])
def test_regional_and_scheduled_conditioning(tiny, conds, watch, kind):
    other = [[conds[1][0][0] * 5, conds[1][0][1]]]  # words alone change little in a picture of CFG 2
    positive = regional((conds[0], other), kind)
    expected = sample(tiny.model, (positive, conds[1]))
    assert relative_error(sample(tiny.model, conds), expected) > VISIBLE
    ours = optimize(tiny.model)[0]
    watch.reset()
    assert relative_error(sample(ours, (positive, conds[1])), expected) < TOLERANCE
    assert watch.captures > 0
    assert watch.replays > 0


def test_hires_pass_at_another_size(tiny, conds, watch):
    def two_passes(model: Any) -> torch.Tensor:
        first = sample(model, conds)
        larger = torch.nn.functional.interpolate(first, size=(24, 20), mode="nearest-exact")
        return sample(model, conds, latent={"samples": larger}, denoise=0.6, seed=8)

    expected = two_passes(tiny.model)
    ours = optimize(tiny.model)[0]
    watch.reset()
    assert relative_error(two_passes(ours), expected) < TOLERANCE
    assert (watch.captures, watch.stock) == (4, 2)


@pytest.mark.parametrize("order", ["before", "after"])
def test_v_prediction(tiny, conds, watch, order):
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    patch = ModelSamplingDiscrete().patch
    stock = patch(tiny.model, "v_prediction", False)[0]
    ours = optimize(stock)[0] if order == "before" else patch(optimize(tiny.model)[0], "v_prediction", False)[0]
    assert relative_error(sample(stock, conds), sample(tiny.model, conds)) > VISIBLE
    check(watch, ours, stock, conds)


@pytest.mark.parametrize("order", ["before", "after"])
def test_model_merging(tiny, other_model, conds, watch, order):
    from comfy_extras.nodes_model_merging import ModelMergeSimple

    merge = ModelMergeSimple().merge
    stock = merge(tiny.model, other_model, 0.7)[0]
    ours = optimize(stock)[0] if order == "before" else merge(optimize(tiny.model)[0], other_model, 0.7)[0]
    assert relative_error(sample(stock, conds), sample(tiny.model, conds)) > VISIBLE
    check(watch, ours, stock, conds)


def test_inpainting_model_with_nine_channels(comfyui, inpainting, watch):
    conds = encode(inpainting.clip)
    generator = torch.Generator().manual_seed(2)
    pixels = torch.rand(1, 128, 128, 3, generator=generator)
    mask = torch.zeros(1, 128, 128)
    mask[:, 32:96, 32:96] = 1
    positive, negative, latent = comfyui.InpaintModelConditioning().encode(*conds, pixels, inpainting.vae, mask)
    check(watch, optimize(inpainting.model)[0], inpainting.model, (positive, negative), latent=latent)


def test_image_to_image_with_a_noise_mask(tiny, conds, watch):
    generator = torch.Generator().manual_seed(2)
    mask = torch.zeros(1, 1, 128, 128)
    mask[..., :64] = 1
    latent = {"samples": torch.randn(1, 4, 16, 16, generator=generator), "noise_mask": mask}
    check(watch, optimize(tiny.model)[0], tiny.model, conds, latent=latent, denoise=0.9)


def test_two_branches_with_other_settings_from_one_loader(tiny, conds):
    expected = sample(tiny.model, conds)
    first, second = optimize(tiny.model)[0], optimize(tiny.model, engine="eager", attention="sdpa", cudnn_autotune="on")[0]
    third = optimize(tiny.model, engine="off", attention="sdpa")[0]
    for model in (first, second, third, second, first):
        assert relative_error(sample(model, conds), expected) < TOLERANCE
    assert torch.backends.cudnn.benchmark is False
    assert torch.equal(sample(tiny.model, conds), expected)


def test_a_lora_scheduled_by_hooks_is_left_to_comfyui(tiny, conds, watch):
    import comfy.hooks
    from node_helpers import conditioning_set_values

    generator = torch.Generator().manual_seed(6)
    weights = {
        key: ("diff", (torch.randn(value.shape, generator=generator) * 0.5 * value[0].numel() ** -0.5,))
        for key, value in tiny.model.model.state_dict().items()
        if key.startswith("diffusion_model.") and key.endswith("attn1.to_q.weight")
    }

    def hooked(model: Any) -> tuple[Any, Any]:
        group, hook = comfy.hooks.HookGroup(), comfy.hooks.WeightHook()
        group.add(hook)
        clone = model.clone()
        clone.add_hook_patches(hook=hook, patches=weights, strength_patch=2.0)
        return clone, tuple(conditioning_set_values(c, {"hooks": group}) for c in conds)

    stock, hooked_conds = hooked(tiny.model)
    expected = sample(stock, hooked_conds)
    ours, hooked_conds = hooked(optimize(tiny.model)[0])
    watch.reset()
    assert relative_error(sample(ours, hooked_conds), expected) < TOLERANCE
    assert (watch.engine, watch.captures) == (0, 0)
