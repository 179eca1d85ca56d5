"""Finds the colours that native pictures were drawn with."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .colour import Floats, lab_to_srgb, srgb_to_lab
from .dither import nearest_labels

MAX_COLOURS = 256
# Colours nearer than this (CIELAB) are one colour to the eye.
_LEAST_DISTANCE = 2.4
_MAX_BINS = 1600
# How far, in shares of the step to a neighbour, sharpening carries a cell beyond its own colour.
_HALO = 1.4
_STRAY_CELLS = 3
_PAIRS_THAT_TELL = 120
_FAINT_CELLS = 4
_REFINEMENTS = 3
# Residual, summed over the channels in 8-bit steps, from which a cell counts less.
_OUTLIER_STEP = 6.0


@dataclass(frozen=True)
class Palette:
    """Colours (N, 3), uint8 sRGB, in the order of an indexed picture."""

    colours: NDArray[np.uint8]
    name: str = "auto"

    def to_hex(self) -> list[str]:
        """Return the colours as `#rrggbb`."""
        return ["#" + bytes(colour).hex() for colour in self.colours]


@dataclass(frozen=True)
class _Bins:
    """Occurring colours, pooled to limit their number: `lab` (M, 3), `weight` (M), and the bin of each cell."""

    lab: Floats
    weight: Floats
    of_cell: NDArray[np.intp]


def find_palette(pictures: NDArray[np.floating], max_colours: int = 0) -> Palette:
    """Find one palette for native pictures (B, H, W, 3 or 4), sRGB 0..255, clear pixels left out; 0 colours finds the number.

    Peaks of colour density in CIELAB, as far apart as the noise between look-alike neighbours demands.
    """
    lab = srgb_to_lab(pictures[..., :3])
    opaque = pictures[..., 3] >= 127.5 if pictures.shape[-1] == 4 else np.ones(lab.shape[:3], dtype=bool)
    if not opaque.any():
        opaque[:] = True
    noise = neighbour_noise(lab, opaque)
    bins = _pool(lab[opaque], max(0.4, noise / 3))
    cluster = _density_clusters(bins, noise)
    labels = np.full(opaque.shape, -1, dtype=np.intp)
    labels[opaque] = cluster[bins.of_cell]
    for _ in range(3):
        labels, merged = _merge_touching(lab, labels, noise)
        if not merged:
            break
    labels = _drop_blends(lab, labels, noise)
    labels = _drop_stray_cells(lab, labels, noise)
    centres, weights = _without_faint_shades(*_refined_colours(pictures[..., :3], labels), noise)
    limit = max_colours or MAX_COLOURS
    if len(centres) > limit:
        centres, weights = _merge_down(centres, weights, limit)
    order = np.argsort(-weights, kind="stable")
    colours = np.rint(lab_to_srgb(centres[order])).astype(np.uint8)
    _, first = np.unique(colours, axis=0, return_index=True)
    return Palette(colours[np.sort(first)])


def neighbour_noise(lab: Floats, opaque: NDArray[np.bool_]) -> float:
    """Return the CIELAB noise of cells that were drawn alike, from the nearest tenth of neighbouring pairs, within 0.5..5.

    Pairs of the plain background tell little about a sprite: decoders and codecs leave flat areas almost clean.
    """
    backdrop = _backdrop(lab, opaque)
    steps = []
    for a, b in ((np.s_[:, :, 1:], np.s_[:, :, :-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        counted = opaque[a] & opaque[b] & ~(backdrop[a] & backdrop[b])
        steps.append(np.linalg.norm(lab[a][counted] - lab[b][counted], axis=-1))
    pairs = np.concatenate(steps)
    if len(pairs) == 0:
        return 0.5
    # of a sprite of a few cells, hardly any neighbours may be alike
    share = 0.1 if len(pairs) >= _PAIRS_THAT_TELL else 0.02
    return float(np.clip(1.5 * np.quantile(pairs, share), 0.5, 5.0))


def _backdrop(lab: Floats, opaque: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the cells (B, h, w) near the most frequent colour, where that covers a quarter of the pictures; none otherwise."""
    members = lab[opaque]
    codes = np.rint(members / 4).astype(np.int64) @ np.array([1 << 20, 1 << 10, 1])
    _, first, counts = np.unique(codes, return_index=True, return_counts=True)
    middle = members[first[counts.argmax()]]
    near = (np.linalg.norm(lab - middle, axis=-1) < 8.0) & opaque
    return near & (near.sum() > 0.25 * opaque.sum())


def _pool(lab: Floats, step: float) -> _Bins:
    while True:
        codes = np.floor(lab / step).astype(np.int64) + 2048
        _, of_cell, counts = np.unique(codes @ np.array([1 << 40, 1 << 20, 1]), return_inverse=True, return_counts=True)
        if len(counts) <= _MAX_BINS:
            break
        step *= 1.4
    means = np.stack([np.bincount(of_cell, lab[:, channel]) for channel in range(3)], axis=1) / counts[:, None]
    return _Bins(means.astype(np.float32), counts.astype(np.float32), of_cell)


def _squared_distances(first: Floats, second: Floats) -> Floats:
    squares = (first**2).sum(axis=1)[:, None] + (second**2).sum(axis=1) - 2 * first @ second.T
    return np.maximum(squares, 0)


def _density_clusters(bins: _Bins, noise: float) -> NDArray[np.intp]:
    """Return the cluster of each bin: bins climb to their nearest denser neighbour, and a bin without one in reach is a peak."""
    width = max(0.8, 0.8 * noise)
    reach = max(_LEAST_DISTANCE, 3.0 * noise)
    squares = _squared_distances(bins.lab, bins.lab)
    density = np.exp(-squares / (2 * width**2)) @ bins.weight
    rank = np.empty(len(density), dtype=np.intp)
    rank[np.argsort(-density, kind="stable")] = np.arange(len(density))
    squares[rank[None, :] >= rank[:, None]] = np.inf
    parent = squares.argmin(axis=1)
    peak = squares[np.arange(len(parent)), parent] > reach**2
    parent[peak] = np.flatnonzero(peak)
    while True:
        above = parent[parent]
        if (above == parent).all():
            break
        parent = above
    return np.unique(parent, return_inverse=True)[1]


def _centres(lab: Floats, labels: NDArray[np.intp]) -> tuple[Floats, NDArray[np.intp]]:
    """Return the median colour and the number of cells of each label, labels below zero left out."""
    # numpy sorts 16-bit integers by radix
    flat, members = labels.ravel().astype(np.int16), lab.reshape(-1, 3)
    order = np.argsort(flat, kind="stable")[int((flat < 0).sum()) :]
    weights = np.bincount(flat[order])
    centres = np.empty((len(weights), 3), dtype=np.float32)
    for label, stop in enumerate(np.cumsum(weights)):
        # a thousand cells fix a median well below the noise
        group = members[order[stop - weights[label] : stop : max(1, weights[label] // 1000)]]
        centres[label] = np.partition(group, len(group) // 2, axis=0)[len(group) // 2]
    return centres, weights


def _touching_pairs(lab: Floats, labels: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp], Floats]:
    """Return the labels of both cells and their colour distance for every two four-neighbours."""
    first, second, distance = [], [], []
    for a, b in ((np.s_[:, :, 1:], np.s_[:, :, :-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        both = (labels[a] >= 0) & (labels[b] >= 0) & (labels[a] != labels[b])
        first.append(labels[a][both])
        second.append(labels[b][both])
        distance.append(np.linalg.norm(lab[a][both] - lab[b][both], axis=-1))
    return np.concatenate(first), np.concatenate(second), np.concatenate(distance)


def _merge_touching(lab: Floats, labels: NDArray[np.intp], noise: float) -> tuple[NDArray[np.intp], bool]:
    """Merge clusters whose colours run into each other without a step where they touch: one colour that drifts over the picture."""
    centres, weights = _centres(lab, labels)
    count = len(centres)
    first, second, distance = _touching_pairs(lab, labels)
    low, high = np.minimum(first, second), np.maximum(first, second)
    keys, inverse, pairs = np.unique(low * count + high, return_inverse=True, return_counts=True)
    step = np.bincount(inverse, distance) / np.maximum(pairs, 1)
    low, high = keys // count, keys % count
    apart = np.linalg.norm(centres[low] - centres[high], axis=-1)
    smaller = np.minimum(weights[low], weights[high])
    drifting = (step < np.maximum(_LEAST_DISTANCE, 3.0 * noise)) | (step < 0.5 * apart)
    drifting &= (apart < np.maximum(8.0, 6.0 * noise)) & (pairs >= 0.5 * smaller)
    target = np.arange(count)
    for index in np.flatnonzero(drifting)[np.argsort(step[drifting])]:
        a, b = _root(target, int(low[index])), _root(target, int(high[index]))
        if a != b:
            big, small = (a, b) if weights[a] >= weights[b] else (b, a)
            target[small] = big
            weights[big] += weights[small]
    roots = np.array([_root(target, i) for i in range(count)])
    renamed = np.unique(roots, return_inverse=True)[1]
    return np.where(labels >= 0, renamed[labels], -1), bool(drifting.any())


def _root(target: NDArray[np.intp], index: int) -> int:
    while target[index] != index:
        index = int(target[index])
    return index


def _drop_blends(lab: Floats, labels: NDArray[np.intp], noise: float) -> NDArray[np.intp]:
    """Hand the cells of small clusters that blur, and no artist, made to the nearest other cluster.

    A cluster goes if it holds next to nothing beside a colour like it, or if most of its cells lie, in colour, between a neighbouring
    cell's colour and some other one, unless it is as compact as a drawn colour is.
    """
    centres, weights = _centres(lab, labels)
    total = int(weights.sum())
    small = weights <= max(3, round(0.01 * total))
    if small.all() or not small.any():
        return labels
    sure = np.flatnonzero(~small)
    gap = np.sqrt(_squared_distances(centres, centres[sure]).min(axis=1))
    cells = np.argwhere(small[labels] & (labels >= 0))
    of_cell = labels[tuple(cells.T)]
    colours = lab[tuple(cells.T)]
    blended = _between_neighbours(cells, colours, labels, small, centres, sure, max(2.5, 1.5 * noise))
    large = ~small[labels] & (labels >= 0)
    spread = float(np.median(np.linalg.norm(lab[large] - centres[labels[large]], axis=-1)))
    near = np.linalg.norm(colours - centres[of_cell], axis=-1) < 0.5 + 1.5 * spread
    cell_counts = np.maximum(np.bincount(of_cell, minlength=len(centres)), 1)
    blend_share = np.bincount(of_cell, blended, minlength=len(centres)) / cell_counts
    compact_share = np.bincount(of_cell, near, minlength=len(centres)) / cell_counts
    tiny = max(1.0, 0.002 * (total - int(weights.max())))
    firm = np.maximum(compact_share * weights, 1)
    dropped = small & (
        (gap < max(4.5, 6.5 * noise, 5.0 * spread) * np.sqrt(tiny / firm))
        | ((blend_share > 0.6) & ((weights <= 3) | (compact_share < 0.7)))
        | ((weights > 3) & (compact_share < 0.3))
    )
    kept = np.flatnonzero(~dropped)
    renamed = np.empty(len(centres), dtype=np.intp)
    renamed[kept] = np.arange(len(kept))
    renamed[dropped] = nearest_labels(centres[dropped], centres[kept])
    return np.where(labels >= 0, renamed[labels], -1)


def _between_neighbours(
    cells: NDArray[np.intp],
    colours: Floats,
    labels: NDArray[np.intp],
    small: NDArray[np.bool_],
    centres: Floats,
    sure: NDArray[np.intp],
    tolerance: float,
) -> NDArray[np.bool_]:
    """Return whether each cell's colour lies between that of one of its four neighbours and any sure colour, or in a halo beyond."""
    padded = np.pad(labels, ((0, 0), (1, 1), (1, 1)), constant_values=-1)
    picture, y, x = cells.T
    blended = np.zeros(len(cells), dtype=bool)
    for dy, dx in ((0, 1), (2, 1), (1, 0), (1, 2)):
        beside = padded[picture, y + dy, x + dx]
        usable = (beside >= 0) & ~small[beside]
        if not usable.any():
            continue
        start = centres[beside[usable]][:, None]
        span = centres[sure][None] - start
        offset = colours[usable][:, None] - start
        share = np.clip((offset * span).sum(axis=-1) / np.maximum((span**2).sum(axis=-1), 1e-6), 0, _HALO)
        off = np.linalg.norm(offset - share[..., None] * span, axis=-1)
        blended[usable] |= ((off < tolerance) & (share > 0.08)).any(axis=1)
    return blended


def _drop_stray_cells(lab: Floats, labels: NDArray[np.intp], noise: float) -> NDArray[np.intp]:
    """Hand clusters of up to three cells to the colour that blur made them from.

    Blur leaves in a cell a share of the mean of its neighbours, so its own colour lies beyond it, on the line from that mean.
    """
    centres, weights = _centres(lab, labels)
    tiny = weights <= _STRAY_CELLS
    known = np.flatnonzero(weights > _STRAY_CELLS)
    if len(known) == 0 or not tiny.any():
        return labels
    cells = np.argwhere(tiny[labels] & (labels >= 0))
    picture, y, x = cells.T
    padded = np.pad(lab, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    start = np.mean([padded[picture, y + dy, x + dx] for dy, dx in ((0, 1), (2, 1), (1, 0), (1, 2))], axis=0)[:, None]
    own = lab[picture, y, x][:, None]
    span = centres[known][None] - start
    share = ((own - start) * span).sum(axis=-1) / np.maximum((span**2).sum(axis=-1), 1e-6)
    off = np.linalg.norm(own - start - share[..., None] * span, axis=-1)
    beyond = np.linalg.norm(own - centres[known], axis=-1)
    made = (share > 0.6) & (share < _HALO) & (off < max(3.0, 2.0 * noise))
    source = np.where(made, beyond, np.inf).argmin(axis=1)
    of_cell = labels[picture, y, x]
    stray_share = np.bincount(of_cell, made.any(axis=1), minlength=len(centres)) / weights
    stray = tiny & (stray_share > 0.6)
    relabelled = labels.copy()
    relabelled[picture, y, x] = np.where(stray[of_cell], known[source], of_cell)
    renamed = np.cumsum(~stray) - 1
    return np.where(relabelled >= 0, renamed[relabelled], -1)


def _refined_colours(pictures: NDArray[np.floating], labels: NDArray[np.intp]) -> tuple[Floats, NDArray[np.intp]]:
    """Return the CIELAB colour and the number of cells of each label, from means that heed outliers little.

    What all cells took on from their neighbours (blur), or were pushed away from them (sharpening), is estimated and taken out.
    """
    chosen = labels >= 0
    members, of_cell = pictures[chosen].astype(np.float32), labels[chosen]
    weights = np.bincount(of_cell)
    colours = np.stack([np.bincount(of_cell, members[:, channel]) for channel in range(3)], axis=1) / weights[:, None]
    for _ in range(_REFINEMENTS):
        drawn = np.where(chosen[..., None], colours[labels], pictures).astype(np.float32)
        padded = np.pad(drawn, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
        around = padded[:, :-2, 1:-1] + padded[:, 2:, 1:-1] + padded[:, 1:-1, :-2] + padded[:, 1:-1, 2:]
        towards = (around / 4 - drawn)[chosen]
        rest = members - drawn[chosen]
        trust = 1 / np.maximum(np.abs(rest).sum(axis=1), _OUTLIER_STEP)
        taken = float((trust[:, None] * rest * towards).sum() / max((trust[:, None] * towards**2).sum(), 1e-6))
        restored = (members - taken * towards) * trust[:, None]
        total = np.bincount(of_cell, trust)
        colours = np.stack([np.bincount(of_cell, restored[:, channel]) for channel in range(3)], axis=1) / total[:, None]
    return srgb_to_lab(np.clip(colours, 0, 255)), weights


def _without_faint_shades(centres: Floats, weights: NDArray[np.intp], noise: float) -> tuple[Floats, NDArray[np.intp]]:
    """Leave out the colours of a few cells that another colour stands in for: their cells take the nearest one left."""
    kept = np.ones(len(centres), dtype=bool)
    gaps = np.sqrt(_squared_distances(centres, centres))
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
