"""From drawings to native pictures: one grid for a batch, one colour per cell."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import BadInputError
from .colour import Floats
from .grid import CellLines, PixelGrid

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
    native_width, native_height = _typed_size(request, width, height)
    lines = CellLines(
        np.linspace(0, width, native_width + 1, dtype=np.float32), np.linspace(0, height, native_height + 1, dtype=np.float32)
    )
    x = ((lines.columns[1:] + lines.columns[:-1]) / 2).astype(int)
    y = ((lines.rows[1:] + lines.rows[:-1]) / 2).astype(int)
    cells = pictures[:, y[:, None], x[None, :]].astype(np.float32)
    grid = PixelGrid(
        native_width, native_height, width / native_width, (lines,) * len(pictures), 0.0, False, "No grid was searched."
    )
    return Snapped(cells, np.zeros(cells.shape[:3], np.float32), grid)


def _typed_size(request: SnapRequest, width: int, height: int) -> tuple[int, int]:
    native_width, native_height = request.native_width, request.native_height
    if not native_width and not native_height:
        native_width = max(1, round(request.fallback_size * width / max(width, height)))
    if not native_height:
        native_height = max(1, round(native_width * height / width))
    if not native_width:
        native_width = max(1, round(native_height * width / height))
    return min(native_width, width), min(native_height, height)
