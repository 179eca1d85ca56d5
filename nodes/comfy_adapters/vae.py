"""What the pack reads from and does to a VAE; a copy shares weights with the original and nothing else."""

import copy
from typing import Any

import torch
from comfy.ldm.models.autoencoder import AutoencoderKL

from .model_patcher import dtype_name

_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


def describe_vae(vae: Any) -> dict[str, Any]:
    """Return the fields of VaeFacts for a VAE, read off its structure."""
    model = vae.first_stage_model
    return {
        "vae_class": type(model).__name__,
        "not_sdxl_because": _why_not_sdxl(vae, model),
        "dtype": dtype_name(vae.vae_dtype),
        "decoder_channels": getattr(getattr(model, "decoder", None), "ch", 128),
    }


def _why_not_sdxl(vae: Any, model: Any) -> str:
    if not isinstance(model, AutoencoderKL):
        return f"it is a {type(model).__name__}"
    if vae.latent_channels != 4 or vae.downscale_ratio != 8:
        return f"it has {vae.latent_channels} latent channels and scales by {vae.downscale_ratio}"
    return ""


def load_device(vae: Any) -> torch.device:
    """Return the device that the VAE computes on."""
    return vae.device


def shallow_copy(vae: Any) -> Any:
    """Return a VAE with a ModelPatcher clone of its own over the same weights."""
    copied = copy.copy(vae)
    copied.patcher = vae.patcher.clone()
    return copied
