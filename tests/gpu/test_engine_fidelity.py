"""Final pictures of the tiny model against stock's, same seeds: 64 a sampler on a GPU, 4 on the CPU."""

from typing import Any

import pytest
import torch

from .conftest import NODES, WHY_NOT

if NODES is None:
    pytest.skip(WHY_NOT, allow_module_level=True)

from fast_sprites.nodes.benchmark.bench.fidelity import psnr
from fast_sprites.nodes.engine.unet import fp8

from .engine_checks import DEVICE, ON_CPU, encode, optimize, sample

SAMPLERS = ("euler_ancestral", "euler", "dpmpp_2m", "dpmpp_2m_sde")
SUBJECTS = ("red slime", "golden key", "blue potion", "green cactus")
BATCH = 1 if ON_CPU else 16


@torch.inference_mode()
def pictures(model: Any, tiny: Any, sampler: str) -> Any:
    """Draw BATCH sprites of every subject and return them in steps of a byte, [N, H, W, 3] in 0..255."""
    drawn: list[torch.Tensor] = []
    for seed, subject in enumerate(SUBJECTS):
        options: dict[str, Any] = {"seed": seed, "steps": 20, "cfg": 4.0, "scheduler": "karras", "sampler_name": sampler}
        latents = sample(model, encode(tiny.clip, f"pixel art, {subject}"), batch=BATCH, **options)
        drawn.append(tiny.vae.decode(latents))
    return (torch.cat(drawn) * 255).round().cpu().numpy()


@pytest.fixture(scope="module")
def stock_pictures(tiny):
    return {sampler: pictures(tiny.model, tiny, sampler) for sampler in SAMPLERS}


def check_likeness(got: Any, expected: Any, wanted_db: float) -> None:
    """See that all pictures together are within `wanted_db` of stock's; print the worst one too."""
    whole = psnr(got, expected)
    worst = min(psnr(a, b) for a, b in zip(got, expected, strict=True))
    print(f"PSNR of {len(got)} pictures {whole:.1f} dB, worst {worst:.1f} dB")
    assert whole >= wanted_db


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_lossless_pictures(tiny, stock_pictures, sampler):
    check_likeness(pictures(optimize(tiny.model)[0], tiny, sampler), stock_pictures[sampler], 40)


@pytest.mark.skipif(ON_CPU or torch.cuda.get_device_capability(DEVICE) < (8, 9), reason="FP8 needs compute capability 8.9")
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_fp8_pictures(tiny, stock_pictures, sampler, monkeypatch):
    monkeypatch.setattr(fp8, "MIN_IN_FEATURES", 128)  # none of the tiny model's linears is as wide as FP8 pays for
    ours, report = optimize(tiny.model, precision="fp8")
    assert "applied: precision: fp8" in report
    got = pictures(ours, tiny, sampler)
    assert (got != stock_pictures[sampler]).any()
    check_likeness(got, stock_pictures[sampler], 30)
