"""What the tests of OptimizeModel share: sampling as KSampler does, the node as ComfyUI calls it, what ran, LoRA and ControlNet."""

import contextlib
import sys
from typing import Any

import pytest
import torch

from ..lora_keys import LORA_KEYS

STEPS = 4
# fp32 on the CPU: 5e-6 to 7e-6 a step; the samplers feed a step's rounding into the next, 1e-5 to 1.5e-4 after four.
TOLERANCE = 2e-4


def package(pack_nodes: dict[str, Any], module: str) -> Any:
    """A module of the pack as ComfyUI's loader imported it, such as "engine.unet.forward"."""
    return sys.modules[f"{pack_nodes['OptimizeModel'].__module__.rsplit('.', 1)[0]}.{module}"]


def sample(
    comfyui: Any, model: Any, conds: Any, *, width: int = 128, height: int = 128, batch: int = 1, cfg: float = 5.0, **options: Any
) -> torch.Tensor:
    """Run the stock KSampler node's own function."""
    latent = {"samples": torch.zeros(batch, 4, height // 8, width // 8)}
    settings = {"seed": 7, "steps": STEPS, "cfg": cfg, "sampler_name": "euler_ancestral", "scheduler": "karras", **options}
    with torch.inference_mode():
        return comfyui.common_ksampler(model, positive=conds[0], negative=conds[1], latent=latent, **settings)[0]["samples"]


def optimize(pack_nodes: dict[str, Any], model: Any, **choices: str) -> tuple[Any, str]:
    """Run the OptimizeModel node as ComfyUI calls it."""
    from comfy_api.latest import io

    values = {
        "engine": "eager",
        "precision": "auto",
        "attention": "auto",
        "channels_last": "auto",
        "cudnn_autotune": "auto",
        "fp16_accumulation": "auto",
    }
    node = pack_nodes["OptimizeModel"].PREPARE_CLASS_CLONE({"hidden_inputs": {io.Hidden.unique_id: "3"}})
    output = node.execute(model, **{**values, **choices})
    return output.args


def with_graphs(pack_nodes: dict[str, Any], model: Any) -> Any:
    """Put the eager engine on a clone of `model`, with graphs, which a plan for a CPU would refuse."""
    plan = package(pack_nodes, "engine.model.plan").ModelPlan(engine="eager", cuda_graph=True, known_sigmas=True)
    return package(pack_nodes, "engine.model.apply_model_plan").apply_model_plan(model, plan, "3")


def relative_error(out: torch.Tensor, expected: torch.Tensor) -> float:
    return (torch.linalg.vector_norm(out - expected) / torch.linalg.vector_norm(expected)).item()


class Watch:
    """Counts the forwards that the engine ran itself."""

    def __init__(self, pack_nodes: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
        forward = package(pack_nodes, "engine.unet.forward").UNetForward
        self.count = 0
        original = forward.__call__

        def counted(*args: Any, **kwargs: Any) -> torch.Tensor:
            self.count += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(forward, "__call__", counted)


# What the engine copies: these stay at their addresses in the engine though ComfyUI on a CPU puts patched weights elsewhere.
COPIED_LORA_KEYS = ("in_layers.2.weight", "emb_layers.1.bias")


def with_lora(model: Any, strength: float, seed: int = 5, keys: tuple[str, ...] = LORA_KEYS) -> Any:
    """A clone with LoRA on attention, feed-forward, convolution and embedding weights."""
    generator = torch.Generator().manual_seed(seed)
    patches = {}
    for key, value in model.model.state_dict().items():
        if key.startswith("diffusion_model.") and key.endswith(keys):
            patches[key] = ("diff", (torch.randn(value.shape, generator=generator) * 0.5 * max(1, value[0].numel()) ** -0.5,))
    clone = model.clone()
    assert len(clone.add_patches(patches, strength)) == len(patches) > 20
    return clone


def check_equal(comfyui: Any, optimized: Any, stock: Any, conds: Any, **options: Any) -> None:
    expected = sample(comfyui, stock, conds, **options)
    assert relative_error(sample(comfyui, optimized, conds, **options), expected) < TOLERANCE


def with_control(conds: Any) -> Any:
    """Conds with residuals as a ControlNet gives them: one for each skip connection and one for the middle, one missing."""
    import node_helpers
    from comfy.controlnet import ControlBase

    class Control(ControlBase):
        def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
            generator = torch.Generator().manual_seed(9)
            shapes = [(32, 1), (32, 1), (32, 1), (32, 2), (64, 2), (64, 2), (64, 4), (128, 4), (128, 4)]
            n, _, h, w = x_noisy.shape
            maps = [torch.randn(n, c, h // f, w // f, generator=generator) for c, f in shapes]
            middle = [torch.randn(maps[-1].shape, generator=generator)]
            return {"input": [], "middle": middle, "output": [*maps[:2], None, *maps[3:]]}

    return tuple(node_helpers.conditioning_set_values(c, {"control": Control(), "control_apply_to_uncond": False}) for c in conds)


class AddressRange:
    """Stands in for comfy_aimdo's ModelVBAR, which needs a GPU."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def loaded_size(self) -> int:
        return 9

    def free_memory(self, size: int) -> None:
        self.calls.append(f"free {size}")

    def prioritize(self) -> None:
        self.calls.append("open again")


class StopError(Exception):
    pass


class StandInGraph:
    """A graph that remembers its body."""

    def __init__(self) -> None:
        self.body: Any = None

    def replay(self) -> None:
        self.body()


class Graphs:
    """Counts captures and replays of the engine that the pack loaded."""

    def __init__(self, pack_nodes: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
        self.captures = 0
        self.failures = 0
        self.waits = 0
        self.fail = False
        self.error: tuple[type[Exception], str] = RuntimeError, "operation not permitted when stream is capturing\nmore"
        monkeypatch.setattr(torch.cuda, "CUDAGraph", StandInGraph)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: self)
        monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
        engine_graphs = package(pack_nodes, "engine.unet.graphs")
        monkeypatch.setattr(engine_graphs, "capture_stream", lambda device: self)
        monkeypatch.setattr(engine_graphs.CapturedForward, "_capture", staticmethod(self.capture))

    def wait_stream(self, other: Any) -> None:
        self.waits += 1

    def capture(self, graph: StandInGraph, body: Any) -> None:
        if self.fail:
            self.failures += 1
            kind, text = self.error
            raise kind(text)
        self.captures += 1
        body()
        graph.body = body
