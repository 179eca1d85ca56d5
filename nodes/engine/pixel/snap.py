"""From drawings to native pictures: one grid for a batch, one colour per cell."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import BadInputError
from .cells import CellLines, even_lines, sample_cells
from .colour import Floats
from .grid import PixelGrid
from .narrow import unmix_narrow_cells
from .search import FoundGrid, find_grid, fit_grid

Fallback = Literal["fallback size", "leave unchanged", "stop"]
FALLBACKS: tuple[Fallback, ...] = ("fallback size", "leave unchanged", "stop")
MAX_SIDE = 4096
MAX_NATIVE_SIDE = 1024
# Photographs and plain drawings stay below 0.1, the hardest test sprites reach 0.2.
_LEAST_CONFIDENCE = 0.15
# Longest side that is searched at full size; larger pictures are searched at the mean of whole blocks of pixels.
_SEARCH_SIDE = 2048


@dataclass(frozen=True)
class SnapRequest:
    """What the user fixed: native size in px (0 finds it) and what to do where no grid is found."""

    native_width: int = 0
    native_height: int = 0
    when_unclear: Fallback = "fallback size"
    fallback_size: int = 64


@dataclass(frozen=True)
class Snapped:
    """Native pictures: `cells` (B, h, w, 3) sRGB 0..255, and their grid."""

    cells: Floats
    grid: PixelGrid


def snap_batch(pictures: NDArray[np.floating], request: SnapRequest) -> Snapped:
    """Snap pictures (B, H, W, 3), sRGB 0..255, to one native size.

    Raises BadInputError above 4096 px a side, for a native size larger than the pictures, and for "stop" without a grid.
    """
    height, width = pictures.shape[1:3]
    if max(height, width) > MAX_SIDE:
        raise BadInputError(
            f"The pictures are {width}x{height} px; at most {MAX_SIDE} a side can be searched, so scale them down."
        )
    grid = _choose_grid(pictures, request)
    cells = [
        unmix_narrow_cells(picture, lines, sample_cells(picture, lines, grid.pitch), grid.pitch)
        for picture, lines in zip(pictures, grid.lines, strict=True)
    ]
    return Snapped(np.stack(cells), grid)


def _choose_grid(pictures: NDArray[np.floating], request: SnapRequest) -> PixelGrid:
    height, width = pictures.shape[1:3]
    if request.native_width or request.native_height:
        columns = request.native_width or max(1, round(request.native_height * width / height))
        rows = request.native_height or max(1, round(columns * height / width))
        if columns > width or rows > height:
            raise BadInputError(
                f"The native size {columns}x{rows} is larger than the pictures ({width}x{height} px); choose a smaller one, or 0."
            )
        found = _search(pictures, (columns, rows))
        assert found is not None
        return PixelGrid(columns, rows, found.pitch, found.lines, 1.0, True, f"Fitted the given size of {columns}x{rows} pixels.")
    found = _search(pictures, None)
    if found is not None and found.concentration >= _LEAST_CONFIDENCE:
        report = f"Found {found.width}x{found.height} pixels of {found.pitch:.2f} px, confidence {found.concentration:.2f}."
        return PixelGrid(found.width, found.height, found.pitch, found.lines, found.concentration, True, report)
    return _without_grid(pictures, request, 0.0 if found is None else found.concentration)


def _without_grid(pictures: NDArray[np.floating], request: SnapRequest, confidence: float) -> PixelGrid:
    count, height, width = pictures.shape[:3]
    problem = f"No pixel grid was found (confidence {confidence:.2f}, at least {_LEAST_CONFIDENCE} is needed)"
    if request.when_unclear == "stop":
        raise BadInputError(f"{problem}; type a native size or choose another fallback.")
    if request.when_unclear == "leave unchanged":
        columns, rows, taken = width, height, "the pictures are unchanged."
    else:
        scale = request.fallback_size / max(width, height)
        columns, rows = (min(side, max(1, round(side * scale))) for side in (width, height))
        taken = f"took the fallback size of {columns}x{rows} pixels."
    lines = even_lines(height, width, rows, columns)
    return PixelGrid(columns, rows, width / columns, (lines,) * count, confidence, False, f"{problem}: {taken}")


def _search(pictures: NDArray[np.floating], fixed: tuple[int, int] | None) -> FoundGrid | None:
    height, width = pictures.shape[1:3]
    factor = -(-max(height, width) // _SEARCH_SIDE)
    if factor == 1:
        return fit_grid(pictures, fixed) if fixed else find_grid(pictures)
    rows, columns = height // factor, width // factor
    if fixed and (fixed[0] > columns or fixed[1] > rows):
        return fit_grid(pictures, fixed)
    blocks = pictures[:, : rows * factor, : columns * factor].reshape(-1, rows, factor, columns, factor, 3)
    small = blocks.mean(axis=(2, 4), dtype=np.float32)
    found = fit_grid(small, fixed) if fixed else find_grid(small)
    if found is None:
        return None
    lines = tuple(CellLines(line.columns * factor, line.rows * factor) for line in found.lines)
    return FoundGrid(found.width, found.height, found.pitch * factor, lines, found.concentration)
