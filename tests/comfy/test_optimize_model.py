"""OptimizeModel against the stock model: the same pictures, and nothing left behind."""

import gc
from typing import Any

import pytest
import torch

from .optimized import (
    STEPS,
    TOLERANCE,
    StopError,
    check_equal,
    optimize,
    package,
    relative_error,
    sample,
    with_control,
    with_lora,
)


@pytest.mark.parametrize(
    ("width", "height", "batch", "cfg"), [(128, 128, 1, 5.0), (104, 152, 2, 5.0), (128, 64, 3, 1.0), (88, 120, 1, 5.0)]
)
def test_eager_engine_gives_stock_pictures(comfyui, pack_nodes, tiny_sdxl, conds, width, height, batch, cfg):
    optimized, report = optimize(pack_nodes, tiny_sdxl.model)
    assert "applied: engine: eager" in report
    expected = sample(comfyui, tiny_sdxl.model, conds, width=width, height=height, batch=batch, cfg=cfg)
    got = sample(comfyui, optimized, conds, width=width, height=height, batch=batch, cfg=cfg)
    assert relative_error(got, expected) < TOLERANCE


def test_the_engine_runs_every_step(comfyui, pack_nodes, tiny_sdxl, conds, watch):
    sample(comfyui, optimize(pack_nodes, tiny_sdxl.model)[0], conds)
    assert watch.count == STEPS


def test_lora_swapped_between_runs_before_and_after_the_node(comfyui, pack_nodes, tiny_sdxl, conds, watch):
    optimized = optimize(pack_nodes, tiny_sdxl.model)[0]
    plain = sample(comfyui, tiny_sdxl.model, conds)
    for strength, seed in ((1.0, 5), (-0.5, 5), (1.0, 6)):
        stock = with_lora(tiny_sdxl.model, strength, seed)
        assert relative_error(sample(comfyui, stock, conds), plain) > 0.01
        check_equal(comfyui, optimize(pack_nodes, stock)[0], stock, conds)
        check_equal(comfyui, with_lora(optimized, strength, seed), stock, conds)
    check_equal(comfyui, optimized, tiny_sdxl.model, conds)
    assert watch.count == 7 * STEPS


def test_stock_branch_is_bit_identical_before_between_and_after(comfyui, pack_nodes, tiny_sdxl, conds):
    before = sample(comfyui, tiny_sdxl.model, conds)
    first, second = (
        optimize(pack_nodes, tiny_sdxl.model)[0],
        optimize(pack_nodes, tiny_sdxl.model, attention="sdpa", engine="off")[0],
    )
    for model in (first, second, first):
        sample(comfyui, model, conds)
        assert torch.equal(sample(comfyui, tiny_sdxl.model, conds), before)


def test_long_prompts_areas_and_scheduled_prompts(comfyui, pack_nodes, tiny_sdxl, conds, watch):
    import node_helpers

    clip = tiny_sdxl.clip
    long = clip.encode_from_tokens_scheduled(clip.tokenize("a knight, " * 60))
    assert long[0][0].shape[1] == 231
    optimized = optimize(pack_nodes, tiny_sdxl.model)[0]
    left = node_helpers.conditioning_set_values(conds[0], {"area": (16, 8, 0, 0), "strength": 1.0, "set_area_to_bounds": False})
    early = node_helpers.conditioning_set_values(long, {"start_percent": 0.0, "end_percent": 0.4})
    late = node_helpers.conditioning_set_values(conds[0], {"start_percent": 0.4, "end_percent": 1.0})
    for positive in (long, left + long, early + late):
        check_equal(comfyui, optimized, tiny_sdxl.model, (positive, conds[1]))
    assert watch.count >= 3 * STEPS


def test_control_residuals(comfyui, pack_nodes, tiny_sdxl, conds, watch):
    controlled = with_control(conds)
    assert relative_error(sample(comfyui, tiny_sdxl.model, controlled), sample(comfyui, tiny_sdxl.model, conds)) > 0.01
    check_equal(comfyui, optimize(pack_nodes, tiny_sdxl.model)[0], tiny_sdxl.model, controlled)
    assert watch.count == 2 * STEPS  # prompt and negative prompt apart


@pytest.mark.parametrize("error", [StopError, torch.OutOfMemoryError])
def test_an_error_in_the_middle_of_a_run_leaves_nothing_behind(comfyui, pack_nodes, tiny_sdxl, conds, error):
    before = sample(comfyui, tiny_sdxl.model, conds)
    optimized = optimize(pack_nodes, tiny_sdxl.model, cudnn_autotune="on")[0]
    failing = optimized.clone()
    calls = []

    def patch(h, options):
        calls.append(1)
        if len(calls) > 30 and error is not None:
            raise error("planted")
        return h

    failing.set_model_input_block_patch(patch)
    if error is StopError:
        with pytest.raises(StopError):
            sample(comfyui, failing, conds)
    else:  # the engine takes memory running out as a reason to step back; then the patch fails again, in ComfyUI's own forward
        with pytest.raises(torch.OutOfMemoryError):
            sample(comfyui, failing, conds)
    assert torch.equal(sample(comfyui, tiny_sdxl.model, conds), before)
    assert torch.backends.cudnn.benchmark is False
    assert relative_error(sample(comfyui, optimized, conds), before) < TOLERANCE


def test_other_precision_is_refused_by_the_engine_and_applied(comfyui, pack_nodes, tiny_sdxl, conds, watch):
    optimized, report = optimize(pack_nodes, tiny_sdxl.model, precision="bf16")
    assert "applied: precision: bf16" in report
    assert "refused: engine: weights are fp32 but computing is bf16" in report
    stock = tiny_sdxl.model.clone()
    stock.set_model_compute_dtype(torch.bfloat16)
    assert torch.equal(sample(comfyui, optimized, conds), sample(comfyui, stock, conds))
    assert watch.count == 0


def test_auto_on_a_cpu_changes_nothing_and_says_why(pack_nodes, tiny_sdxl):
    optimized, report = optimize(pack_nodes, tiny_sdxl.model, engine="auto")
    assert optimized.model is tiny_sdxl.model.model
    assert (optimized.wrappers, optimized.model_options, optimized.object_patches) == (
        tiny_sdxl.model.wrappers,
        tiny_sdxl.model.model_options,
        tiny_sdxl.model.object_patches,
    )
    assert "refused: engine: fast needs a CUDA device, this is CPU" in report


def test_not_sdxl_is_passed_through_with_the_reason(pack_nodes, tiny_sdxl):
    class Transformer(torch.nn.Module): ...

    stranger = tiny_sdxl.model.clone()
    stranger.model = type(
        "Flux",
        (),
        {"diffusion_model": Transformer(), "get_dtype": lambda s: torch.float16, "get_dtype_inference": lambda s: torch.float16},
    )()
    optimized, report = optimize(pack_nodes, stranger)
    assert optimized is stranger
    assert "Flux is not an SDXL UNet (its diffusion model is a Transformer)" in report


def test_memory_running_out_with_control_draws_the_right_picture(comfyui, pack_nodes, tiny_sdxl, conds, monkeypatch):
    controlled = with_control(conds)
    expected = sample(comfyui, tiny_sdxl.model, controlled)
    forward = package(pack_nodes, "engine.unet.forward").UNetForward
    original = forward.upsample

    def failing(*args: Any) -> Any:
        if len(calls) == 5:
            calls.append(1)
            raise torch.OutOfMemoryError("planted")
        calls.append(1)
        return original(*args)

    calls: list[int] = []
    monkeypatch.setattr(forward, "upsample", failing)
    got = sample(comfyui, optimize(pack_nodes, tiny_sdxl.model)[0], controlled)
    assert len(calls) > 5
    assert relative_error(got, expected) < TOLERANCE


def test_a_kernel_that_cannot_be_compiled_leaves_the_runs_to_comfyui(comfyui, pack_nodes, tiny_sdxl, conds, watch, monkeypatch):
    class AssemblerError(Exception):
        pass

    ops, tried = package(pack_nodes, "engine.kernels.ops"), []

    def failing(*args: Any, **kwargs: Any) -> Any:
        tried.append(1)
        raise AssemblerError("ptxas failed\nsm_121a is not defined")

    monkeypatch.setattr(ops.TorchOps, "compile_errors", (AssemblerError,))
    monkeypatch.setattr(ops.TorchOps, "geglu", failing)
    shown: list[str] = []
    monkeypatch.setattr(package(pack_nodes, "engine.model.apply_model_plan"), "send_text", lambda text, **_: shown.append(text))
    optimized, expected = optimize(pack_nodes, tiny_sdxl.model)[0], sample(comfyui, tiny_sdxl.model, conds)
    for _ in range(2):
        assert torch.equal(sample(comfyui, optimized, conds), expected)
    assert len(tried) == 1  # the second run does not compile again
    assert watch.count == 1
    assert len(shown) == 2
    assert all("Triton cannot compile a kernel for this device (AssemblerError: ptxas failed)" in text for text in shown)


def test_the_engine_keeps_nothing_once_another_clone_or_nothing_is_loaded(comfyui, pack_nodes, tiny_sdxl, conds):
    import comfy.model_management

    prepared = package(pack_nodes, "engine.unet.prepared").PreparedWeights

    def alive() -> int:
        gc.collect()
        return sum(type(o) is prepared for o in gc.get_objects())

    optimized = optimize(pack_nodes, tiny_sdxl.model)[0]
    before = alive()
    sample(comfyui, optimized, conds)
    assert alive() == before + 1
    sample(comfyui, tiny_sdxl.model, conds)
    assert alive() == before
    sample(comfyui, optimized, conds)
    comfy.model_management.unload_all_models()
    assert alive() == before


def test_the_engine_keeps_nothing_where_it_disagrees_with_comfyui(comfyui, pack_nodes, tiny_sdxl, conds, watch, monkeypatch):
    module, released = package(pack_nodes, "engine.model.run_unet_engine"), []
    monkeypatch.setattr(module, "TOLERANCE", dict.fromkeys(module.TOLERANCE, -1.0))
    monkeypatch.setattr(module, "release_cached_memory", lambda: released.append(kept()))
    prepared = package(pack_nodes, "engine.unet.prepared").PreparedWeights

    def kept() -> int:
        gc.collect()
        return sum(type(o) is prepared for o in gc.get_objects())

    optimized, before = optimize(pack_nodes, tiny_sdxl.model)[0], kept()
    expected = sample(comfyui, tiny_sdxl.model, conds)
    assert torch.equal(sample(comfyui, optimized, conds), expected)
    assert (watch.count, released) == (1, [before])


def test_a_model_that_is_unloaded_in_the_middle_of_a_run_is_prepared_again(comfyui, pack_nodes, tiny_sdxl, conds, watch):
    import comfy.model_management

    expected = sample(comfyui, tiny_sdxl.model, conds)
    optimized = optimize(pack_nodes, tiny_sdxl.model)[0].clone()
    steps: list[int] = []

    def other_node(args: dict[str, Any]) -> torch.Tensor:
        steps.append(1)
        if len(steps) == 2:
            comfy.model_management.unload_all_models()
            comfy.model_management.load_models_gpu([optimized])
        return args["denoised"]

    optimized.set_model_sampler_post_cfg_function(other_node)
    assert relative_error(sample(comfyui, optimized, conds), expected) < TOLERANCE
    assert watch.count == len(steps) == STEPS


def test_applying_again_takes_an_earlier_precision_back(pack_nodes, tiny_sdxl):
    twice, report = optimize(pack_nodes, optimize(pack_nodes, tiny_sdxl.model, precision="bf16")[0])
    assert "applied: engine: eager" in report
    assert "manual_cast_dtype" not in twice.object_patches


def test_applying_twice_is_applying_once(comfyui, pack_nodes, tiny_sdxl, conds, watch):
    twice = optimize(pack_nodes, optimize(pack_nodes, tiny_sdxl.model)[0])[0]
    sample(comfyui, twice, conds)
    assert watch.count == STEPS
