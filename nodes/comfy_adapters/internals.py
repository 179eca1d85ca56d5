"""Which of ComfyUI's internals this ComfyUI has.

ComfyUI promises nothing about them. Adapters get its modules by `optional`, so that none that is gone keeps the pack from loading, and
each technique names here what it uses, so that a plan refuses it, and it alone, where something is gone.
"""

import importlib
import inspect
import types
from typing import Any

_ATTENTION = "comfy.ldm.modules.attention"
_UNET = "comfy.ldm.modules.diffusionmodules.openaimodel"
_PATCHER = "comfy.model_patcher:ModelPatcher"
_BLOCKS = "comfy.ldm.modules.diffusionmodules.model"
_KEPT_MEMORY = (
    "comfy.model_management:current_loaded_models",
    "comfy.model_management:LoadedModel.model_load",
    f"{_PATCHER}.partially_load",
    f"{_PATCHER}.partially_unload",
)
_WEIGHTS = ("comfy.ops:cast_bias_weight(offloadable)", "comfy.ops:uncast_bias_weight")

NEEDS: dict[str, tuple[str, ...]] = {
    "model": (
        f"{_UNET}:UNetModel",
        f"{_UNET}:VideoResBlock",
        f"{_ATTENTION}:SpatialTransformer",
        f"{_ATTENTION}:SpatialVideoTransformer",
        "comfy.patcher_extension:WrappersMP.OUTER_SAMPLE",
        "comfy.patcher_extension:WrappersMP.DIFFUSION_MODEL",
        "comfy.patcher_extension:WrappersMP.APPLY_MODEL",
        "comfy.patcher_extension:WrappersMP.SAMPLER_SAMPLE",
        "comfy.patcher_extension:CallbacksMP.ON_DETACH",
        f"{_PATCHER}.clone",
        f"{_PATCHER}.add_wrapper_with_key",
        f"{_PATCHER}.remove_wrappers_with_key",
        f"{_PATCHER}.add_callback_with_key",
        f"{_PATCHER}.remove_callbacks_with_key",
    ),
    "engine": (
        f"{_UNET}:forward_timestep_embed",
        f"{_UNET}:apply_control",
        f"{_UNET}:ResBlock",
        f"{_UNET}:Upsample",
        f"{_UNET}:Downsample",
        f"{_ATTENTION}:GEGLU",
        f"{_ATTENTION}:optimized_attention",
        f"{_ATTENTION}:attention_pytorch",
        "comfy.ldm.modules.diffusionmodules.util:timestep_embedding",
        "comfy.patcher_extension:WrapperExecutor.new_class_executor",
        "comfy.patcher_extension:WrappersMP.CALC_COND_BATCH",
        "comfy.patcher_extension:WrappersMP.PREDICT_NOISE",
        f"{_PATCHER}.loaded_size",
        f"{_PATCHER}.get_free_memory",
        "comfy.model_base:BaseModel.memory_required",
        "comfy.samplers:sampling_function",
        "comfy.samplers:calc_cond_batch",
        "comfy.samplers:KSAMPLER",
        "comfy.model_management:is_oom",
        *_KEPT_MEMORY,
        *_WEIGHTS,
    ),
    "attention": (
        f"{_ATTENTION}:REGISTERED_ATTENTION_FUNCTIONS",
        f"{_ATTENTION}:optimized_attention",
        f"{_ATTENTION}:attention_pytorch",
        f"{_ATTENTION}:wrap_attn",  # asks the override that we set
    ),
    "precision": (f"{_PATCHER}.set_model_compute_dtype", f"{_PATCHER}.set_attachments"),
    "vae": (
        "comfy.ldm.models.autoencoder:AutoencoderKL",
        "comfy.model_management:load_models_gpu(memory_required)",
        "comfy.model_management:load_models_gpu(force_full_load)",
        "comfy.model_management:cuda_device_context",
        "comfy.model_management:is_oom",
        "comfy.sd:VAE.vae_output_dtype",
        "comfy.utils:tiled_scale(upscale_amount)",
        "comfy.utils:get_tiled_scale_steps",
        f"{_PATCHER}.get_free_memory",
    ),
    "vae decoder": (*_WEIGHTS, f"{_BLOCKS}:ResnetBlock", f"{_BLOCKS}:AttnBlock", f"{_BLOCKS}:Upsample"),
    "vae decoder between decodes": (
        *_KEPT_MEMORY,
        "comfy.model_management:free_memory(keep_loaded)",
        "comfy.model_management:free_memory(for_dynamic)",
        "comfy.model_management:minimum_inference_memory",
        "comfy.model_management:extra_reserved_memory",
        "comfy.patcher_extension:CallbacksMP.ON_DETACH",
        f"{_PATCHER}.add_callback_with_key",
        f"{_PATCHER}.remove_callbacks_with_key",
        f"{_PATCHER}.is_dynamic",
    ),
    "sprites": (
        "comfy.latent_formats:LatentFormat.latent_dimensions",
        "comfy.latent_formats:LatentFormat.spacial_downscale_ratio",
        "comfy.model_base:SDXL",
        "comfy.model_base:BaseModel.get_dtype_inference",
        "comfy.model_management:dtype_size",
        "comfy.model_management:extra_reserved_memory",
        "comfy.model_management:get_free_memory",
        "comfy.model_management:intermediate_device",
        "comfy.model_management:intermediate_dtype",
        "comfy.model_management:is_oom",
        "comfy.sample:fix_empty_latent_channels",
        "comfy.sample:prepare_noise",
        "comfy.sample:sample_custom",
        "comfy.samplers:KSAMPLER",
        "comfy.samplers:sampler_object",
    ),
    "noise of each step": (
        "comfy.k_diffusion.sampling:default_noise_sampler",
        "comfy.k_diffusion.sampling:BrownianTreeNoiseSampler",
    ),
    "preview": ("latent_preview:get_previewer",),
    "draw while saving": ("comfy_execution.graph_utils:ExecutionBlocker",),
    "held pages unreported": (
        "comfy.cli_args:args",
        *(f"comfy_aimdo.control:set_log_{level}" for level in ("error", "warning", "info")),
    ),
    "models held": ("comfy.model_management:current_loaded_models",),
    "DynamicVRAM": ("comfy.memory_management:aimdo_enabled", f"{_PATCHER}.is_dynamic"),
    "pinned memory": ("comfy.model_management:TOTAL_PINNED_MEMORY", "comfy.model_management:MAX_PINNED_MEMORY"),
    "nodes of a run": ("comfy_execution.progress:ProgressHandler", "comfy_execution.progress:add_progress_handler"),
}
"""Technique -> `module:name` or, for an argument, `module:name(argument)`. The modules of the standard nodes that every version has had
(`folder_paths`, `comfy.cli_args`, `comfy.utils.ProgressBar`, the cancel button) are not listed."""


def optional(name: str) -> Any:
    """Import a module of ComfyUI; where there is none of that name, return an empty one."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the module is there and lacks something itself
        return types.ModuleType(name)


def lacking(technique: str) -> str:
    """Return in words the first thing that this ComfyUI lacks for `technique`; empty when everything is there."""
    return next((f"this ComfyUI has no {_in_words(path)}" for path in NEEDS[technique] if not _is_there(path)), "")


def _is_there(path: str) -> bool:
    module, _, rest = path.partition(":")
    names, _, argument = rest.removesuffix(")").partition("(")
    found = optional(module)
    for name in names.split("."):
        if not hasattr(found, name):
            return False
        found = getattr(found, name)
    if not argument:
        return True
    parameters = inspect.signature(found).parameters.values()
    return any(parameter.name == argument or parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


def _in_words(path: str) -> str:
    name, _, argument = path.removesuffix(")").replace(":", ".").partition("(")
    return f"argument {argument} of {name}" if argument else name
