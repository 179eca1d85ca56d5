"""Tells from a safetensors header whether a checkpoint is SDXL."""

import json
import struct
from pathlib import Path

from dev_tools.errors import DevError

MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors format
UNET_IN = "model.diffusion_model.input_blocks.0.0.weight"
# The key projection of a cross-attention that every UNet of the family has; its second size is the width of the text it reads.
UNET_TEXT = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"
FAMILY_BY_TEXT_WIDTH = {2048: "SDXL", 1280: "the SDXL refiner", 768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x"}
# Where a model family shows itself by a key that SDXL does not have.
OTHER_FAMILIES = {
    "model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": "Stable Diffusion 3",
    "model.diffusion_model.double_blocks.0.img_attn.qkv.weight": "Flux",
    "double_blocks.0.img_attn.qkv.weight": "Flux without its text encoders and VAE",
    "down_blocks.0.resnets.0.conv1.weight": "a UNet alone in the diffusers layout",
    "decoder.conv_in.weight": "a VAE alone",
}
NEEDED_PARTS = {
    "conditioner.embedders.0.": "the CLIP-L text encoder",
    "conditioner.embedders.1.": "the CLIP-G text encoder",
    "first_stage_model.": "the VAE",
}


def read_header(path: Path) -> dict[str, list[int]]:
    """Tensor name -> shape; raises DevError if the file is missing or not in the safetensors format."""
    if not path.is_file():
        raise DevError(f"There is no checkpoint file {path}: give the path of an SDXL .safetensors file.")
    not_safetensors = DevError(
        f"{path} is not a safetensors file, or not a whole one: give an SDXL checkpoint in the single-file .safetensors format."
    )
    with path.open("rb") as file:
        prefix = file.read(8)
        size = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 2 <= size <= MAX_HEADER_BYTES:
            raise not_safetensors
        try:
            header = json.loads(file.read(size))
            header.pop("__metadata__", None)
            shapes = {name: entry["shape"] for name, entry in header.items()}
            end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        except (ValueError, TypeError, AttributeError, KeyError):
            raise not_safetensors from None
    if path.stat().st_size < 8 + size + end:
        raise not_safetensors
    return shapes


def family_of(shapes: dict[str, list[int]]) -> str:
    """The model family that the tensors belong to, `SDXL` if it is that, in words for a person otherwise."""
    if UNET_TEXT in shapes and UNET_IN in shapes:
        width = shapes[UNET_TEXT][-1]
        name = FAMILY_BY_TEXT_WIDTH.get(width, f"a UNet that reads text {width} wide")
        return "an inpainting or editing variant of SDXL" if name == "SDXL" and shapes[UNET_IN][1] != 4 else name
    if any(key.startswith(("lora_unet_", "lora_te")) or ".lora_" in key for key in shapes):
        return "a LoRA, which goes on top of a checkpoint"
    return next((name for key, name in OTHER_FAMILIES.items() if key in shapes), "no model that dev.py knows")


def require_sdxl(path: Path) -> None:
    """Raise DevError, naming what the file is instead, unless it is a whole SDXL checkpoint."""
    shapes = read_header(path)
    family = family_of(shapes)
    if family != "SDXL":
        raise DevError(f"{path} is {family}, not SDXL: give an SDXL base checkpoint or one trained from it.")
    missing = [part for prefix, part in NEEDED_PARTS.items() if not any(key.startswith(prefix) for key in shapes)]
    if missing:
        raise DevError(f"{path} is SDXL but lacks {' and '.join(missing)}: give a single-file checkpoint that holds all parts.")
