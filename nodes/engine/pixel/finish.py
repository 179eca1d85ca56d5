"""The whole job without ComfyUI: picture in; native picture, palette and alpha out."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .background import background_alpha
from .colour import Floats
from .dither import map_to_palette
from .grid import PixelGrid
from .palette import recover_colours
from .snap import SnapRequest, snap_batch


@dataclass(frozen=True)
class PixelArt:
    """A native picture: `native` (h, w, 3) in palette colours, `palette` (N, 3), `alpha` (h, w) 0 or 255, and unquantised `cells`."""

    native: NDArray[np.uint8]
    palette: NDArray[np.uint8]
    alpha: NDArray[np.uint8]
    cells: Floats
    grid: PixelGrid


def pixelate(picture: NDArray[np.generic], *, native_size: int = 0, max_colours: int = 0) -> PixelArt:
    """Turn one drawing (H, W, 3), sRGB 0..255, into pixel art; `native_size` is its width in cells, 0 finds it."""
    return pixelate_batch(np.asarray(picture)[None], native_size=native_size, max_colours=max_colours)[0]


def pixelate_batch(pictures: NDArray[np.generic], *, native_size: int = 0, max_colours: int = 0) -> list[PixelArt]:
    """Turn drawings (B, H, W, 3) into pixel art of one size and one palette."""
    snapped = snap_batch(np.asarray(pictures, dtype=np.float32), SnapRequest(native_width=native_size))
    found, cleaned = recover_colours(snapped.cells, max_colours)
    palette = found.colours
    native = [palette[map_to_palette(cells, palette)] for cells in cleaned]
    return [
        PixelArt(pixels, palette, background_alpha(pixels), cells, snapped.grid)
        for pixels, cells in zip(native, snapped.cells, strict=True)
    ]
