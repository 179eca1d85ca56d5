"""ComfyUI's samplers, one micro-batch at a time."""

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from .internals import lacking, optional

k_diffusion = optional("comfy.k_diffusion.sampling")
management = optional("comfy.model_management")
model_base = optional("comfy.model_base")
core_sample = optional("comfy.sample")
samplers = optional("comfy.samplers")
utils = optional("comfy.utils")

StepCallback = Callable[[int, torch.Tensor, torch.Tensor, int], None]


def lacks(step_noise: str) -> str:
    """Tell what this ComfyUI lacks to draw sprites with this value of the engine's StepNoise; empty when nothing."""
    return lacking("sprites") or (lacking("noise of each step") if step_noise != "none" else "")


def sampler_names() -> list[str]:
    """Return the names of KSampler's samplers."""
    return list(samplers.KSampler.SAMPLERS)


def scheduler_names() -> list[str]:
    """Return the names of KSampler's schedulers."""
    return list(samplers.KSampler.SCHEDULERS)


def empty_latent(width_px: int, height_px: int) -> dict[str, Any]:
    """Return what EmptyLatentImage makes for one picture."""
    samples = torch.zeros(
        [1, 4, height_px // 8, width_px // 8],
        device=management.intermediate_device(),
        dtype=management.intermediate_dtype(),
    )
    return {"samples": samples, "downscale_ratio_spacial": 8}


def fitted_latent(model: Any, latent: dict[str, Any]) -> torch.Tensor:
    """Return the latent's samples with an empty latent widened to the model's channels, as common_ksampler does."""
    return core_sample.fix_empty_latent_channels(
        model, latent["samples"], latent.get("downscale_ratio_spacial"), latent.get("downscale_ratio_temporal")
    )


def latent_channels(model: Any) -> int:
    """Return how many channels the model's latents have."""
    return model.get_model_object("latent_format").latent_channels


def latent_dimensions(model: Any) -> int:
    """Return how many dimensions the model's latents have besides picture and channel: 2 for height and width."""
    return model.get_model_object("latent_format").latent_dimensions


def pixels_per_latent(model: Any) -> int:
    """Return how many pixels high and wide one value of the model's latents is."""
    return model.get_model_object("latent_format").spacial_downscale_ratio


def schedule(model: Any, sampler_name: str, scheduler: str, steps: int, denoise: float) -> torch.Tensor:
    """Return the sigmas that KSampler steps through; empty when denoise is 0."""
    return samplers.KSampler(
        model, steps, model.load_device, sampler_name, scheduler, denoise, model_options=model.model_options
    ).sigmas


def own_noise(samples: torch.Tensor, seeds: Sequence[int], batch_index: Sequence[int] | None) -> torch.Tensor:
    """Return each picture's initial noise, drawn as KSampler draws it for that picture alone."""
    rows = []
    for i, seed in enumerate(seeds):
        inds = None if batch_index is None else [batch_index[i]]
        rows.append(core_sample.prepare_noise(samples[i : i + 1], seed, inds))
    return torch.cat(rows)


def own_noise_sampler(name: str, step_noise: str, seeds: Sequence[int]) -> Any:
    """Return the sampler `name` with the noise of each picture's steps drawn from that picture's seed.

    `step_noise` is a value of the engine's StepNoise. The sampler functions themselves are ComfyUI's, unchanged.
    """
    stock = samplers.sampler_object(name)
    function = stock.sampler_function

    @functools.wraps(function)
    def sample_with_own_noise(model: Any, x: torch.Tensor, sigmas: torch.Tensor, **options: Any) -> torch.Tensor:
        if stock.inpaint_options.get("random"):
            # ddim fills the kept part of a masked latent with noise of seed + 1 (KSAMPLER.sample).
            draws = [torch.randn(x[:1].shape, generator=torch.Generator().manual_seed(seed + 1)) for seed in seeds]
            model.noise = torch.cat(draws).to(x)
        if step_noise == "none" or len(sigmas) < 2:
            return function(model, x, sigmas, **options)
        with ThreadPoolExecutor(min(len(seeds), os.cpu_count() or 1), thread_name_prefix="fast-sprites-noise") as threads:
            options["noise_sampler"] = _noise_sampler(step_noise, x, sigmas, seeds, threads)
            return function(model, x, sigmas, **options)

    return samplers.KSAMPLER(sample_with_own_noise, stock.extra_options, stock.inpaint_options)


def _noise_sampler(
    step_noise: str, x: torch.Tensor, sigmas: torch.Tensor, seeds: Sequence[int], threads: ThreadPoolExecutor
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    if step_noise == "generator":
        own = [k_diffusion.default_noise_sampler(x[i : i + 1], seed=seed) for i, seed in enumerate(seeds)]
        return lambda sigma, sigma_next: torch.cat([sampler(sigma, sigma_next) for sampler in own])
    sigma_min, sigma_max = sigmas[sigmas > 0].min(), sigmas.max()
    cpu = step_noise == "brownian_cpu"
    own = [
        k_diffusion.BrownianTreeNoiseSampler(x[i : i + 1], sigma_min, sigma_max, seed=seed, cpu=cpu)
        for i, seed in enumerate(seeds)
    ]
    if not cpu:
        return lambda sigma, sigma_next: torch.cat([sampler(sigma, sigma_next) for sampler in own])

    def from_trees(sigma: torch.Tensor, sigma_next: torch.Tensor) -> torch.Tensor:
        """BrownianTreeNoiseSampler's own steps, but that the trees are asked at once, 18 ms each, and the answers copied without waiting."""
        start, end = (each.detach().cpu().float() for each in (sigma, sigma_next))
        drawn = torch.cat(list(threads.map(lambda sampler: sampler.tree(start, end), own)))
        on_device = (drawn.pin_memory() if x.is_cuda else drawn).to(device=x.device, dtype=sigma.dtype, non_blocking=x.is_cuda)
        return on_device / (sigma_next - sigma).abs().sqrt()

    return from_trees


def sample(
    model: Any,
    noise: torch.Tensor,
    sampler: Any,
    sigmas: torch.Tensor,
    cfg: float,
    positive: list[Any],
    negative: list[Any],
    latent: torch.Tensor,
    noise_mask: torch.Tensor | None,
    callback: StepCallback,
    seed: int,
) -> torch.Tensor:
    """Sample one micro-batch on ComfyUI's ordinary path; returns the latents on the intermediate device."""
    return core_sample.sample_custom(
        model, noise, cfg, sampler, sigmas, positive, negative, latent, noise_mask=noise_mask, callback=callback,
        disable_pbar=not utils.PROGRESS_BAR_ENABLED, seed=seed,
    )  # fmt: skip


def rows_of(tensor: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
    """Return the rows of a per-picture tensor for the pictures `rows`, repeated as repeat_to_batch_size does; one row stays one."""
    return tensor if tensor.shape[0] == 1 else tensor[[row % tensor.shape[0] for row in rows]]


# Entries of a conditioning's options that hold one row per picture, with their number of dimensions.
_PER_PICTURE = {"mask": 3, "concat_latent_image": 4, "concat_mask": 4}


def conditioning_rows(
    conditioning: list[Any], rows: Sequence[int], pictures: Sequence[int], controls: dict[int, Any]
) -> list[Any]:
    """Return the conditioning of the prompts `rows` with the masks and ControlNets' pictures `pictures`.

    `controls` keeps the copies of ControlNets shared by both conditionings.
    """
    chosen = []
    for cross_attention, options in conditioning:
        own = {
            key: rows_of(value, pictures) if isinstance(value, torch.Tensor) and value.ndim == _PER_PICTURE.get(key) else value
            for key, value in options.items()
        }
        if own.get("pooled_output") is not None:
            own["pooled_output"] = rows_of(own["pooled_output"], rows)
        if "control" in own:
            own["control"] = _control_rows(own["control"], pictures, controls)
        chosen.append([cross_attention if cross_attention is None else rows_of(cross_attention, rows), own])
    return chosen


def _control_rows(control: Any, rows: Sequence[int], controls: dict[int, Any]) -> Any:
    """Copy a chain of ControlNets whose hints have one picture per sprite; the same object stays one object, so that CFG batches."""
    if control is None or not _has_hint_rows(control):
        return control
    if id(control) not in controls:
        own = control.copy()
        if own.cond_hint_original is not None:
            own.cond_hint_original = rows_of(own.cond_hint_original, rows)
        own.set_previous_controlnet(_control_rows(control.previous_controlnet, rows, controls))
        controls[id(control)] = own
    return controls[id(control)]


def _has_hint_rows(control: Any) -> bool:
    while control is not None:
        if control.cond_hint_original is not None and control.cond_hint_original.shape[0] > 1:
            return True
        control = control.previous_controlnet
    return False


def mask_rows(mask: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
    """Return the noise masks of the pictures `rows`, shaped [pictures, 1, height, width] as reshape_mask makes them."""
    return rows_of(mask.reshape((-1, 1, *mask.shape[-2:])), rows)


# Of plain RuntimeErrors, by which ComfyUI does not know them: MPSAllocator.mm and alloc_cpu.cpp of torch.
_OUT_OF_MEMORY = ("MPS backend out of memory", "DefaultCPUAllocator: ")


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether the device ran out of memory, as ComfyUI decides it, or on MPS or a CPU; clears CUDA's sticky error if so."""
    return management.is_oom(error) or any(words in str(error) for words in _OUT_OF_MEMORY)


def release_cached_memory() -> None:
    """Give torch's cached blocks back to the driver."""
    management.soft_empty_cache()


def is_sdxl(model: Any) -> bool:
    """Tell whether the model is of SDXL's UNet family."""
    return isinstance(model.model, model_base.SDXL)


def compute_element_size(model: Any) -> int:
    """Return the bytes of one number in the dtype that the model computes in."""
    return management.dtype_size(model.model.get_dtype_inference())


def memory_usage_factor(model: Any) -> float:
    """Return ComfyUI's memory factor for the model's family."""
    return float(model.model.memory_usage_factor)


def available_bytes(model: Any) -> int:
    """Return the memory that a run of `model` can use for activations.

    That is what is free, plus other models that ComfyUI would evict, less the weights of `model` that are still to be loaded and
    ComfyUI's own reserve.
    """
    free = management.get_free_memory(model.load_device)
    resident = 0
    for loaded in management.current_loaded_models:
        if loaded.model is None or loaded.device != model.load_device:
            continue
        if loaded.model.model is model.model:
            resident = loaded.model_loaded_memory()
        elif loaded.device.type != "cpu":
            free += loaded.model_loaded_memory()
    # On a CPU the weights already stand in the memory that is counted.
    missing = 0 if model.load_device.type == "cpu" else max(model.model_size() - resident, 0)
    return int(max(free - missing - management.extra_reserved_memory(), 0))
