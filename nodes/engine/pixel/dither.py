"""Maps pictures to a fixed palette: nearest colour in CIELAB, ordered (Bayer) or error-diffusion dither."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .colour import Floats, srgb_to_lab

Dither = Literal["none", "bayer 2x2", "bayer 4x4", "bayer 8x8", "floyd-steinberg", "atkinson"]
DITHERS: tuple[Dither, ...] = ("none", "bayer 2x2", "bayer 4x4", "bayer 8x8", "floyd-steinberg", "atkinson")

# (dx, dy, share); Floyd and Steinberg 1976; Atkinson hands on 6/8 of the error and so keeps contrast
_DIFFUSION = {
    "floyd-steinberg": ((1, 0, 7 / 16), (-1, 1, 3 / 16), (0, 1, 5 / 16), (1, 1, 1 / 16)),
    "atkinson": ((1, 0, 1 / 8), (2, 0, 1 / 8), (-1, 1, 1 / 8), (0, 1, 1 / 8), (1, 1, 1 / 8), (0, 2, 1 / 8)),
}
_ROWS_AT_ONCE = 65536


def nearest_labels(lab: NDArray[np.floating], palette_lab: NDArray[np.floating]) -> NDArray[np.intp]:
    """Return the index of the nearest palette colour, shape (...), for CIELAB colours (..., 3)."""
    flat = np.asarray(lab, dtype=np.float32).reshape(-1, 3)
    palette_lab = np.asarray(palette_lab, dtype=np.float32)
    offset = (palette_lab**2).sum(axis=1)
    labels = np.empty(len(flat), dtype=np.intp)
    for start in range(0, len(flat), _ROWS_AT_ONCE):
        part = flat[start : start + _ROWS_AT_ONCE]
        labels[start : start + _ROWS_AT_ONCE] = (offset - 2 * part @ palette_lab.T).argmin(axis=1)
    return labels.reshape(lab.shape[:-1])


def map_to_palette(
    cells: NDArray[np.floating], palette: NDArray[np.uint8], dither: Dither = "none", strength: float = 1.0
) -> NDArray[np.intp]:
    """Return palette indices (H, W) for sRGB cells (H, W, 3) in 0..255; `strength` 0..1 scales the dither."""
    palette_lab = srgb_to_lab(palette)
    lab = srgb_to_lab(cells)
    if dither == "none" or strength == 0 or len(palette) == 1:
        return nearest_labels(lab, palette_lab)
    if dither.startswith("bayer"):
        return _ordered(lab, palette_lab, int(dither[-1]), strength)
    return _diffuse(lab, palette_lab, _DIFFUSION[dither], strength)


def bayer_matrix(side: int) -> Floats:
    """Return the Bayer threshold matrix of a power-of-two side, values centred on 0 within -0.5..0.5."""
    matrix = np.zeros((1, 1))
    while len(matrix) < side:
        matrix = np.block([[4 * matrix, 4 * matrix + 2], [4 * matrix + 3, 4 * matrix + 1]])
    return ((matrix + 0.5) / side**2 - 0.5).astype(np.float32)


def _ordered(lab: Floats, palette_lab: Floats, side: int, strength: float) -> NDArray[np.intp]:
    """Mix each cell from the two palette colours around it, in the share that the threshold matrix gives."""
    height, width = lab.shape[:2]
    first = nearest_labels(lab, palette_lab)
    mirrored = 2 * lab - palette_lab[first]  # as far beyond the cell as the nearest colour lies before it
    second = nearest_labels(mirrored, palette_lab)
    span = palette_lab[second] - palette_lab[first]
    length2 = (span**2).sum(axis=-1)
    share = ((lab - palette_lab[first]) * span).sum(axis=-1) / np.maximum(length2, 1e-6)
    threshold = np.tile(bayer_matrix(side), (height // side + 1, width // side + 1))[:height, :width]
    return np.where(np.clip(share, 0, 0.5) * strength > threshold + 0.5, second, first)


def _diffuse(lab: Floats, palette_lab: Floats, taps: tuple[tuple[int, int, float], ...], strength: float) -> NDArray[np.intp]:
    height, width = lab.shape[:2]
    rest = np.zeros((height + 2, width + 4, 3), dtype=np.float32)
    rest[:height, 2 : width + 2] = lab
    labels = np.empty((height, width), dtype=np.intp)
    for y in range(height):
        for x in range(width):
            wanted = rest[y, x + 2]
            label = int(((palette_lab - wanted) ** 2).sum(axis=1).argmin())
            labels[y, x] = label
            error = (wanted - palette_lab[label]) * strength
            for dx, dy, share in taps:
                rest[y + dy, x + 2 + dx] += error * share
    return labels
