"""Progress bar, preview pictures, a line of text and the cancel button."""

from typing import Any

import comfy.model_management
import comfy.utils
import latent_preview
import torch


class SamplingProgress:
    """One bar over many runs of a sampler, with the preview that KSampler shows."""

    def __init__(self, model: Any, total: int, node_id: str) -> None:
        """Make a bar of `total` ticks on the node `node_id`."""
        self._bar = comfy.utils.ProgressBar(total)
        self._previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)
        self._node_id = node_id

    def show(self, ticks: int, denoised: torch.Tensor, text: str) -> None:
        """Move the bar; raises InterruptProcessingException when the person has cancelled."""
        # The bar's own hook is throttled and would look at the button only a few times a second.
        comfy.model_management.throw_exception_if_processing_interrupted()
        preview = self._previewer.decode_latent_to_preview_image("JPEG", denoised) if self._previewer else None
        self._bar.update_absolute(ticks, preview=preview)
        send_text(text, self._node_id)


def send_text(text: str, node_id: str) -> None:
    """Show a line of text on a node while it runs; without a server (in a test) nothing happens."""
    from server import PromptServer  # imports aiohttp and the whole application

    server = getattr(PromptServer, "instance", None)
    if server is not None:
        server.send_progress_text(text, node_id, server.client_id)
