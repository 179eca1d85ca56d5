"""Runs the engine's forward inside ComfyUI's sampling, and ComfyUI's own wherever the engine cannot stand in for it."""

import contextlib
import logging
import math
import weakref
from collections.abc import Callable, Generator, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...comfy_adapters import model_patcher, unet
from ...comfy_adapters.kept_memory import KeptMemory
from ...comfy_adapters.memory import is_loaded
from ...comfy_adapters.progress import check_cancelled
from ...comfy_adapters.sampling import is_out_of_memory, release_cached_memory
from ...comfy_adapters.weights import (
    HeldWeights,
    NotResidentError,
    evict_unheld,
    held_pages_unreported,
    loads_on_demand,
    replaced_weights,
    require_plain_modules,
    require_room,
)
from ..kernels.arena import Lifetimes
from ..kernels.ops import compile_failure, engine_ops
from ..unet.forward import BLOCK_PATCHES, StockPieces, UNetForward
from ..unet.fp8 import fp8_linears
from ..unet.graphs import MAX_GRAPHS, CapturedForward, CaptureError, GraphCache, WaitWatch, own_control, shape_key
from ..unet.layout import UNetLayout
from ..unet.own_weights import OwnWeights
from ..unet.prepared import PreparedWeights
from .plan import ModelPlan

log = logging.getLogger("fast_sprites")

STOCK = StockPieces(unet.stock_layer, unet.stock_attention, unet.time_features, unet.apply_control)
# Largest relative difference between the two forwards at which the engine trusts itself. Two cuDNN algorithms differ by 1e-3 in fp16.
TOLERANCE = {torch.float16: 1e-2, torch.bfloat16: 4e-2, torch.float32: 1e-3}
FP8_TOLERANCE = 8e-2  # 4e-2 to 5e-2 were measured with random weights
# Weights that the engine copies pile up beside their originals by this much before those are given back.
EVICT_EVERY_BYTES = 256 * 1024**2
VIDEO_ARGUMENTS = ("num_video_frames", "image_only_indicator", "time_context")
# Every patch by which another node's Python runs inside the forward; a graph would replay its first answer for ever.
CALLED_PATCHES = (
    *BLOCK_PATCHES, "input_block_patch", "input_block_patch_after_skip", "middle_block_after_patch", "output_block_patch", "emb_patch",
    "forward_timestep_embed_patch",
)  # fmt: skip


@dataclass(frozen=True)
class _Inputs:
    """What ComfyUI has called the UNet's forward with."""

    x: Tensor
    timesteps: Tensor
    context: Tensor
    y: Tensor | None
    control: Any
    options: dict[str, Any]

    def through(self, forward: Callable[..., Tensor], *, copied: bool = False) -> Tensor:
        """Return what `forward` makes of them; with `copied` its marks in the options are not left for whoever reads them next."""
        options = dict(self.options) if copied else self.options
        return forward(self.x, self.timesteps, self.context, self.y, own_control(self.control), options)


class _Run:
    """State of one sampling run; dropped at its end."""

    def __init__(self, guider: Any):
        self.guider = guider
        self.patcher = guider.model_patcher
        self.stock_because = ""
        self.held: HeldWeights | None = None
        self.graph_keys: set[Hashable] = set()  # shapes that run by a graph
        self.notes: dict[str, None] = {}

    def step_back(self, why: str) -> None:
        """Leave the rest of the run to ComfyUI's own forward."""
        self.stock_because = why
        self.notes[f"ComfyUI's own forward ran: {why}"] = None
        self.release()

    def release(self) -> None:
        """Let the run's weights go."""
        if self.held is not None:
            self.held.release()
            self.held = None


class _Known:
    """What was found out about the shapes of one UNet; unlike weights and graphs it outlives an unload."""

    def __init__(self, unet: Any, attention: Any):
        self.unet = weakref.ref(unet)
        self.attention = attention  # ComfyUI's, which some packs replace between two runs
        self.verified: set[Hashable] = set()
        self.no_graph: dict[Hashable, str] = {}  # why a shape runs without one
        self.lifetimes: dict[Hashable, Lifetimes] = {}  # of the tensors in a graph


class UNetEngine:
    """The engine of one optimised MODEL: prepared weights and graphs between runs, held weights during one.

    All memory it keeps is dropped when ComfyUI unloads the model and goes with the MODEL that owns it; without DynamicVRAM also when
    ComfyUI loads a clone that has not this engine. Between runs it stands in ComfyUI's list of loaded models, and is dropped when another
    model, or such a clone, needs the room; of the model's own weights nothing is held then.
    """

    def __init__(self, plan: ModelPlan, notify: Callable[[str], None]):
        self._plan = plan
        self._notify = notify
        self._ops = engine_ops(plan.engine)
        self._run: _Run | None = None
        self._known: _Known | None = None
        self._cannot_compile = ""
        self._kept = KeptMemory("OptimizeModel", self.release)
        self._is_paged = False
        self.release()

    def release(self) -> None:
        """Drop prepared weights and graphs."""
        self._unet: Any = None
        self._own = OwnWeights()
        self._own_version: Hashable = None
        self._forget_forward()
        self._kept.empty()

    def _forget_forward(self) -> None:
        self._forward: UNetForward | None = None
        self._graphs: GraphCache | None = None

    def detached(self, unpatch_all: bool) -> None:
        """React to ComfyUI detaching a clone of the MODEL.

        It does so to unload it, to load another clone in its place or, at the start of every run, the same, and when a clone dies.
        """
        if self._run is None:
            # DynamicVRAM leaves a weight where it lies in the device's address space, so the graphs suit the next run too.
            stays = is_loaded(self._unet) or (self._is_paged and self._kept.is_offered)
        else:  # DynamicVRAM writes another LoRA where the weights lie
            patcher = self._run.patcher
            stays = loads_on_demand(patcher, model_patcher.load_device(patcher)) or not model_patcher.patches_anew(patcher)
        if unpatch_all or not stays:
            self.release()

    @contextlib.contextmanager
    def run(self, guider: Any) -> Generator[None]:
        """Open a sampling run; its weights are let go again whatever happens in it."""
        outer, self._run = self._run, _Run(guider)
        run = self._run
        if self._graphs is not None:
            self._graphs.arena.wake()
        if why := model_patcher.why_not_ours(guider) or self._cannot_compile:
            run.step_back(why)
        else:  # before ComfyUI loads the model for the run: what is kept of it is no other's that could make way
            self._kept.withdraw()
        try:
            with held_pages_unreported():
                yield
        finally:
            self._run = outer
            run.release()
            if outer is None:
                self._rest(run.patcher)
            if run.notes:
                text = "; ".join(run.notes)
                log.info("engine: %s", text)
                self._notify(text)

    def _rest(self, patcher: Any) -> None:
        """Leave the model's weights to ComfyUI until the next run, and offer it what is kept beside them."""
        kept_bytes = self._own.kept_bytes
        if self._forward is not None:
            self._forward.prepared.let_go()
            kept_bytes = self._forward.prepared.nbytes
        if self._graphs is not None:
            kept_bytes += self._graphs.nbytes
            self._graphs.arena.rest()
        self._kept.offer(patcher, kept_bytes)
        self._is_paged = loads_on_demand(patcher, model_patcher.load_device(patcher))

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
        if run is not None and not run.stock_because and (why := unet.replaced_forward(stock)):
            run.step_back(why)
        if run is None or run.stock_because or context is None or any(rest.get(name) is not None for name in VIDEO_ARGUMENTS):
            return stock(x, timesteps, context, y, control, options, **rest)
        if torch.is_grad_enabled() and x.requires_grad:
            run.notes["ComfyUI's own forward ran where another node asked for gradients"] = None
            return stock(x, timesteps, context, y, control, options, **rest)
        if not unet.is_of(model, run.patcher):
            run.notes["ComfyUI's own forward ran for a second model in the same run"] = None
            return stock(x, timesteps, context, y, control, options, **rest)
        inputs = _Inputs(x, timesteps, context, y, control, options)
        out: Tensor | None = None
        try:
            out = self._checked(run, stock, model, inputs)
        except NotResidentError as error:
            run.step_back(str(error))
        except self._ops.compile_errors as error:
            log.warning("engine: %s", error)  # all of it: what the assembler says is below the first line
            self._cannot_compile = compile_failure(error)
            run.step_back(self._cannot_compile)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            run.step_back("no memory left for the engine")
        if run.stock_because:
            # Only here are the failed attempt's tensors gone: the exception held its frames.
            self.release()
            release_cached_memory()
        return stock(x, timesteps, context, y, control, options, **rest) if out is None else out

    def _checked(self, run: _Run, stock: Callable[..., Tensor], model: Any, inputs: _Inputs) -> Tensor:
        """Return the engine's output; on a shape's first step compare with ComfyUI's, and return that if they disagree."""
        known = self._known_shapes(model)
        key = shape_key(inputs.x, inputs.context, inputs.y, inputs.control)
        calls = _calls_python(inputs.options)
        if not calls and key not in known.verified:
            return self._compared(run, known, key, stock, model, inputs)
        forward = self._prepare(run, model, inputs.x)
        if calls:  # never compared: a patch that counts its calls must be called once
            run.notes[f"no CUDA graph: {calls} of another node is called at every step"] = None
            return inputs.through(forward)
        if not self._plan.cuda_graph:
            return inputs.through(forward)
        return self._replay(run, known, key, forward, inputs)

    def _compared(
        self, run: _Run, known: _Known, key: Hashable, stock: Callable[..., Tensor], model: Any, inputs: _Inputs
    ) -> Tensor:
        # ComfyUI's goes first: what it loads is given back before the engine adds memory of its own.
        expected = inputs.through(stock, copied=True)
        try:
            forward = self._prepare(run, model, inputs.x)
        except NotResidentError as error:
            run.step_back(str(error))
            return expected
        evict_unheld(run.patcher, inputs.x.device)
        with WaitWatch() as watch:
            out = inputs.through(forward, copied=True)
        if watch.found and self._plan.cuda_graph:
            known.no_graph[key] = f"{watch.found} waits for the device"
        difference = (torch.linalg.vector_norm((out - expected).float()) / torch.linalg.vector_norm(expected.float())).item()
        tolerance = FP8_TOLERANCE if self._plan.fp8 else TOLERANCE[out.dtype]
        if difference <= tolerance:
            known.verified.add(key)
            if self._plan.fp8:
                run.notes[f"FP8: the first step differs from ComfyUI's by {difference:.1e}"] = None
            return out
        if not math.isfinite(difference):
            run.step_back("the first step holds NaN or infinite values, which cannot be compared")
            return expected
        allowed = f"allowed {tolerance:.0e}"
        run.step_back(f"the engine's first step differed from ComfyUI's by {difference:.1e} ({allowed})")
        return expected

    def _known_shapes(self, model: Any) -> _Known:
        """Return what is known about `model` with the attention of this moment."""
        attention = model_patcher.core_attention_function()
        if self._known is None or self._known.unet() is not model or self._known.attention is not attention:
            self.release()  # the weights too, so that room for them is not asked for twice
            self._known = _Known(model, attention)
        return self._known

    def _replay(self, run: _Run, known: _Known, key: Hashable, forward: UNetForward, inputs: _Inputs) -> Tensor:
        """Return the output of the shape's graph, captured at its first use; without a graph where none can be had."""
        captured, why = None, known.no_graph.get(key, "")
        if len(run.graph_keys) == MAX_GRAPHS and key not in run.graph_keys:
            why = f"more than {MAX_GRAPHS} shapes in one run"  # in turn they would be captured at every step
        if not why:
            self._graphs = self._graphs or GraphCache(inputs.x.device, is_out_of_memory)
            try:
                captured = self._graphs.get(key) or self._capture(self._graphs, known, key, forward, inputs)
                run.graph_keys.add(key)
            except CaptureError as error:
                known.no_graph[key] = why = str(error)
                self._graphs = None  # their arena has room for this shape too, which nobody will use
        if captured is None:
            run.notes[f"no CUDA graph: {why}"] = None
            return inputs.through(forward)
        if inputs.x.is_cuda:  # a sampler that never looks at the device would queue the whole run, past any cancelling
            torch.cuda.current_stream(inputs.x.device).synchronize()
        check_cancelled()
        options, context_key = inputs.options, None
        if "uuids" in options and model_patcher.conditioning_is_constant(run.guider, options):
            context_key = (*options["uuids"], *options["cond_or_uncond"])
        return captured(inputs.x, inputs.timesteps, inputs.context, inputs.y, inputs.control, context_key)

    @staticmethod
    def _capture(graphs: GraphCache, known: _Known, key: Hashable, forward: UNetForward, inputs: _Inputs) -> CapturedForward:
        tensors = inputs.x, inputs.timesteps, inputs.context, inputs.y
        captured = graphs.capture(key, forward, *tensors, inputs.control, lifetimes=known.lifetimes.get(key))
        known.lifetimes[key] = captured.lifetimes
        return captured

    def _prepare(self, run: _Run, model: Any, x: Tensor) -> UNetForward:
        if self._unet is not model:
            self.release()
            self._unet = model
        if self._forward is None:  # also when ComfyUI unloaded the model in the middle of the run
            run.release()
        if run.held is None:
            require_plain_modules(model)
            layout = self._forward.layout if self._forward is not None else UNetLayout(**unet.describe_unet(model))
            on_demand = loads_on_demand(run.patcher, x.device)
            if not self._own.groups:
                self._own = OwnWeights(fp8_linears(layout) if self._plan.fp8 else (), layout.convolutions())
            if self._forward is None:
                require_room(run.patcher, x, EVICT_EVERY_BYTES if on_demand else self._own.nbytes(x.dtype))
            run.held = HeldWeights([m for m in layout.weighted_modules() if m not in self._own.modules], x.device, x.dtype)
            own_changed = self._take_own(run, x)
            if self._forward is None or not self._forward.prepared.update(run.held.weights, own_changed=own_changed):
                self._forget_forward()
                prepared = PreparedWeights(layout, run.held.weights, self._own)
                attend = model_patcher.attention_function(self._plan.attention, yields=self._plan.attention_yields)
                self._forward = UNetForward(layout, self._ops, prepared, STOCK, attend)
            elif self._graphs is not None:  # other weights, or a prompt that somebody wrote over, under the uuid of the last run
                self._graphs.forget_contexts()
        assert self._forward is not None
        return self._forward

    def _take_own(self, run: _Run, x: Tensor) -> bool:
        """Bring the engine's own weights up to date with the run's LoRA; tell whether they changed."""
        version = model_patcher.weights_version(run.patcher), replaced_weights(run.patcher, x.device, self._own.modules)
        if version == self._own_version:
            return False
        self._own_version = None  # an error on the way leaves weights of two versions
        taken_bytes = 0
        for group in self._own.groups:
            held = HeldWeights(group, x.device, x.dtype)
            try:
                weights, biases = zip(*(held.weights[module] for module in group), strict=True)
                self._own.take(group, weights, biases)
            finally:
                held.release()
            taken_bytes += sum(weight.numel() * weight.element_size() for weight in weights)
            if taken_bytes > EVICT_EVERY_BYTES:
                evict_unheld(run.patcher, x.device)
                taken_bytes = 0
        self._own_version = version
        evict_unheld(run.patcher, x.device)
        return True


def _calls_python(options: dict[str, Any]) -> str:
    """Name a patch by which another node's Python would run inside the forward."""
    patches = options.get("patches", {})
    for name in CALLED_PATCHES:
        if patches.get(name):
            return name
    for name, replaced in options.get("patches_replace", {}).items():
        if replaced:
            return f"{name} replace patch"
    return "optimized_attention_override" if "optimized_attention_override" in options else ""
