"""What the engine's tests share: sampling as KSampler does, the node as ComfyUI calls it, what ran, and what other packs do to a model."""

import contextlib
import gc
import importlib
import os
from typing import Any, NamedTuple

import comfy.memory_management
import comfy.model_management
import comfy.utils
import pytest
import torch
from fast_sprites.nodes.engine.memory import nvml
from fast_sprites.nodes.engine.model.apply_model_plan import apply_model_plan
from fast_sprites.nodes.engine.model.plan import ModelPlan
from fast_sprites.nodes.engine.unet import forward, graphs
from fast_sprites.nodes.optimize_model import OptimizeModel
from fast_sprites.tests.lora_keys import LORA_KEYS

comfy_nodes: Any = importlib.import_module("nodes")  # ComfyUI's nodes.py, not this pack's folder
ON_CPU = os.environ.get("FAST_SPRITES_GPU_TESTS_ON_CPU") == "1"
DEVICE: torch.device = comfy.model_management.get_torch_device()
STEPS = 4
# Whole pictures of several steps, each step's rounding going into the next and CFG 2 doubling it: the trained tiny model in fp16
# on the CPU came to 8e-3 (CFG 5: 4e-2), in fp32 to 2e-5. One forward is held to less: see test_engine_full_size.py and the engine itself.
TOLERANCE = 1e-4 if ON_CPU else 5e-2
# What a patch must change in a picture to be told from rounding.
VISIBLE = 0.1

comfy.utils.set_progress_bar_enabled(False)


class Checkpoint(NamedTuple):
    """What CheckpointLoaderSimple returns."""

    model: Any
    clip: Any
    vae: Any


def encode(clip: Any, positive: str = "red slime", negative: str = "") -> tuple[Any, Any]:
    """Encode both prompts as CLIPTextEncode does."""
    first, second = (clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in (positive, negative))
    return first, second


def random_conds() -> tuple[Any, Any]:
    """Conditioning of SDXL's width without running its text encoders."""
    generator = torch.Generator().manual_seed(1)
    first, second = (
        [[torch.randn(1, 77, 2048, generator=generator), {"pooled_output": torch.randn(1, 1280, generator=generator)}]]
        for _ in range(2)
    )
    return first, second


@torch.inference_mode()
def sample(
    model: Any,
    conds: Any,
    *,
    width: int = 128,
    height: int = 128,
    batch: int = 1,
    latent: dict[str, Any] | None = None,
    **options: Any,
) -> torch.Tensor:
    """Run the stock KSampler node's own function, and what execution.py does after a node."""
    latent = latent or {"samples": torch.zeros(batch, 4, height // 8, width // 8)}
    settings = {"seed": 7, "steps": STEPS, "cfg": 2.0, "sampler_name": "euler", "scheduler": "karras", **options}
    try:
        return comfy_nodes.common_ksampler(model, positive=conds[0], negative=conds[1], latent=latent, **settings)[0]["samples"]
    finally:
        if comfy.memory_management.aimdo_enabled:
            import comfy_aimdo.model_vbar

            comfy.model_management.reset_cast_buffers()
            comfy_aimdo.model_vbar.vbars_reset_watermark_limits()


def optimize(model: Any, **choices: str) -> tuple[Any, str]:
    """Run the OptimizeModel node as ComfyUI calls it and return model and report; on the CPU, the engine that can run there."""
    from comfy_api.latest import io

    if ON_CPU and not choices:
        return apply_model_plan(model, ModelPlan(engine="eager", cuda_graph=True, known_sigmas=True), "3"), ""
    defaults: dict[str, Any] = {
        i.id: getattr(i, "default", None) for i in OptimizeModel.define_schema().inputs if i.id != "model"
    }
    node: Any = OptimizeModel.PREPARE_CLASS_CLONE({"hidden_inputs": {io.Hidden.unique_id: "3"}})
    return node.execute(model, **{**defaults, **choices}).args


def relative_error(out: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the norm of the difference over the norm of `expected`."""
    return (torch.linalg.vector_norm((out - expected).float()) / torch.linalg.vector_norm(expected.float())).item()


class Watch:
    """Counts forwards of both kinds, captures and replays, and fails a forward on request.

    `fail(capturing)` is called in the middle of the engine's forward.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        from comfy.ldm.modules.diffusionmodules import openaimodel

        self.capturing = False
        self.fail: Any = None
        self.reset()
        self._count(monkeypatch, forward.UNetForward, "__call__", "engine")
        self._count(monkeypatch, graphs.CapturedForward, "__call__", "replays")
        self._count_stock(monkeypatch, openaimodel)
        capture, upsample = graphs.CapturedForward._capture, forward.UNetForward.upsample

        def watched_capture(graph: Any, body: Any) -> None:
            def watched_body() -> None:
                self.capturing = True
                try:
                    body()
                finally:
                    self.capturing = False

            capture(graph, watched_body)
            self.captures += 1

        def watched_upsample(*args: Any) -> Any:
            if self.fail is not None:
                self.fail(self.capturing)
            return upsample(*args)

        monkeypatch.setattr(graphs.CapturedForward, "_capture", staticmethod(watched_capture))
        monkeypatch.setattr(forward.UNetForward, "upsample", watched_upsample)

    def reset(self) -> None:
        """Start counting anew."""
        self.engine = self.replays = self.stock = self.captures = 0

    def _count_stock(self, monkeypatch: pytest.MonkeyPatch, openaimodel: Any) -> None:
        # Not by replacing _forward, which the engine would take for another pack's doing.
        original = openaimodel.timestep_embedding

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.stock += "repeat_only" in kwargs  # the size embedding's call has none
            return original(*args, **kwargs)

        monkeypatch.setattr(openaimodel, "timestep_embedding", counted)

    def _count(self, monkeypatch: pytest.MonkeyPatch, owner: Any, method: str, name: str) -> None:
        original = getattr(owner, method)

        def counted(*args: Any, **kwargs: Any) -> Any:
            setattr(self, name, getattr(self, name) + 1)
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, method, counted)


def check(watch: Watch, ours: Any, stock: Any, conds: Any, *, shapes: int = 1, **options: Any) -> None:
    """Compare pictures, and see that ComfyUI's forward ran only to be compared and that graphs drew the rest; `shapes` entered."""
    expected = sample(stock, conds, **options)
    watch.reset()
    got = sample(ours, conds, **options)
    error = relative_error(got, expected)
    print(f"relative error {error:.1e}")
    assert error < TOLERANCE, f"relative error {error:.1e}"
    assert watch.stock == shapes, f"ComfyUI's own forward ran {watch.stock} times"
    assert watch.captures == 2 * shapes  # keys and values, and the rest
    assert watch.replays >= STEPS - shapes


def check_patched(watch: Watch, ours: Any, stock: Any, conds: Any, **options: Any) -> None:
    """Compare pictures of a model that carries a patch which has to be called at every step: engine, but no graph."""
    expected = sample(stock, conds, **options)
    watch.reset()
    error = relative_error(sample(ours, conds, **options), expected)
    assert error < TOLERANCE, f"relative error {error:.1e}"
    assert (watch.engine, watch.captures, watch.stock) == (STEPS, 0, 0)


def with_lora(model: Any, strength: float, seed: int = 5, keys: tuple[str, ...] = LORA_KEYS, rank: int = 4) -> Any:
    """Return a clone with a LoRA on attention, feed-forward, convolution and embedding weights, and a difference on biases."""
    from comfy.weight_adapter.lora import LoRAAdapter

    generator = torch.Generator().manual_seed(seed)
    patches: dict[str, Any] = {}
    for key, value in model.model.state_dict().items():
        if not key.startswith("diffusion_model.") or not key.endswith(keys):
            continue
        scale = 0.5 * max(1, value[0].numel()) ** -0.5
        if value.ndim == 1:
            patches[key] = ("diff", (torch.randn(value.shape, generator=generator) * scale,))
        else:
            up = torch.randn(value.shape[0], rank, generator=generator) * scale
            down = torch.randn(rank, value[0].numel(), generator=generator) * rank**-0.5
            patches[key] = LoRAAdapter({key}, (up, down, None, None, None, None))
    clone = model.clone()
    assert len(clone.add_patches(patches, strength)) == len(patches) > 5
    return clone


def with_control(conds: Any, scale: float = 1.0, channels: int = 32) -> Any:
    """Return conds with residuals as a ControlNet gives them: one for each skip connection, one for the middle, one missing."""
    import node_helpers
    from comfy.controlnet import ControlBase

    class Control(ControlBase):
        def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
            generator = torch.Generator().manual_seed(9)
            shapes = [(1, 1), (1, 1), (1, 1), (1, 2), (2, 2), (2, 2), (2, 4), (4, 4), (4, 4)]
            n, _, h, w = x_noisy.shape
            dtype = torch.float32 if ON_CPU else torch.float16
            maps = [
                (torch.randn(n, channels * c, -(-h // f), -(-w // f), generator=generator) * scale).to(x_noisy.device, dtype)
                for c, f in shapes
            ]
            middle = [torch.randn(maps[-1].shape, generator=generator).to(maps[-1]) * scale]
            return {"input": [], "middle": middle, "output": [*maps[:2], None, *maps[3:]]}

    return tuple(node_helpers.conditioning_set_values(c, {"control": Control()}) for c in conds)


class StopError(Exception):
    """An error of another node."""


def device_memory() -> tuple[int, int]:
    """Return the bytes that the driver counts as used, but by other processes, and that torch has reserved, once nothing is loaded."""
    comfy.model_management.unload_all_models()
    gc.collect()
    comfy.model_management.soft_empty_cache()
    torch.cuda.synchronize()
    free, total = torch.cuda.mem_get_info()
    seen = nvml.read_device(str(torch.cuda.get_device_properties(DEVICE).uuid), processes=True)
    others = (isinstance(seen, nvml.NvmlMemory) and seen.other_processes_bytes) or 0
    return total - free - others, torch.cuda.memory_reserved()


class _StandInGraph:
    """A graph that remembers its body."""

    def replay(self) -> None:
        """Run the body again."""
        self.body()

    body: Any = None


class _StandInStream:
    """Work on the CPU needs no streams."""

    def __init__(self, *_: Any): ...

    def wait_stream(self, other: Any) -> None: ...


def use_stand_in_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the engine's graphs run on the CPU."""

    def capture(graph: Any, body: Any) -> None:
        body()
        graph.body = body

    monkeypatch.setattr(torch.cuda, "CUDAGraph", _StandInGraph)
    monkeypatch.setattr(graphs, "capture_stream", _StandInStream)
    monkeypatch.setattr(torch.cuda, "current_stream", _StandInStream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(graphs.CapturedForward, "_capture", staticmethod(capture))
