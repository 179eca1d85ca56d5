"""Telling SDXL from everything else by a safetensors header."""

import json
import struct
from pathlib import Path

import pytest
from dev_tools.checkpoint import NEEDED_PARTS, UNET_IN, UNET_TEXT, read_header, require_sdxl
from dev_tools.errors import DevError

TEXT_ENCODERS_AND_VAE = {prefix + "x.weight": [1] for prefix in NEEDED_PARTS}
SDXL = {UNET_IN: [320, 4, 3, 3], UNET_TEXT: [640, 2048], **TEXT_ENCODERS_AND_VAE}


def write(path: Path, shapes: dict[str, list[int]]) -> Path:
    """A file with a true header whose tensors hold nothing."""
    header = {name: {"dtype": "F16", "shape": shape, "data_offsets": [0, 0]} for name, shape in shapes.items()}
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(DevError) as refused:
        require_sdxl(path)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_sdxl_is_taken(tmp_path: Path):
    path = write(tmp_path / "sdxl.safetensors", SDXL)
    require_sdxl(path)
    assert read_header(path)[UNET_IN] == [320, 4, 3, 3]


@pytest.mark.parametrize(
    ("shapes", "says"),
    [
        ({**SDXL, UNET_TEXT: [640, 768]}, "is Stable Diffusion 1.x, not SDXL"),
        ({**SDXL, UNET_TEXT: [640, 1024]}, "is Stable Diffusion 2.x, not SDXL"),
        ({**SDXL, UNET_TEXT: [640, 1280]}, "is the SDXL refiner, not SDXL"),
        ({**SDXL, UNET_TEXT: [64, 48]}, "is a UNet that reads text 48 wide, not SDXL"),
        ({**SDXL, UNET_IN: [320, 9, 3, 3]}, "is an inpainting or editing variant of SDXL, not SDXL"),
        ({"lora_unet_input_blocks_4_1_proj_in.lora_down.weight": [8, 640]}, "is a LoRA"),
        ({"model.diffusion_model.double_blocks.0.img_attn.qkv.weight": [9216, 3072]}, "is Flux"),
        ({"decoder.conv_in.weight": [512, 4, 3, 3]}, "is a VAE alone"),
        ({"something.else": [1]}, "is no model that dev.py knows"),
        ({}, "is no model that dev.py knows"),
    ],
)
def test_others_are_named(tmp_path: Path, shapes: dict[str, list[int]], says: str):
    assert says in refusal(write(tmp_path / "model.safetensors", shapes))


def test_parts_that_are_missing_are_named(tmp_path: Path):
    shapes = {
        name: shape for name, shape in SDXL.items() if not name.startswith(("first_stage_model.", "conditioner.embedders.1."))
    }
    assert "lacks the CLIP-G text encoder and the VAE" in refusal(write(tmp_path / "unet.safetensors", shapes))


def test_a_missing_file(tmp_path: Path):
    assert "There is no checkpoint file" in refusal(tmp_path / "missing.safetensors")
    assert "There is no checkpoint file" in refusal(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        b"PK\x03\x04 a pickle in a zip file, as .ckpt files are, cut off",
        struct.pack("<Q", 20) + b"not json, that is so",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 12) + b'{"a": {"x":1',
        struct.pack("<Q", 9) + b'{"a": {}}',
    ],
)
def test_files_of_other_formats(tmp_path: Path, content: bytes):
    path = tmp_path / "model.ckpt"
    path.write_bytes(content)
    assert "is not a safetensors file" in refusal(path)


def test_a_file_that_was_cut_off(tmp_path: Path):
    header = json.dumps({"a": {"dtype": "F16", "shape": [100], "data_offsets": [0, 200]}}).encode()
    path = tmp_path / "half.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 100)
    assert "or not a whole one" in refusal(path)
