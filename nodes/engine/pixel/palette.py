"""Finds the colours that native pictures were drawn with."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .clusters import (
    drop_blends,
    drop_stray_cells,
    merge_touching,
    neighbour_noise,
    rough_labels,
    squared_distances,
)
from .colour import Floats, lab_to_srgb, srgb_to_lab
from .restore import restore_cells
from .unclear import settle_unclear

MAX_COLOURS = 256
# Colours nearer than this (CIELAB) are one: codecs round flat areas to either side of them.
_ALIKE = 3.0
_FAINT_CELLS = 4
_FIRST_ROUNDS = 2
_ROUNDS = 4


@dataclass(frozen=True)
class Palette:
    """Colours (N, 3), uint8 sRGB, in the order of an indexed picture."""

    colours: NDArray[np.uint8]
    name: str = "auto"

    def to_hex(self) -> list[str]:
        """Return the colours as `#rrggbb`."""
        return ["#" + bytes(colour).hex() for colour in self.colours]


def find_palette(pictures: NDArray[np.floating], max_colours: int = 0) -> Palette:
    """Find one palette for native pictures (B, H, W, 3 or 4), sRGB 0..255, clear pixels left out; 0 colours finds the number."""
    return recover_colours(pictures, max_colours)[0]


def recover_colours(pictures: NDArray[np.floating], max_colours: int = 0) -> tuple[Palette, Floats]:
    """Find the palette of native pictures as `find_palette` does, and return their cells (B, H, W, 3) cleaned of blur and drift too.

    Peaks of colour density in CIELAB, as far apart as the noise between look-alike neighbours demands: a first time to learn what
    blur and drift added to the cells, a second time without that.
    """
    cells = pictures[..., :3].astype(np.float32)
    opaque = pictures[..., 3] >= 127.5 if pictures.shape[-1] == 4 else np.ones(cells.shape[:3], dtype=bool)
    if not opaque.any():
        opaque = np.ones_like(opaque)
    lab = srgb_to_lab(cells)
    noise = neighbour_noise(lab, opaque)
    labels = merge_touching(lab, rough_labels(lab, opaque, noise), noise)
    first = None
    if labels.max() < MAX_COLOURS:
        first = restore_cells(cells, labels, _FIRST_ROUNDS)
        lab = srgb_to_lab(np.clip(first.cells, 0, 255))
        noise = neighbour_noise(lab, opaque)
        labels = merge_touching(lab, rough_labels(lab, opaque, noise), noise)
    labels = drop_stray_cells(lab, drop_blends(lab, labels, noise), noise)
    restored = restore_cells(cells, labels, _ROUNDS, first)
    centres, weights = _merge_alike(srgb_to_lab(restored.colours), restored.weights)
    centres, weights = _without_faint_shades(centres, weights, noise)
    limit = max_colours or MAX_COLOURS
    if len(centres) > limit:
        centres, weights = _merge_down(centres, weights, limit)
    order = np.argsort(-weights, kind="stable")
    colours = np.rint(lab_to_srgb(centres[order])).astype(np.uint8)
    _, first_place = np.unique(colours, axis=0, return_index=True)
    colours = colours[np.sort(first_place)]
    return Palette(colours), settle_unclear(np.clip(restored.cells, 0, 255), colours, opaque)


def _merge_alike(centres: Floats, weights: NDArray[np.intp]) -> tuple[Floats, NDArray[np.intp]]:
    """Merge colours that are one to the eye, the nearest first: with drift taken out, two shades of one may turn out to be alike."""
    while len(centres) > 1:
        gaps = squared_distances(centres, centres)
        np.fill_diagonal(gaps, np.inf)
        keep, drop = divmod(int(gaps.argmin()), len(centres))
        if gaps[keep, drop] >= _ALIKE**2:
            break
        centres, weights = centres.copy(), weights.copy()
        centres[keep] = np.average(centres[[keep, drop]], axis=0, weights=weights[[keep, drop]])
        weights[keep] += weights[drop]
        centres, weights = np.delete(centres, drop, axis=0), np.delete(weights, drop)
    return centres, weights


def _without_faint_shades(centres: Floats, weights: NDArray[np.intp], noise: float) -> tuple[Floats, NDArray[np.intp]]:
    """Leave out the colours of a few cells that another colour stands in for: their cells take the nearest one left."""
    kept = np.ones(len(centres), dtype=bool)
    gaps = np.sqrt(squared_distances(centres, centres))
    np.fill_diagonal(gaps, np.inf)
    for index in np.argsort(weights, kind="stable"):
        if weights[index] > _FAINT_CELLS:
            break
        kept[index] = gaps[index, kept].min() > max(5.0, 4.0 * noise)
    return centres[kept], weights[kept]


def _merge_down(centres: Floats, weights: NDArray[np.intp], count: int) -> tuple[Floats, NDArray[np.intp]]:
    """Merge the pair whose merger moves the least weighted colour (Ward's rule) until `count` colours are left."""
    places, masses = centres.astype(np.float64), weights.astype(np.float64)
    squares = ((places[:, None] - places) ** 2).sum(axis=-1)
    cost = squares * (masses[:, None] * masses / (masses[:, None] + masses))
    np.fill_diagonal(cost, np.inf)
    for _ in range(len(places) - count):
        keep, drop = divmod(int(cost.argmin()), len(places))
        total = masses[keep] + masses[drop]
        places[keep] = (places[keep] * masses[keep] + places[drop] * masses[drop]) / total
        masses[keep], masses[drop] = total, 0
        cost[drop], cost[:, drop] = np.inf, np.inf
        alive = np.isfinite(cost).any(axis=1) & (masses > 0)
        alive[keep] = False
        gaps = ((places[alive] - places[keep]) ** 2).sum(axis=-1) * (masses[alive] * total / (masses[alive] + total))
        cost[keep, alive], cost[alive, keep] = gaps, gaps
    left = masses > 0
    return places[left].astype(np.float32), np.rint(masses[left]).astype(np.intp)
