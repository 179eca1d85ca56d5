"""What the pack reads from and does to a VAE; a copy shares weights with the original and nothing else."""

import contextlib
import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch

from .internals import lacking, optional
from .model_patcher import dtype_name, on_detach
from .weights import WeightsSeen, evict_unheld

autoencoder_module = optional("comfy.ldm.models.autoencoder")
management = optional("comfy.model_management")
utils = optional("comfy.utils")

VAE_NAMES = (
    "first_stage_model", "patcher", "output_device", "vae_dtype", "latent_channels", "downscale_ratio", "disable_offload",
    "process_output",
)  # fmt: skip
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


def describe_vae(vae: Any) -> dict[str, Any]:
    """Return the fields of VaeFacts for a VAE, read off its structure."""
    model = getattr(vae, "first_stage_model", None)
    lacks = lacking("vae") or next((f"this ComfyUI's VAE has no {name}" for name in VAE_NAMES if not hasattr(vae, name)), "")
    if lacks:
        return {"vae_class": type(model).__name__, "lacks": lacks}
    return {
        "vae_class": type(model).__name__,
        "decoder_lacks": lacking("vae decoder"),
        "keeping_lacks": lacking("vae decoder between decodes"),
        "not_sdxl_because": _why_not_sdxl(vae, model),
        "dtype": dtype_name(vae.vae_dtype),
        "decoder_channels": getattr(getattr(model, "decoder", None), "ch", 128),
    }


def _why_not_sdxl(vae: Any, model: Any) -> str:
    if not isinstance(model, autoencoder_module.AutoencoderKL):
        return f"it is a {type(model).__name__}"
    if vae.latent_channels != 4 or vae.downscale_ratio != 8:
        return f"it has {vae.latent_channels} latent channels and scales by {vae.downscale_ratio}"
    return ""


def is_vae(value: Any) -> bool:
    """Tell a VAE from what else comes through a socket of any type, such as Memory Probe's."""
    return hasattr(value, "decode")


def is_empty(vae: Any) -> bool:
    """Tell whether ComfyUI found no VAE in the checkpoint: what it hands out then has neither a device nor a patcher."""
    return getattr(vae, "first_stage_model", vae) is None


def load_device(vae: Any) -> torch.device:
    """Return the device that the VAE computes on."""
    return vae.device


def output_device(vae: Any) -> torch.device:
    """Return the device that ComfyUI keeps pictures on."""
    return vae.output_device


def loaded_dtype(vae: Any) -> torch.dtype:
    """Return the dtype of the VAE's weights."""
    return vae.vae_dtype


def autoencoder(vae: Any) -> Any:
    """Return the AutoencoderKL module."""
    return vae.first_stage_model


def shallow_copy(vae: Any) -> Any:
    """Return a VAE with a ModelPatcher clone of its own over the same weights."""
    copied = copy.copy(vae)
    copied.patcher = vae.patcher.clone()
    return copied


def with_decode(vae: Any, decode: Callable[..., torch.Tensor]) -> Any:
    """Return a VAE with the same ModelPatcher that answers `decode` with `decode`.

    A VAE whose own `decode` refers to it would keep its memory until the next garbage collection.
    """
    copied = copy.copy(vae)
    copied.decode = decode
    return copied


def core_decode(vae: Any, samples: torch.Tensor, vae_options: dict[str, Any]) -> torch.Tensor:
    """Decode as ComfyUI does."""
    return vae.decode(samples, vae_options=vae_options)


def make_room(vae: Any, needed_bytes: int) -> int:
    """Load the VAE, evicting other models only as far as `needed_bytes` ask for, and return the free bytes."""
    management.load_models_gpu([vae.patcher], memory_required=needed_bytes, force_full_load=vae.disable_offload)
    return int(vae.patcher.get_free_memory(vae.device))


def make_room_beside(vae: Any, needed_bytes: int) -> int:
    """Evict other models as far as a decode of `needed_bytes` asks for, without loading the VAE, and return the free bytes."""
    if vae.device.type != "cpu":
        wanted_bytes = max(management.minimum_inference_memory(), needed_bytes + management.extra_reserved_memory())
        itself = [loaded for loaded in management.current_loaded_models if loaded.model is vae.patcher]
        management.free_memory(wanted_bytes, vae.device, keep_loaded=itself, for_dynamic=vae.patcher.is_dynamic())
    return int(vae.patcher.get_free_memory(vae.device))


def on_unload(vae: Any, unloaded: Callable[[], None]) -> None:
    """Call `unloaded` when ComfyUI takes this copy's weights off the device or loads another copy's."""
    on_detach(vae.patcher, lambda unpatch_all: unloaded())


def weights_seen(vae: Any, modules: Iterable[torch.nn.Module]) -> WeightsSeen:
    """Return what `modules` hold now, to be compared later."""
    return WeightsSeen(vae.patcher, vae.device, modules)


def give_back_weights(vae: Any) -> None:
    """Give back the device memory of the VAE's own weights, where ComfyUI loads them again by itself."""
    evict_unheld(vae.patcher, vae.device)


def on_device(vae: Any) -> contextlib.AbstractContextManager[Any]:
    """Return the context in which ComfyUI runs this VAE's kernels."""
    return management.cuda_device_context(vae.device)


def stock_decoder(vae: Any, vae_options: dict[str, Any]) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return ComfyUI's decoder as a function from latents to [N, H, W, 3]."""

    def decode(latents: torch.Tensor) -> torch.Tensor:
        return vae.first_stage_model.decode(latents, **vae_options).movedim(1, -1)

    return decode


def to_output(vae: Any, pictures: torch.Tensor) -> torch.Tensor:
    """Return decoded pictures in ComfyUI's picture dtype and range."""
    return vae.process_output(pictures.to(dtype=vae.vae_output_dtype(), copy=True))


def decode_tiled(
    vae: Any, samples: torch.Tensor, decode: Callable[[torch.Tensor], torch.Tensor], dtype: torch.dtype, tile: int, overlap: int
) -> torch.Tensor:
    """Decode in square tiles of `tile` latents, one pass, seams blended over `overlap` latents."""

    def decode_tile(latents: torch.Tensor) -> torch.Tensor:
        check_cancelled()
        return decode(latents.to(device=vae.device, dtype=dtype)).movedim(-1, 1).to(vae.vae_output_dtype())

    steps = samples.shape[0] * utils.get_tiled_scale_steps(samples.shape[3], samples.shape[2], tile, tile, overlap)
    pictures = utils.tiled_scale(
        samples,
        decode_tile,
        tile,
        tile,
        overlap,
        upscale_amount=8,
        output_device=vae.output_device,
        pbar=utils.ProgressBar(steps),
    )
    return vae.process_output(pictures.movedim(1, -1))


def check_cancelled() -> None:
    """Raise ComfyUI's InterruptProcessingException when the person has pressed cancel."""
    management.throw_exception_if_processing_interrupted()


def empty_cache() -> None:
    """Give cached memory back to the device."""
    management.soft_empty_cache()
