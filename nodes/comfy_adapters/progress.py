"""Progress bar, preview pictures, a line of text, the cancel button, and the course of every prompt."""

import asyncio
from typing import Any, Protocol

import torch

from .internals import lacking, optional

management = optional("comfy.model_management")
progress = optional("comfy_execution.progress")
previews = optional("latent_preview")
utils = optional("comfy.utils")


class SamplingProgress:
    """One bar over many runs of a sampler, with the preview that KSampler shows."""

    def __init__(self, model: Any, total: int, node_id: str) -> None:
        """Make a bar of `total` ticks on the node `node_id`."""
        self._bar = utils.ProgressBar(total)
        has_previews = not lacking("preview")
        self._previewer = previews.get_previewer(model.load_device, model.model.latent_format) if has_previews else None
        self._node_id = node_id

    def show(self, ticks: int, denoised: torch.Tensor, text: str) -> None:
        """Move the bar; raises InterruptProcessingException when the person has cancelled."""
        check_cancelled()  # the bar's own hook is throttled and would look at the button only a few times a second
        preview = self._previewer.decode_latent_to_preview_image("JPEG", denoised) if self._previewer else None
        self._bar.update_absolute(ticks, preview=preview)
        send_text(text, self._node_id)


def check_cancelled() -> None:
    """Raise ComfyUI's InterruptProcessingException when the person has pressed cancel."""
    management.throw_exception_if_processing_interrupted()


def send_text(text: str, node_id: str) -> None:
    """Show a line of text on a node while it runs; without a server that can (in a test) nothing happens."""
    from server import PromptServer  # imports aiohttp and the whole application

    server = getattr(PromptServer, "instance", None)
    if server is not None and hasattr(server, "send_progress_text"):
        server.send_progress_text(text, node_id, server.client_id)


class RunListener(Protocol):
    """What happens to prompts and nodes; called on the thread that executes them, so it must be quick and never raise."""

    def run_started(self) -> None:
        """A prompt begins."""

    def node_started(self, key: str, node_id: str, class_type: str) -> None:
        """A node begins; `key` is unique in the prompt, `node_id` is the node of the workflow that it belongs to."""

    def node_finished(self, key: str) -> None:
        """A node that may have begun, or was cached, is done."""

    def run_ended(self) -> None:
        """The prompt is over: done, failed or interrupted."""


def follow_runs(listener: RunListener) -> str:
    """Tell `listener` about every prompt of this process from now on; return why that is not possible, else an empty text."""
    if why := lacking("nodes of a run"):
        return why

    class _RunFollower(progress.ProgressHandler):
        """Stays with ComfyUI's progress from prompt to prompt.

        Every prompt gets a registry of its own, without the handlers of the one before. Their reset() is called as the first act
        of a prompt, inside its task; the registry is there by the time that the task gives way, before it executes a node.
        """

        def __init__(self) -> None:
            super().__init__("fast_sprites")
            self._registry: Any = None

        def set_registry(self, registry: Any) -> None:
            self._registry = registry

        def reset(self) -> None:
            try:
                task = asyncio.current_task()
            except RuntimeError:  # no loop runs: not by a prompt
                task = None
            if task is not None:
                listener.run_started()
                task.add_done_callback(lambda _: listener.run_ended())
                task.get_loop().call_soon(progress.add_progress_handler, self)

        def start_handler(self, node_id: str, state: Any, prompt_id: str) -> None:
            graph = self._registry.dynprompt
            listener.node_started(node_id, graph.get_display_node_id(node_id), graph.get_node(node_id)["class_type"])

        def finish_handler(self, node_id: str, state: Any, prompt_id: str) -> None:
            listener.node_finished(node_id)

    progress.add_progress_handler(_RunFollower())
    return ""
