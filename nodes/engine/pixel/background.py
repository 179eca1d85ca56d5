"""Cuts a plain background out of native sprites: hard alpha, and colours under it that show no fringe."""

import numpy as np
from numpy.typing import NDArray

from .colour import srgb_to_lab


def background_alpha(cells: NDArray[np.uint8], *, enclosed_holes: bool = False, tolerance: float = 0.0) -> NDArray[np.uint8]:
    """Return alpha (H, W), 0 or 255, with the background of one native picture (H, W, 3) cut away.

    The background is the most frequent colour of the border; it is cleared where it reaches the border through its four neighbours,
    and with `enclosed_holes` everywhere. `tolerance` is a CIELAB distance, for pictures without a palette. A picture whose border
    has no colour on at least a third of it has no plain background and stays whole.
    """
    height, width = cells.shape[:2]
    border = np.concatenate([cells[0], cells[-1], cells[1:-1, 0], cells[1:-1, -1]])
    colours, counts = np.unique(border, axis=0, return_counts=True)
    if tolerance > 0:
        lab = srgb_to_lab(colours)
        near = np.linalg.norm(lab[:, None] - lab[None], axis=-1) <= tolerance
        counts = near @ counts
    if counts.max() * 3 < len(border):
        return np.full((height, width), 255, dtype=np.uint8)
    colour = colours[counts.argmax()]
    if tolerance > 0:
        same = np.linalg.norm(srgb_to_lab(cells) - srgb_to_lab(colour), axis=-1) <= tolerance
    else:
        same = (cells == colour).all(axis=-1)
    clear = same if enclosed_holes else reaches_border(same)
    return np.where(clear, 0, 255).astype(np.uint8)


def reaches_border(same: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the part of `same` (H, W) joined to the border through four-neighbours, by sweeps until nothing changes."""
    reached = np.zeros_like(same)
    reached[0], reached[-1], reached[:, 0], reached[:, -1] = same[0], same[-1], same[:, 0], same[:, -1]
    while True:
        before = int(reached.sum())
        for _ in range(2):  # rows, then columns of the transposed view
            for ordered, open_cells in ((reached, same), (reached[:, ::-1], same[:, ::-1])):
                _sweep(ordered, open_cells)
            reached, same = reached.T, same.T
        if int(reached.sum()) == before:
            return reached


def _sweep(reached: NDArray[np.bool_], same: NDArray[np.bool_]) -> None:
    """Carry `reached` rightwards through runs of `same`, in place, all rows at once."""
    index = np.arange(same.shape[1])
    last_wall = np.maximum.accumulate(np.where(same, -1, index), axis=1)
    last_reached = np.maximum.accumulate(np.where(reached, index, -1), axis=1)
    reached |= same & (last_reached > last_wall)


def bleed_under_alpha(cells: NDArray[np.uint8], alpha: NDArray[np.uint8], *, rings: int = 4) -> NDArray[np.uint8]:
    """Give clear pixels near the sprite the colour of its nearest pixel, up to `rings` px away, and black beyond.

    Engines that filter or scale a texture mix these hidden colours in; left as background they show as a fringe.
    """
    height, width = alpha.shape
    known = alpha > 0
    bled = np.where(known[..., None], cells, 0).astype(np.uint8)
    for _ in range(rings):
        padded_known = np.pad(known, 1)
        padded = np.pad(bled, ((1, 1), (1, 1), (0, 0)))
        grown = known.copy()
        for dy, dx in ((0, 1), (1, 0), (1, 2), (2, 1), (0, 0), (0, 2), (2, 0), (2, 2)):
            source = padded_known[dy : dy + height, dx : dx + width] & ~grown
            bled[source] = padded[dy : dy + height, dx : dx + width][source]
            grown |= source
        known = grown
    return bled
