"""What goes in and out of a captured forward, with a stand-in for CUDA's graphs that runs the captured body again at every replay."""

import gc
from typing import Any

import pytest
import torch

from .optimized import (
    COPIED_LORA_KEYS,
    STEPS,
    TOLERANCE,
    StandInGraph,
    check_equal,
    package,
    relative_error,
    sample,
    with_control,
    with_graphs,
    with_lora,
)

CAPTURED = 2  # a graph of keys and values, and one of the rest


def again(comfyui: Any, optimized: Any, expected: torch.Tensor, conds: Any, **options: Any) -> None:
    assert relative_error(sample(comfyui, optimized, conds, **options), expected) < TOLERANCE


def test_one_capture_per_shape_serves_every_seed_and_prompt(comfyui, tiny_sdxl, optimized, graphs, conds):
    prompts = [conds, (conds[1], conds[0])]
    settings = [{"seed": seed} for seed in (7, 8)]
    expected = [[sample(comfyui, tiny_sdxl.model, c, **s) for s in settings] for c in prompts]
    for c, row in zip(prompts, expected, strict=True):
        for s, picture in zip(settings, row, strict=True):
            again(comfyui, optimized, picture, c, **s)
    assert graphs.captures == CAPTURED
    check_other = sample(comfyui, optimized, conds, width=64)
    assert graphs.captures == 2 * CAPTURED
    assert relative_error(check_other, sample(comfyui, tiny_sdxl.model, conds, width=64)) < TOLERANCE


def test_a_new_lora_reaches_the_graph(comfyui, tiny_sdxl, optimized, graphs, conds):
    for strength, seed in ((1.0, 5), (-0.5, 6)):
        check_equal(comfyui, with_lora(optimized, strength, seed), with_lora(tiny_sdxl.model, strength, seed), conds)
    check_equal(comfyui, optimized, tiny_sdxl.model, conds)


def test_control_and_scheduled_prompts_replay_with_their_own_inputs(comfyui, tiny_sdxl, optimized, graphs, conds):
    import node_helpers

    check_equal(comfyui, optimized, tiny_sdxl.model, with_control(conds))
    early = node_helpers.conditioning_set_values(conds[0], {"start_percent": 0.0, "end_percent": 0.5})
    late = node_helpers.conditioning_set_values(conds[1], {"start_percent": 0.5, "end_percent": 1.0})
    check_equal(comfyui, optimized, tiny_sdxl.model, (early + late, conds[1]))
    assert graphs.captures >= CAPTURED


def test_a_context_that_changes_at_every_step_is_not_taken_from_the_last(comfyui, tiny_sdxl, optimized, graphs, conds):
    def wrapper(apply_model, args):
        c = dict(args["c"], c_crossattn=args["c"]["c_crossattn"] * (1 + args["timestep"][0].item() / 14))
        return apply_model(args["input"], args["timestep"], **c)

    stock, ours = tiny_sdxl.model.clone(), optimized.clone()
    stock.set_model_unet_function_wrapper(wrapper)
    ours.set_model_unet_function_wrapper(wrapper)
    check_equal(comfyui, ours, stock, conds)
    assert graphs.captures == CAPTURED


def test_a_prompt_that_is_written_over_between_two_runs_of_a_guider(comfyui, tiny_sdxl, optimized, graphs, conds):
    """SamplerCustomAdvanced keeps its guider, and with it the conds' uuids, from prompt to prompt."""
    import comfy.samplers

    def draw(model: Any) -> list[torch.Tensor]:
        positive = [[text.clone(), options] for text, options in conds[0]]
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(positive, conds[1])
        guider.set_cfg(5.0)
        sampler = comfy.samplers.sampler_object("euler")
        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "karras", STEPS)
        noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5))
        pictures = []
        with torch.inference_mode():
            for _ in range(2):
                pictures.append(guider.sample(noise, torch.zeros_like(noise), sampler, sigmas, seed=5))
                positive[0][0].mul_(2)
        return pictures

    expected = draw(tiny_sdxl.model)
    assert relative_error(*expected) > 100 * TOLERANCE
    for picture, stock in zip(draw(optimized), expected, strict=True):
        assert relative_error(picture, stock) < TOLERANCE
    assert graphs.captures == CAPTURED


def test_fp16_sums_of_one_run_are_not_replayed_in_another(comfyui, optimized, graphs, conds):
    """KJNodes' Model Patch Torch Settings turns them on before a run and off behind it."""
    matmul = torch.backends.cuda.matmul
    sample(comfyui, optimized, conds)
    matmul.allow_fp16_accumulation = True
    try:
        sample(comfyui, optimized, conds)
    finally:
        matmul.allow_fp16_accumulation = False
    assert graphs.captures == 2 * CAPTURED
    sample(comfyui, optimized, conds)
    assert graphs.captures == 2 * CAPTURED


def test_steps_outside_of_inference_mode(comfyui, tiny_sdxl, optimized, graphs, conds, on_demand):
    """Packs that guide by gradients leave it, and packs that draw in a thread of their own were never in it."""

    def outside(apply_model: Any, args: dict[str, Any]) -> torch.Tensor:
        with torch.inference_mode(False), torch.no_grad():
            return apply_model(args["input"], args["timestep"], **args["c"])

    stock, ours = tiny_sdxl.model.clone(), optimized.clone()
    stock.set_model_unet_function_wrapper(outside)
    ours.set_model_unet_function_wrapper(outside)
    check_equal(comfyui, optimized, tiny_sdxl.model, conds)
    ours_with, stock_with = (with_lora(model, 0.7, keys=COPIED_LORA_KEYS) for model in (ours, stock))
    check_equal(comfyui, ours_with, stock_with, conds)
    assert graphs.captures == CAPTURED
    check_equal(comfyui, ours, stock, conds, width=64)
    check_equal(comfyui, optimized, tiny_sdxl.model, conds, width=64)
    assert graphs.captures == 2 * CAPTURED


def test_a_capture_that_fails_costs_the_graph_and_nothing_else(comfyui, pack_nodes, tiny_sdxl, optimized, graphs, conds):
    import comfy.model_management

    cache = package(pack_nodes, "engine.unet.graphs").GraphCache
    graphs.fail = True
    check_equal(comfyui, optimized, tiny_sdxl.model, conds)
    assert graphs.waits == 2  # for the passes before the capture, and for what they wrote
    assert not any(type(o) is cache for o in gc.get_objects())
    comfy.model_management.unload_all_models()
    check_equal(comfyui, optimized, tiny_sdxl.model, conds)
    assert (graphs.captures, graphs.failures) == (0, 1), "what cannot be captured was tried again"
    graphs.fail = False
    check_equal(comfyui, optimized, tiny_sdxl.model, conds, width=72)
    assert graphs.captures == CAPTURED


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, torch.AcceleratorError])
def test_memory_that_runs_out_in_a_capture_costs_this_runs_engine_alone(comfyui, tiny_sdxl, optimized, graphs, conds, error):
    graphs.fail, graphs.error = True, (error, "CUDA error: out of memory")
    check_equal(comfyui, optimized, tiny_sdxl.model, conds)
    assert graphs.failures == 1, "the run went on capturing"
    graphs.fail = False
    sample(comfyui, optimized, conds)
    assert graphs.captures == CAPTURED


def test_no_more_than_four_graphs_are_kept(comfyui, optimized, graphs, conds):
    for width in (64, 72, 80, 88, 96, 64):
        sample(comfyui, optimized, conds, width=width, height=64)
    assert graphs.captures == 6 * CAPTURED


def test_a_fifth_shape_of_one_run_goes_without_a_graph(comfyui, pack_nodes, tiny_sdxl, graphs, conds, monkeypatch):
    import node_helpers

    shown: list[str] = []
    monkeypatch.setattr(package(pack_nodes, "engine.model.apply_model_plan"), "send_text", lambda text, **_: shown.append(text))
    optimized = with_graphs(pack_nodes, tiny_sdxl.model)
    areas = [(16, 16), (8, 16), (16, 8), (8, 8), (4, 8)]  # height and width in latents
    regions = [node_helpers.conditioning_set_values(conds[0], {"area": (*area, 0, 0), "strength": 1.0})[0] for area in areas]
    regional = regions, conds[1]
    expected = sample(comfyui, tiny_sdxl.model, regional, cfg=1.0)
    for _ in range(2):
        again(comfyui, optimized, expected, regional, cfg=1.0)
        assert graphs.captures == 4 * CAPTURED, "graphs push each other out"
    assert shown == ["no CUDA graph: more than 4 shapes in one run"] * 2


def test_steps_after_the_first_are_replayed(comfyui, optimized, graphs, conds, monkeypatch):
    replays = []
    replay = StandInGraph.replay
    monkeypatch.setattr(StandInGraph, "replay", lambda self: (replays.append(1), replay(self))[1])
    sample(comfyui, optimized, conds)
    assert len(replays) == (STEPS - 1) + 1  # every step but the compared one, and keys and values once


@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral"])
def test_cancelling_is_seen_before_the_next_step_is_replayed(comfyui, tiny_sdxl, optimized, graphs, conds, sampler):
    """Whatever else looks at the button; ComfyUI's progress bar does so a few times a second."""
    import comfy.model_management
    import comfy.sample

    sample(comfyui, optimized, conds)
    steps: list[int] = []

    def cancel(step: int, *_: Any) -> None:
        steps.append(step)
        comfy.model_management.interrupt_current_processing(len(steps) == 2)

    latent = torch.zeros(1, 4, 16, 16)
    with pytest.raises(comfy.model_management.InterruptProcessingException), torch.inference_mode():
        comfy.sample.sample(
            optimized, latent, STEPS, 5.0, sampler, "karras", conds[0], conds[1], latent, callback=cancel, disable_pbar=True
        )
    assert steps == [0, 1]
