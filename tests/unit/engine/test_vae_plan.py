"""What OptimizeVAE would do on machines that people have, as values."""

from dataclasses import replace

import pytest
from fast_sprites.nodes.engine.vae.plan import (
    MIN_TILE,
    VaeFacts,
    VaeSettings,
    decode_bytes,
    pictures_per_pass,
    plan_vae,
    tile_size,
)

from ..machines import CPU, GTX_1080, H100

SDXL = VaeFacts(vae_class="AutoencoderKL")
GIB = 1024**3


@pytest.mark.parametrize(
    ("settings", "machine", "vae", "decoder", "precision"),
    [
        (VaeSettings(), H100, SDXL, "fast", "bf16"),
        (VaeSettings(channels_last="off"), H100, SDXL, "stock", "bf16"),
        (VaeSettings(), replace(H100, triton_missing="is not installed"), SDXL, "stock", "bf16"),
        (VaeSettings(channels_last="on"), replace(H100, triton_missing="is not installed"), SDXL, "eager", "bf16"),
        (VaeSettings(precision="fp32"), H100, SDXL, "eager", "fp32"),
        (VaeSettings(precision="fp16"), H100, SDXL, "fast", "fp16"),
        (VaeSettings(), CPU, replace(SDXL, dtype="fp32"), "stock", "fp32"),
        (VaeSettings(precision="bf16"), GTX_1080, replace(SDXL, dtype="fp32"), "stock", "fp32"),
        (VaeSettings(precision="fp16"), CPU, replace(SDXL, dtype="fp32"), "stock", "fp32"),
    ],
)
def test_decoder_and_precision(settings, machine, vae, decoder, precision):
    plan = plan_vae(settings, machine, vae)
    assert (plan.decoder, plan.precision) == (decoder, precision)


def test_auto_never_picks_fp16():
    for machine in (H100, GTX_1080, CPU):
        for dtype in ("bf16", "fp32"):
            assert plan_vae(VaeSettings(), machine, replace(SDXL, dtype=dtype)).precision == dtype


def test_another_vae_is_refused_with_the_reason():
    plan = plan_vae(VaeSettings(), H100, VaeFacts(vae_class="WanVAE", not_sdxl_because="it is a WanVAE"))
    assert [d.reason for d in plan.decisions] == ["WanVAE is not an SDXL VAE (it is a WanVAE); passed through untouched"]


def test_need_of_a_decode_is_less_than_a_third_of_what_comfyui_reserves():
    ours = decode_bytes(1024 * 1024, 2, 128)
    assert 1.2 * GIB < ours < 1.25 * GIB
    assert 3.4 < 2178 * 1024 * 1024 * 2 / ours < 3.5


@pytest.mark.parametrize(
    ("machine", "bytes_per_pixel", "reason"),
    [
        (H100, 630, "the measured need of a decode is reserved (ComfyUI reserves 3.5 times it)"),
        (
            replace(H100, triton_missing="is not installed"),
            1110,
            "the measured need of a decode is reserved (ComfyUI reserves 2.0 times it)",
        ),
        (replace(H100, device_type="rocm", capability=None), None, "as ComfyUI reserves it: not measured on rocm"),
        (replace(CPU, device_type="mps"), None, "as ComfyUI reserves it: not measured on mps"),
    ],
)
def test_memory_is_reserved_as_measured_or_as_comfyui_does(machine, bytes_per_pixel, reason):
    plan = plan_vae(VaeSettings(), machine, SDXL)
    assert plan.bytes_per_pixel == bytes_per_pixel
    assert next(d.reason for d in plan.decisions if d.technique == "memory").startswith(reason)


@pytest.mark.parametrize(
    ("chosen", "pixels", "free_gib", "expected"),
    [(0, 1024**2, 70, 1), (0, 256**2, 70, 1), (9, 256**2, 0.5, 6), (8, 1024**2, 70, 8), (8, 1024**2, 6, 4), (0, 1024**2, 1, 0)],
)
def test_pictures_per_pass(chosen, pixels, free_gib, expected):
    assert pictures_per_pass(chosen, decode_bytes(pixels, 2, 128), int(free_gib * GIB)) == expected


@pytest.mark.parametrize(("free_gib", "expected"), [(1.0, 96), (0.5, 72), (0.01, MIN_TILE)])
def test_tiles_fit_into_free_memory(free_gib, expected):
    picture = decode_bytes(1024 * 1024, 2, 128)
    tile = tile_size(128, 128, picture, int(free_gib * GIB))
    assert tile == expected
    assert tile == MIN_TILE or picture * tile**2 / 128**2 <= 0.8 * free_gib * GIB
