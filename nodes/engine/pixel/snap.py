"""From drawings to native pictures: one grid for a batch, one colour per cell."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import BadInputError
from .cells import sample_cells
from .colour import Floats
from .grid import PixelGrid
from .search import find_grid, fit_grid

Fallback = Literal["fallback size", "leave unchanged", "stop"]
FALLBACKS: tuple[Fallback, ...] = ("fallback size", "leave unchanged", "stop")
MAX_SIDE = 4096
MAX_NATIVE_SIDE = 1024


@dataclass(frozen=True)
class SnapRequest:
    """What the user fixed: native size in px (0 finds it) and what to do where no grid is found."""

    native_width: int = 0
    native_height: int = 0
    when_unclear: Fallback = "fallback size"
    fallback_size: int = 64


@dataclass(frozen=True)
class Snapped:
    """Native pictures: `cells` (B, h, w, 3) sRGB 0..255, `spread` (B, h, w) deviation inside each cell, and their grid."""

    cells: Floats
    spread: Floats
    grid: PixelGrid


def snap_batch(pictures: NDArray[np.floating], request: SnapRequest) -> Snapped:
    """Snap pictures (B, H, W, 3), sRGB 0..255, to one native size."""
    height, width = pictures.shape[1:3]
    if max(height, width) > MAX_SIDE:
        raise BadInputError(f"The pictures are {width}x{height} px; at most {MAX_SIDE} a side can be searched for a grid.")
    typed = _typed_size(request, width, height) if request.native_width or request.native_height else None
    found = fit_grid(pictures, typed) if typed else find_grid(pictures)
    assert found
    sampled = [sample_cells(picture, lines, found.pitch) for picture, lines in zip(pictures, found.lines, strict=True)]
    grid = PixelGrid(found.width, found.height, found.pitch, found.lines, found.concentration, True, "")
    return Snapped(np.stack([c for c, _ in sampled]), np.stack([s for _, s in sampled]), grid)


def _typed_size(request: SnapRequest, width: int, height: int) -> tuple[int, int]:
    native_width, native_height = request.native_width, request.native_height
    if not native_width and not native_height:
        native_width = max(1, round(request.fallback_size * width / max(width, height)))
    if not native_height:
        native_height = max(1, round(native_width * height / width))
    if not native_width:
        native_width = max(1, round(native_height * width / height))
    return min(native_width, width), min(native_height, height)
