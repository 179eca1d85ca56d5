"""Decides, by their neighbours, cells whose colour lies between two colours of the palette."""

import numpy as np
from numpy.typing import NDArray

from .colour import Floats, srgb_to_lab
from .dither import nearest_labels

# What a neighbour of the same colour counts, as a log-likelihood, at a side and at a corner.
_SIDE = 0.7
_CORNER = 0.5
_AROUND = tuple((dy, dx, _SIDE if 0 in (dy, dx) else _CORNER) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0))
_SWEEPS = 2
# Degrees of freedom of Student's t distribution, whose tails stand for what mixing leaves beside noise.
_FREEDOM = 3.0
_LEAST_VARIANCE = 0.05


def settle_unclear(cells: Floats, palette: NDArray[np.uint8], opaque: NDArray[np.bool_]) -> Floats:
    """Return cells (B, h, w, 3), sRGB, with those that noise carried between two palette colours put on the likelier one.

    A cell's colours cost by their CIELAB distance (Student's t, as wide as the cells' own deviation) and gain by each of the eight
    neighbours that has them (Potts model, iterated conditional modes: Besag 1986). Drawn single pixels are far from the colours
    around them and stay.
    """
    lab, palette_lab = srgb_to_lab(cells), srgb_to_lab(palette)
    labels = np.where(opaque, nearest_labels(lab, palette_lab), -1)
    # the median of a squared distance in three dimensions is 2.37 variances
    variance = max(float(np.median(((lab - palette_lab[labels]) ** 2).sum(axis=-1)[opaque])) / 2.37, _LEAST_VARIANCE)

    def price(colours: Floats, chosen: NDArray[np.intp]) -> Floats:
        squares = ((colours - palette_lab[chosen]) ** 2).sum(axis=-1)
        return (_FREEDOM + 3) / 2 * np.log1p(squares / (_FREEDOM * variance))

    settled = labels
    for _ in range(_SWEEPS):
        padded = np.pad(settled, ((0, 0), (1, 1), (1, 1)), constant_values=-1)
        height, width = labels.shape[1:]
        lonely = np.zeros(labels.shape, dtype=bool)
        for dy, dx, _ in _AROUND:
            lonely |= padded[:, 1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width] != settled
        picture, y, x = np.nonzero(lonely & opaque)
        own = lab[picture, y, x]
        around = np.stack([padded[picture, y + 1 + dy, x + 1 + dx] for dy, dx, _ in _AROUND])
        weight = np.array([w for _, _, w in _AROUND], dtype=np.float32)[:, None]
        choice = settled[picture, y, x]
        best = price(own, choice) - (weight * (around == choice)).sum(axis=0)
        for candidate in around:
            cost = price(own, candidate) - (weight * (around == candidate)).sum(axis=0)
            better = (candidate >= 0) & (cost < best)
            choice, best = np.where(better, candidate, choice), np.where(better, cost, best)
        settled = settled.copy()
        settled[picture, y, x] = choice
    moved = settled != labels
    result = cells.copy()
    result[moved] = palette[settled[moved]]
    return result
