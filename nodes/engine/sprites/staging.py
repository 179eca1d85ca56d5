"""Pictures on their way to the host: what a file holds of them is made where they are, so that little is copied and nobody waits."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .png import filtered, library


@dataclass(frozen=True)
class Content:
    """What a file holds of a picture."""

    data: NDArray[np.uint8]
    """A PNG's rows [H, 1 + W * C], or for other formats the pixels [H, W, C]."""
    channels: int
    is_finite: bool
    """Whether the picture held numbers alone."""


def stage(picture: torch.Tensor, file_format: str) -> Callable[[], Content]:
    """Begin to bring what a file of this format holds of a picture [H, W, C], 0 to 1, to the host; the returned function waits for it.

    It may be called in any thread. Of a picture on CUDA the content is made there and copied behind what its stream holds: a quarter of
    the bytes, and the caller goes on at once.
    """
    channels = picture.shape[2]
    if picture.device.type != "cuda":
        values = picture.cpu().numpy()

        def make() -> Content:
            data, is_finite = content(values, file_format)
            return Content(data, channels, bool(is_finite))

        return make
    parts = content(picture, file_format)
    data, is_finite = (
        torch.empty(part.shape, dtype=part.dtype, pin_memory=True).copy_(part, non_blocking=True) for part in parts
    )
    copied = torch.cuda.Event(blocking=True)  # without, a thread that waits takes all of a core
    copied.record(torch.cuda.current_stream(picture.device))

    def wait() -> Content:
        copied.synchronize()
        return Content(data.numpy(), channels, bool(is_finite))

    return wait


def content(picture: Any, file_format: str) -> tuple[Any, Any]:
    """Return `data` and `is_finite` of the Content of a picture in numpy's memory or torch's, there where it is."""
    array = library(picture)
    # The same arithmetic as ComfyUI's SaveImage, so that the pixels are the same; it leaves NaN to the processor, here it is black.
    clipped = array.clip(255.0 * picture, 0, 255)
    numbers = array.fmax(clipped, array.zeros_like(clipped[:1]))
    pixels = array.asarray(numbers, dtype=array.uint8)
    return filtered(pixels) if file_format == "png" else pixels, array.isfinite(picture).all()
