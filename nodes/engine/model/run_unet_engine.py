"""Runs the engine's forward inside ComfyUI's sampling, and ComfyUI's own wherever the engine cannot stand in for it."""

import contextlib
import logging
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import torch
from torch import Tensor

from ...comfy_adapters import model_patcher, unet
from ...comfy_adapters.weights import HeldWeights, NotResidentError
from ..kernels.ops import engine_ops
from ..unet.forward import BLOCK_PATCHES, StockPieces, UNetForward
from ..unet.graphs import GraphCache, shape_key
from ..unet.layout import UNetLayout
from ..unet.prepared import PreparedWeights
from .plan import ModelPlan

log = logging.getLogger("fast_sprites")

STOCK = StockPieces(unet.stock_layer, unet.stock_attention, unet.time_features, unet.apply_control)
# Largest relative difference between the two forwards at which the engine trusts itself. Two cuDNN algorithms differ by 1e-3 in fp16.
TOLERANCE = {torch.float16: 1e-2, torch.bfloat16: 4e-2, torch.float32: 1e-3}
VIDEO_ARGUMENTS = ("num_video_frames", "image_only_indicator", "time_context")
# Every patch by which another node's Python runs inside the forward; a graph would replay its first answer for ever.
CALLED_PATCHES = (
    *BLOCK_PATCHES, "input_block_patch", "input_block_patch_after_skip", "middle_block_after_patch", "output_block_patch", "emb_patch",
    "forward_timestep_embed_patch",
)  # fmt: skip


class _Run:
    """State of one sampling run; dropped at its end."""

    def __init__(self, stock_because: str, constant_conditioning: bool):
        self.stock_because = stock_because
        self.constant_conditioning = constant_conditioning
        self.held: HeldWeights | None = None
        self.notes: dict[str, None] = {}


class UNetEngine:
    """The engine of one optimised MODEL: prepared weights and graphs between runs, held weights during one.

    Everything it keeps is dropped when ComfyUI detaches the model, and goes with the MODEL clone that owns it.
    """

    def __init__(self, plan: ModelPlan, notify: Callable[[str], None]):
        self._plan = plan
        self._notify = notify
        self._ops = engine_ops(plan.engine)
        self._run: _Run | None = None
        self._verified: set[Hashable] = set()
        self._refused = ""
        self.release()

    def release(self) -> None:
        """Drop prepared weights and graphs."""
        self._unet: Any = None
        self._forward: UNetForward | None = None
        self._graphs: GraphCache | None = None

    @contextlib.contextmanager
    def run(self, guider: Any) -> Iterator[None]:
        """Open a sampling run; its weights are let go again whatever happens in it."""
        outer = self._run
        why = self._refused or model_patcher.why_weights_change(guider)
        self._run = _Run(why, model_patcher.conditioning_is_constant(guider))
        if why:
            self._run.notes[f"ComfyUI's own forward ran: {why}"] = None
        try:
            yield
        finally:
            run, self._run = self._run, outer
            if run.held is not None:
                run.held.release()
            if run.notes:
                text = "; ".join(run.notes)
                log.info("engine: %s", text)
                self._notify(text)

    def forward(
        self,
        stock: Callable[..., Tensor],
        model: Any,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | None = None,
        y: Tensor | None = None,
        control: Any = None,
        transformer_options: dict[str, Any] | None = None,
        **rest: Any,
    ) -> Tensor:
        """Stand in for UNetModel._forward; `stock` is that method."""
        options: dict[str, Any] = {} if transformer_options is None else transformer_options
        run = self._run
        if run is None or run.stock_because or context is None or any(rest.get(name) is not None for name in VIDEO_ARGUMENTS):
            return stock(x, timesteps, context, y, control, options, **rest)
        key = shape_key(x, context, y, control)
        expected = None
        if key not in self._verified and not control and _calls_python(options) == "":
            expected = stock(x, timesteps, context, y, control, options, **rest)
        try:
            out = self._fast(run, model, key, x, timesteps, context, y, control, options, is_first=expected is not None)
        except NotResidentError as reason:
            return self._fall_back(run, f"{reason}", stock, x, timesteps, context, y, control, options, rest, expected)
        except torch.OutOfMemoryError:
            self.release()
            return self._fall_back(
                run, "no memory left for the engine", stock, x, timesteps, context, y, control, options, rest, expected
            )
        if expected is None:
            return out
        return self._verify(run, key, expected, out)

    def _fall_back(self, run: _Run, why: str, stock: Callable[..., Tensor], *arguments: Any) -> Tensor:
        *inputs, rest, expected = arguments
        run.stock_because = why
        run.notes[f"ComfyUI's own forward ran: {why}"] = None
        if run.held is not None:
            run.held.release()
            run.held = None
        return stock(*inputs, **rest) if expected is None else expected

    def _verify(self, run: _Run, key: Hashable, expected: Tensor, out: Tensor) -> Tensor:
        difference = (torch.linalg.vector_norm((out - expected).float()) / torch.linalg.vector_norm(expected.float())).item()
        if difference <= TOLERANCE[out.dtype]:
            self._verified.add(key)
            return out
        self._refused = (
            f"the engine's first step differed from ComfyUI's by {difference:.1e} (allowed {TOLERANCE[out.dtype]:.0e})"
        )
        run.stock_because = self._refused
        run.notes[f"ComfyUI's own forward ran: {self._refused}"] = None
        self.release()
        return expected

    def _fast(
        self, run: _Run, model: Any, key: Hashable, x: Tensor, timesteps: Tensor, context: Tensor, y: Tensor | None, control: Any,
        options: dict[str, Any], *, is_first: bool,
    ) -> Tensor:  # fmt: skip
        forward = self._prepare(run, model, x)
        calls = _calls_python(options)
        if calls:
            run.notes[f"no CUDA graph: {calls} of another node is called at every step"] = None
        if not self._plan.cuda_graph or calls or is_first or self._graphs is None:
            return forward(x, timesteps, context, y, control, options)
        captured = self._graphs.get(key)
        if captured is None:
            if key not in self._verified:  # with control the check is left out, the warm-up is not
                forward(
                    x, timesteps, context, y, None if control is None else {k: list(v) for k, v in control.items()}, dict(options)
                )
            captured = self._graphs.capture(key, forward, x, timesteps, context, y, control)
        context_key = None
        if run.constant_conditioning and "uuids" in options:
            context_key = (*options["uuids"], *options["cond_or_uncond"])
        return captured(x, timesteps, context, y, control, context_key)

    def _prepare(self, run: _Run, model: Any, x: Tensor) -> UNetForward:
        if self._unet is not model:
            self.release()
            self._unet = model
        if run.held is None:
            layout = self._forward.layout if self._forward is not None else UNetLayout(**unet.describe_unet(model))
            run.held = HeldWeights(layout.weighted_modules(), x.device, x.dtype)
            if self._forward is None or not self._forward.prepared.update(run.held.weights):
                self._forward = self._graphs = None
                prepared = PreparedWeights(layout, run.held.weights)
                self._forward = UNetForward(
                    layout, self._ops, prepared, STOCK, model_patcher.attention_function(self._plan.attention)
                )
                self._graphs = GraphCache() if self._plan.cuda_graph else None
        assert self._forward is not None
        return self._forward


def _calls_python(options: dict[str, Any]) -> str:
    patches = options.get("patches", {})
    for name in CALLED_PATCHES:
        if patches.get(name):
            return name
    for name, replaced in options.get("patches_replace", {}).items():
        if replaced:
            return f"{name} replace patch"
    return "optimized_attention_override" if "optimized_attention_override" in options else ""
