"""Raw CUDA graphs of the UNet's forward, one per shape.

Raw graphs, not torch.compile's: those crash under ComfyUI's default cudaMallocAsync allocator (KJNodes #142, pytorch #158641).
"""

import contextlib
import functools
import gc
import itertools
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from traceback import clear_frames
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ..kernels.arena import Arena, Lifetimes, Recorder
from ..memory.graph_pools import count_own, give_back_captured
from .forward import KeysValues, UNetForward

MAX_GRAPHS = 4


class CaptureError(RuntimeError):
    """A forward could not be captured; the message says why. Running it without a graph still works."""


def own_control(control: Any) -> Any:
    """Return a ControlNet's residuals in lists of their own: a forward takes them out one by one."""
    return None if control is None else {name: list(residuals) for name, residuals in control.items()}


def control_tensors(control: Any) -> list[Tensor]:
    """Return the tensors of a ControlNet's residuals in a fixed order."""
    if control is None:
        return []
    return [tensor for name in sorted(control) for tensor in control[name] if isinstance(tensor, Tensor)]


def shape_key(x: Tensor, context: Tensor, y: Tensor | None, control: Any) -> Hashable:
    """Return what a graph is captured for: every shape and dtype that enters it, and how its matrix products are summed.

    Packs turn fp16 accumulation on for single runs (KJNodes' Model Patch Torch Settings).
    """
    sums_in_fp16 = torch.backends.cuda.matmul.allow_fp16_accumulation
    residuals = (
        ()
        if control is None
        else tuple(sorted((k, tuple(None if t is None else t.shape for t in v)) for k, v in control.items()))
    )
    return x.shape, x.dtype, context.shape, None if y is None else y.shape, residuals, sums_in_fp16


class WaitWatch(TorchDispatchMode):
    """Names in `found` the first operation of its body that waits for the device.

    A capture that meets one is invalid, and freeing its tensors then aborts the process under cudaMallocAsync (torch 2.11).
    """

    found = ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation."""
        out = func(*args, **(kwargs or {}))
        packet = func.overloadpacket
        waits = not {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}.isdisjoint(func.tags)
        if packet is torch.ops.aten.copy_:
            waits = args[0].device != args[1].device
        elif packet in (torch.ops.aten._to_copy, torch.ops.aten.to):  # inference mode shows `to` undecomposed
            waits = args[0].device != out.device
        if waits:
            self.found = self.found or str(packet)
        return out


@functools.cache
def capture_stream(device: torch.device) -> Any:
    """Return the stream that all captures on `device` share.

    cuBLAS keeps a workspace for every stream that it ever ran on, 32 MiB on an H100, and torch hands out 32 streams in turn.
    """
    return torch.cuda.Stream(device)


class CapturedForward:
    """The forward for one shape: a graph of the cross-attention keys and values, and a graph of the rest."""

    def __init__(
        self, forward: UNetForward, x: Tensor, timesteps: Tensor, context: Tensor, y: Tensor | None, control: Any, arena: Arena,
        lifetimes: Lifetimes | None,
    ):  # fmt: skip
        """Run where the tensors will lie, so that every library has its workspace and kernels, then capture.

        `lifetimes` are those that an earlier capture of the same shape recorded; without one a first run records them.
        """
        # A later run may be outside of inference mode, where torch does not let its tensors be written to.
        with torch.inference_mode(False), torch.no_grad():
            self._inputs = [x.clone(), timesteps.clone(), context.clone()]
            self._y = None if y is None else y.clone()
            self._control = (
                None if control is None else {k: [None if t is None else t.clone() for t in v] for k, v in control.items()}
            )
            self._output = torch.empty_like(x[:, : forward.layout.out[2].out_channels])
            # Keys and values live as long as the graphs, so they are no part of the arena.
            self._cross: KeysValues = forward.cross_buffers(context)
        self._control_inputs = control_tensors(self._control)
        self._context_key: Hashable = None
        self._context_graph = torch.cuda.CUDAGraph()
        self._graph = torch.cuda.CUDAGraph()
        self.lifetimes = lifetimes or self._record(forward)
        stream = capture_stream(x.device)
        stream.wait_stream(torch.cuda.current_stream(x.device))
        try:
            with torch.cuda.stream(stream):
                planned = arena.planned(self.lifetimes, x.device)
                with forward.ops.allocating_from(planned):
                    self._fill_cross(forward)
                    self._run(forward)
                    planned.restart()
                    self._capture(self._context_graph, lambda: self._fill_cross(forward))
                    self._capture(self._graph, lambda: self._run(forward))
        finally:  # after a failure too: what the passes still write is freed to this stream then
            torch.cuda.current_stream(x.device).wait_stream(stream)
        held = [*self._inputs, self._y, *control_tensors(self._control), self._output, *itertools.chain(*self._cross.values())]
        self.nbytes: int = sum(tensor.nbytes for tensor in held if tensor is not None)
        """What it holds outside the arena, but for what was allocated while capturing."""

    def _record(self, forward: UNetForward) -> Lifetimes:
        """Run both parts in memory of torch's, on the stream whose memory the first step has just given back to it."""
        recorder = Recorder()
        with forward.ops.allocating_from(recorder):
            self._fill_cross(forward)
            self._run(forward)
        if self._output.is_cuda:  # else torch keeps as much again beside the arena
            torch.cuda.empty_cache()
        return recorder.lifetimes()

    @staticmethod
    def _capture(graph: Any, body: Callable[[], None]) -> None:
        collects = gc.isenabled()
        gc.disable()  # a collected graph or host buffer would free memory in the middle of the capture and invalidate it
        try:
            # thread_local: other threads (previews, monitors, savers) may use CUDA meanwhile.
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                body()
            except BaseException as error:
                # What the body's frames hold was allocated in the capture: freeing it later aborts the process (cudaMallocAsync).
                clear_frames(error.__traceback__)
                with contextlib.suppress(RuntimeError):  # the capture is invalid already; the body's error is the cause
                    graph.capture_end()
                raise
            graph.capture_end()
        finally:
            if collects:
                gc.enable()

    def _fill_cross(self, forward: UNetForward) -> None:
        context = self._inputs[2]
        for block, (keys, values) in self._cross.items():
            fresh_keys, fresh_values = forward.keys_values(block, context)
            keys.copy_(fresh_keys)
            values.copy_(fresh_values)

    def _run(self, forward: UNetForward) -> None:
        x, timesteps, context = self._inputs
        self._output.copy_(forward(x, timesteps, context, self._y, own_control(self._control), {}, self._cross))

    def __call__(
        self, x: Tensor, timesteps: Tensor, context: Tensor, y: Tensor | None, control: Any, context_key: Hashable
    ) -> Tensor:
        """Replay with new inputs; `context_key` None means that the context may differ from the last call's."""
        self._inputs[0].copy_(x)
        self._inputs[1].copy_(timesteps)
        if self._y is not None and y is not None:
            self._y.copy_(y)
        for static, fresh in zip(self._control_inputs, control_tensors(control), strict=True):
            static.copy_(fresh)
        if context_key is None or context_key != self._context_key:
            self._inputs[2].copy_(context)
            self._context_graph.replay()
            self._context_key = context_key
        self._graph.replay()
        return self._output.clone()

    def forget_context(self) -> None:
        """Compute cross-attention keys and values anew at the next call."""
        self._context_key = None


class GraphCache:
    """The graphs of one prepared model, least recently used first to go; all share one arena.

    What they hold goes back to `device` with the cache.
    """

    def __init__(self, device: torch.device, is_out_of_memory: Callable[[Exception], bool]) -> None:
        self._is_out_of_memory = is_out_of_memory
        self._graphs: OrderedDict[Hashable, CapturedForward] = OrderedDict()
        self.arena = Arena()
        weakref.finalize(self, _give_back, self._graphs, device).atexit = False

    def get(self, key: Hashable) -> CapturedForward | None:
        """Return the graph for `key`, marking it as used."""
        if key in self._graphs:
            self._graphs.move_to_end(key)
        return self._graphs.get(key)

    def capture(self, key: Hashable, forward: UNetForward, *inputs: Any, lifetimes: Lifetimes | None = None) -> CapturedForward:
        """Capture and keep a graph for `key`; raises CaptureError when that is not possible, unless memory ran out."""
        while len(self._graphs) >= MAX_GRAPHS:
            self._graphs.popitem(last=False)
        try:
            captured = CapturedForward(forward, *inputs, arena=self.arena, lifetimes=lifetimes)
        except (RuntimeError, ValueError) as error:  # CUDA's and the Triton launcher's
            if self._is_out_of_memory(error):
                raise  # the shape itself may be captured another time
            raise CaptureError(f"capturing failed ({str(error).partition(chr(10))[0]})") from error
        self._graphs[key] = captured
        count_own(self, inputs[0].device, self.nbytes)
        return captured

    @property
    def nbytes(self) -> int:
        """Return what the graphs hold, but for what was allocated while capturing."""
        return self.arena.nbytes + sum(held.nbytes for held in self._graphs.values())

    def forget_contexts(self) -> None:
        """Compute cross-attention keys and values anew at the next call of every graph."""
        for captured in self._graphs.values():
            captured.forget_context()


def _give_back(graphs: OrderedDict[Hashable, CapturedForward], device: torch.device) -> None:
    graphs.clear()
    if device.type == "cuda":
        give_back_captured(torch.cuda.current_device() if device.index is None else device.index)
