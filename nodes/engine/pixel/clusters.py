"""Groups the cells of native pictures by the colour that they were drawn with."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .colour import Floats
from .dither import nearest_labels

# Colours nearer than this (CIELAB) are one colour to the eye.
_LEAST_DISTANCE = 2.4
_MAX_BINS = 1600
# How far, in shares of the step to a neighbour, sharpening carries a cell beyond its own colour.
_HALO = 1.4
_STRAY_CELLS = 3
_PAIRS_THAT_TELL = 120
# Least noise that is told apart from none: pictures below it are clean, and no blur made their shades.
_LEAST_NOISE = 0.5


@dataclass(frozen=True)
class _Bins:
    """Occurring colours, pooled to limit their number: `lab` (M, 3), `weight` (M), and the bin of each cell."""

    lab: Floats
    weight: Floats
    of_cell: NDArray[np.intp]


def rough_labels(lab: Floats, opaque: NDArray[np.bool_], noise: float) -> NDArray[np.intp]:
    """Return a label for each opaque cell (B, h, w), -1 for the others: the peak of colour density that its colour climbs to."""
    bins = _pool(lab[opaque], max(0.4, noise / 3))
    labels = np.full(opaque.shape, -1, dtype=np.intp)
    labels[opaque] = _density_clusters(bins, noise)[bins.of_cell]
    return labels


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
        return _LEAST_NOISE
    # of a sprite of a few cells, hardly any neighbours may be alike
    share = 0.1 if len(pairs) >= _PAIRS_THAT_TELL else 0.02
    return float(np.clip(1.5 * np.quantile(pairs, share), _LEAST_NOISE, 5.0))


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
        codes = (np.floor(lab / step).astype(np.int64) + 2048) @ np.array([1 << 40, 1 << 20, 1])
        # sorting takes most of the time, and too many bins mostly show in few cells
        if _distinct(codes[::16]) <= _MAX_BINS and _distinct(codes) <= _MAX_BINS:
            break
        step *= 1.4
    _, of_cell, counts = np.unique(codes, return_inverse=True, return_counts=True)
    means = np.stack([np.bincount(of_cell, lab[:, channel]) for channel in range(3)], axis=1) / counts[:, None]
    return _Bins(means.astype(np.float32), counts.astype(np.float32), of_cell)


def _distinct(codes: NDArray[np.int64]) -> int:
    ordered = np.sort(codes)
    return 1 + np.count_nonzero(ordered[1:] != ordered[:-1])


def squared_distances(first: Floats, second: Floats) -> Floats:
    """Return the squared distances (N, M) of colours (N, 3) and (M, 3)."""
    squares = (first**2).sum(axis=1)[:, None] + (second**2).sum(axis=1) - 2 * first @ second.T
    return np.maximum(squares, 0)


def _density_clusters(bins: _Bins, noise: float) -> NDArray[np.intp]:
    """Return the cluster of each bin: bins climb to their nearest denser neighbour, and a bin without one in reach is a peak."""
    width = max(0.8, 0.8 * noise)
    reach = max(_LEAST_DISTANCE, 3.0 * noise)
    squares = squared_distances(bins.lab, bins.lab)
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


def label_medians(lab: Floats, labels: NDArray[np.intp]) -> tuple[Floats, NDArray[np.intp]]:
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


def merge_touching(lab: Floats, labels: NDArray[np.intp], noise: float) -> NDArray[np.intp]:
    """Merge clusters whose colours run into each other without a step where they touch: one colour that drifts over the picture."""
    for _ in range(3):
        labels, merged = _merge_touching_once(lab, labels, noise)
        if not merged:
            break
    return labels


def _merge_touching_once(lab: Floats, labels: NDArray[np.intp], noise: float) -> tuple[NDArray[np.intp], bool]:
    centres, weights = label_medians(lab, labels)
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


def drop_blends(lab: Floats, labels: NDArray[np.intp], noise: float) -> NDArray[np.intp]:
    """Hand the cells of small clusters that blur, and no artist, made to the nearest other cluster.

    A cluster goes if it holds next to nothing beside a colour like it, or if most of its cells lie, in colour, between a neighbouring
    cell's colour and some other one, unless it is as compact as a drawn colour is. Along the picture's border even compact ones go:
    of cells that it cuts to a sliver, all take on alike from the outline beside them.
    """
    centres, weights = label_medians(lab, labels)
    total = int(weights.sum())
    small = weights <= max(3, round(0.01 * total))
    if small.all() or not small.any():
        return labels
    sure = np.flatnonzero(~small)
    gap = np.sqrt(squared_distances(centres, centres[sure]).min(axis=1))
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
    backdrop = _border_label(labels)
    if noise > _LEAST_NOISE and backdrop in sure:
        outermost = _on_border(labels.shape[1:])[tuple(cells[:, 1:].T)]
        mixed = _between_neighbours(cells, colours, labels, small, centres, np.array([backdrop]), max(2.5, 1.5 * noise))
        dropped |= (
            small
            & (np.bincount(of_cell, outermost, minlength=len(centres)) == cell_counts)
            & (np.bincount(of_cell, mixed, minlength=len(centres)) > 0.6 * cell_counts)
        )
    kept = np.flatnonzero(~dropped)
    renamed = np.empty(len(centres), dtype=np.intp)
    renamed[kept] = np.arange(len(kept))
    renamed[dropped] = nearest_labels(centres[dropped], centres[kept])
    return np.where(labels >= 0, renamed[labels], -1)


def _on_border(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    border = np.ones(shape, dtype=bool)
    border[1:-1, 1:-1] = False
    return border


def _border_label(labels: NDArray[np.intp]) -> int:
    """Return the most frequent label of the border of pictures (B, h, w)."""
    border = labels[:, _on_border(labels.shape[1:])]
    return int(np.bincount(border[border >= 0], minlength=1).argmax())


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


def drop_stray_cells(lab: Floats, labels: NDArray[np.intp], noise: float) -> NDArray[np.intp]:
    """Hand clusters of up to three cells to the colour that blur made them from.

    Blur leaves in a cell a share of the mean of its neighbours, so its own colour lies beyond it, on the line from that mean.
    """
    centres, weights = label_medians(lab, labels)
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
