"""Takes out of the cells what drawing and decoding added to them: colour of their neighbours, and a drift of colour over the picture."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .clusters import label_medians
from .colour import Floats

# Residual, summed over the channels in 8-bit steps, from which a cell counts less.
_OUTLIER_STEP = 6.0
# Colours and shares follow each other slowly to where both fit; longer steps get there sooner.
_STRIDE = 2.0
# Standard deviation of the share that a cell takes on from a neighbour, over the lines of a picture.
_LINE_SPREAD = 0.04
# The drift is found on blocks of a sixteenth of a side and holds together over a tenth of a side.
_BLOCKS = 16
_DRIFT_REACH = 0.1
# Standard deviation, in 8-bit steps, that is left alone, and the most that is taken for drift rather than for drawn shades.
_DRIFT_RANGE = (0.25, 3.0)
# Variance below which pictures count as clean.
_LEAST_NOISE = 1e-3
# Share of a colour's cells at a limit of sRGB from which on the colour lies there.
_AT_LIMIT = 0.4


@dataclass(frozen=True)
class Restored:
    """What labelled cells were drawn with: `colours` (K, 3) and `weights` (K) of the labels, and the cells (B, h, w, 3) cleaned by it.

    `drift` (B, h, w, 3) is the part of the difference that varies slowly over the picture. All in sRGB 0..255. `shares` of the steps
    to the left, right, upper and lower neighbours are what cells took on from those: one for each column or row of each picture.
    """

    colours: Floats
    weights: NDArray[np.intp]
    cells: Floats
    drift: Floats
    shares: list[Floats]


def restore_cells(
    pictures: NDArray[np.floating], labels: NDArray[np.intp], rounds: int, start: Restored | None = None
) -> Restored:
    """Estimate the colours of labels (B, h, w; below zero left out) and clean the cells of `pictures` (B, h, w, 3).

    A cell is its label's colour, plus a share of the step to its four neighbours (blur; sharpening, where negative), plus drift, plus
    noise. Colours are means that heed outliers little. `start` is what was found with rougher labels.
    """
    chosen = labels >= 0
    picture, y, x = np.nonzero(chosen)
    of_cell = labels[chosen]
    seen = pictures.astype(np.float32)
    drifted, shares = (np.zeros_like(seen), []) if start is None else (start.drift, start.shares)
    weights = np.bincount(of_cell)
    colours = label_medians(seen - drifted, labels)[0].astype(np.float64)
    added, trust = np.zeros_like(seen), chosen.astype(np.float32)
    for _ in range(rounds):
        drawn = np.where(chosen[..., None], colours[labels], seen).astype(np.float32)
        added, shares = _taken_from_neighbours(drawn, seen - drifted - drawn, trust, shares)
        rest = np.abs(seen - drifted - drawn - added).sum(axis=-1)
        trust = chosen * (_OUTLIER_STEP / np.maximum(rest, _OUTLIER_STEP))
        means = _label_sums(((seen - drifted - added) * trust[..., None])[chosen], of_cell, len(weights))
        means /= np.bincount(of_cell, trust[chosen])[:, None]
        colours = colours + _STRIDE * (means - colours)
    height, width = labels.shape[1:]
    rows, columns = min(_BLOCKS, height), min(_BLOCKS, width)
    block = (picture * rows + y * rows // height) * columns + x * columns // width
    unmixed = seen - added
    found = _colours_and_drift(unmixed[chosen], of_cell, block, trust[chosen], colours, (len(pictures), rows, columns))
    if found is not None:
        colours, block_drift = found
        drifted = np.zeros_like(seen)
        drifted[chosen] = block_drift[block]
    for limit in (0.0, 255.0):
        at_limit = _label_sums(np.abs(seen[chosen] - limit) < 0.5, of_cell, len(weights)) > _AT_LIMIT * weights[:, None]
        colours = np.where(at_limit, limit, colours)
    return Restored(np.clip(colours, 0, 255).astype(np.float32), weights, unmixed - drifted, drifted, shares)


def _taken_from_neighbours(drawn: Floats, rest: Floats, trust: Floats, shares: list[Floats]) -> tuple[Floats, list[Floats]]:
    """Return what cells of colours `drawn` (B, h, w, 3) took on from their four neighbours, given what they differ by, and the shares.

    The share is one for all cells of a column (row) and side: blur is the same everywhere, but a misplaced line lets the whole column
    take from one side. What little a line tells is drawn towards the mean of all.
    """
    steps = []
    for axis in (2, 1):
        step = np.diff(drawn, axis=axis)
        steps += [(axis, _at_side(-step, axis, 1)), (axis, _at_side(step, axis, 0))]
    trusted = trust[..., None]
    around = sum(step for _, step in steps)
    weighted = trusted * around
    usual = float(np.vdot(weighted, rest)) / max(float(np.vdot(weighted, around)), 1e-6)
    noise = max(float(np.vdot(trusted * rest, rest) / (3 * trust.sum())), _LEAST_NOISE)
    shares = shares or [np.full((1, 1, 1, 1), usual, dtype=np.float32)] * 4
    added = np.zeros_like(drawn)
    for share, (_, step) in zip(shares, steps, strict=True):
        added += share * step
    found = []
    for share, (axis, step) in zip(shares, steps, strict=True):
        line_sums = "byxc,byxc->bx" if axis == 2 else "byxc,byxc->by"
        weighted = step * trusted
        pulled, mass = (np.expand_dims(np.einsum(line_sums, weighted, other), (3 - axis, 3)) for other in (rest - added, step))
        stiffness = noise / _LINE_SPREAD**2
        found.append((pulled + mass * share + stiffness * usual) / (mass + stiffness))
        added += (found[-1] - share) * step
    return added, found


def _at_side(step: Floats, axis: int, before: int) -> Floats:
    """Return steps between cells (one fewer than cells along `axis`) at the cells behind (`before` 1) or ahead of them."""
    widths = [(0, 0)] * 4
    widths[axis] = (before, 1 - before)
    return np.pad(step, widths)


def _label_sums(values: NDArray[np.generic], labels: NDArray[np.intp], count: int) -> NDArray[np.float64]:
    return np.stack([np.bincount(labels, values[:, channel], count) for channel in range(3)], axis=1).astype(np.float64)


def _colours_and_drift(
    unmixed: Floats,
    of_cell: NDArray[np.intp],
    block: NDArray[np.intp],
    trust: Floats,
    colours: NDArray[np.floating],
    shape: tuple[int, int, int],
) -> tuple[NDArray[np.float64], Floats] | None:
    """Solve for the colours (K, 3) and the drift of each block (pictures * rows * columns, 3) at once; None without drift.

    Least squares with the drift as a Gaussian process over the blocks of each picture. Its variance is what the means of blocks vary
    beyond their noise.
    """
    pictures, rows, columns = shape
    blocks, count = pictures * rows * columns, len(colours)
    rest = unmixed - colours[of_cell]
    noise = float((trust[:, None] * rest**2).sum() / (3 * trust.sum()))
    mass = np.bincount(block, trust, blocks)
    pull = _label_sums(rest * trust[:, None], block, blocks)
    own = 3 * noise * np.bincount(block, trust**2, blocks).sum()
    variance = float(((pull**2).sum() - own) / (3 * (mass**2).sum()))
    low, high = _DRIFT_RANGE
    if variance < low**2:
        return None
    prior = min(variance, high**2) / max(noise, _LEAST_NOISE) * np.kron(_nearness(rows), _nearness(columns))
    seen = np.bincount(block * count + of_cell, trust, blocks * count).reshape(pictures, -1, count)
    # colours move by `step`, the drift is spare - share @ step
    normal = np.diag(np.bincount(of_cell, trust, count))
    target = _label_sums(rest * trust[:, None], of_cell, count)
    solved = []
    for index in range(pictures):
        part = slice(index * rows * columns, (index + 1) * rows * columns)
        both = np.concatenate([pull[part], seen[index]], axis=1)
        both = prior @ np.linalg.solve(np.eye(rows * columns) + mass[part, None] * prior, both)
        spare, share = both[:, :3], both[:, 3:]
        normal -= seen[index].T @ share
        target -= seen[index].T @ spare
        solved.append((spare, share))
    step = np.linalg.solve(normal + 1e-6 * np.eye(count), target)
    return colours + step, np.concatenate([spare - share @ step for spare, share in solved]).astype(np.float32)


def _nearness(count: int) -> NDArray[np.float64]:
    """Return how alike the drift of blocks along one axis is, (count, count)."""
    place = (np.arange(count) + 0.5) / count
    return np.exp(-0.5 * ((place[:, None] - place) / _DRIFT_REACH) ** 2) + 1e-4 * np.eye(count)
