"""OptimizeModel against the stock model: the same pictures, and nothing left behind."""

from typing import Any

import pytest
import torch

STEPS = 4


@pytest.fixture(scope="module")
def conds(tiny_sdxl: Any) -> tuple[Any, Any]:
    clip = tiny_sdxl.clip
    return tuple(clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("red slime", ""))


def sample(comfyui: Any, model: Any, conds: Any, *, width: int = 128, height: int = 128, batch: int = 1, cfg: float = 5.0, **options: Any) -> torch.Tensor:
    """Run the stock KSampler node's own function."""
    latent = {"samples": torch.zeros(batch, 4, height // 8, width // 8)}
    settings = {"seed": 7, "steps": STEPS, "cfg": cfg, "sampler_name": "euler_ancestral", "scheduler": "karras", **options}
    with torch.inference_mode():
        return comfyui.common_ksampler(model, positive=conds[0], negative=conds[1], latent=latent, **settings)[0]["samples"]


def optimize(pack_nodes: dict[str, Any], model: Any, **choices: str) -> tuple[Any, str]:
    """Run the OptimizeModel node as ComfyUI calls it."""
    from comfy_api.latest import io

    values = {"engine": "eager", "precision": "auto", "attention": "auto", "channels_last": "auto", "cudnn_autotune": "auto", "fp16_accumulation": "auto"}
    node = pack_nodes["OptimizeModel"].PREPARE_CLASS_CLONE({"hidden_inputs": {io.Hidden.unique_id: "3"}})
    output = node.execute(model, **{**values, **choices})
    return output.args


def relative_error(out: torch.Tensor, expected: torch.Tensor) -> float:
    return (torch.linalg.vector_norm(out - expected) / torch.linalg.vector_norm(expected)).item()


# fp32 on the CPU; the samplers feed a step's rounding into the next.
TOLERANCE = 1e-3


@pytest.mark.parametrize(("width", "height", "batch", "cfg"), [(128, 128, 1, 5.0), (104, 152, 2, 5.0), (128, 64, 3, 1.0), (88, 120, 1, 5.0)])
def test_eager_engine_gives_stock_pictures(comfyui, pack_nodes, tiny_sdxl, conds, width, height, batch, cfg):
    optimized, report = optimize(pack_nodes, tiny_sdxl.model)
    assert "applied: engine: eager" in report
    expected = sample(comfyui, tiny_sdxl.model, conds, width=width, height=height, batch=batch, cfg=cfg)
    got = sample(comfyui, optimized, conds, width=width, height=height, batch=batch, cfg=cfg)
    assert relative_error(got, expected) < TOLERANCE
