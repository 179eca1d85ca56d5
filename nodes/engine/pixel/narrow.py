"""Takes out of narrow cells, and of those that the picture's border cuts, what they took on more of their neighbours than others."""

import numpy as np
from numpy.typing import NDArray

from .cells import CellLines, central_taps, tap_deviation, taps_between
from .colour import Floats

# Smaller cells have too few px of their own to tell blur from noise.
_LEAST_PITCH_PX = 6.0
# Deviation of the samples within a usual cell, summed over the channels, below which a drawing is clean: nothing was blurred.
_LEAST_DEVIATION = 0.2
# Cells, as a share of the pitch, that are wide enough to show their own colour: steps between those show the blur.
_WIDE = 0.8
# Places on each side of a step at which it is looked at, half a cell in all, and rows of cells at most that show it.
_PLACES = 5
_MOST_ROWS = 64
# Inner part of a cell that `sample_cells` takes, and samples across it.
_SAMPLED = 0.5
_TAPS = 4
# Share of itself that a cell holds, against one at even spacing: from the upper one on it is like the others, up to the lower one
# it holds too little to be told from noise.
_OWN_SHARE = (0.3, 0.95)
# Noise against what a cell takes on.
_RIDGE = 0.1
# 8-bit steps beyond black and white that noise explains; a solution further out is wrong.
_BEYOND_RANGE = 8.0


def unmix_narrow_cells(picture: NDArray[np.floating], lines: CellLines, cells: Floats, pitch: float) -> Floats:
    """Return cells (h, w, 3) of a picture (H, W, 3), those that hold little of themselves as they would be at even spacing.

    How a step between two colours looks is measured between wide cells. It tells what share of every cell each sample holds, along
    rows and columns alike, and the shares are solved for. Clean drawings, and cells as wide as others, stay as they are.
    """
    if pitch < _LEAST_PITCH_PX or float(np.median(tap_deviation(central_taps(picture, lines)))) < _LEAST_DEVIATION:
        return cells
    half = (np.arange(_PLACES) + 0.5) * max(1.0, pitch / (2 * _PLACES))
    offsets = np.concatenate([-half[::-1], half])
    turned, turned_cells = picture.swapaxes(0, 1), cells.swapaxes(0, 1)
    across_columns, column_mass = _seen_steps(picture, lines.columns, lines.rows, cells, pitch, offsets)
    across_rows, row_mass = _seen_steps(turned, lines.rows, lines.columns, turned_cells, pitch, offsets)
    mass = column_mass + row_mass
    if mass == 0:
        return cells
    response = (across_columns + across_rows) / mass
    response = (response + 1 - response[::-1]) / 2
    height, width = picture.shape[:2]
    unmixed = _unmixed(turned_cells, np.clip(lines.columns, 0, width), pitch, offsets, response)
    return _unmixed(unmixed.swapaxes(0, 1), np.clip(lines.rows, 0, height), pitch, offsets, response)


def _seen_steps(
    picture: NDArray[np.floating], along: Floats, across: Floats, cells: Floats, pitch: float, offsets: NDArray[np.floating]
) -> tuple[NDArray[np.floating], float]:
    """Return, summed over the lines `along` between wide cells, how much of a step shows at each offset from its line, and the whole."""
    size = picture.shape[1]
    wide = (np.diff(along) > _WIDE * pitch) & (along[:-1] >= 0) & (along[1:] <= size)
    at = np.flatnonzero(wide[1:] & wide[:-1]) + 1
    rows = slice(None, None, -(-len(cells) // _MOST_ROWS))
    y = taps_between(across, _TAPS, _SAMPLED, len(picture))[rows]
    x = np.clip((along[at, None] + offsets).astype(np.intp), 0, size - 1)
    before = cells[rows, at - 1]
    step = cells[rows, at] - before
    risen = picture[y[:, :, None, None], x].mean(axis=1) - before[:, :, None]
    return np.einsum("rlc,rldc->d", step, risen), float((step**2).sum())


def _unmixed(cells: Floats, lines: Floats, pitch: float, offsets: NDArray[np.floating], response: NDArray[np.floating]) -> Floats:
    """Return cells (n, m, 3) between lines (n + 1) along the first axis, those that hold little of themselves solved for."""
    count = len(cells)
    mixed = _shares(lines, offsets, response)
    even = _shares(np.arange(count + 1) * pitch, offsets, response)
    own, usual = np.diag(mixed), np.diag(even)
    at = np.flatnonzero((own > _OWN_SHARE[0] * usual) & (own < _OWN_SHARE[1] * usual))
    if len(at) == 0:
        return cells
    ridge = _RIDGE * np.eye(count)
    change = even[at] @ np.linalg.solve(mixed.T @ mixed + ridge, mixed.T + ridge)
    solved = np.tensordot(change.astype(np.float32), cells, axes=(1, 0))
    possible = (np.abs(solved - 127.5) < 127.5 + _BEYOND_RANGE).all(axis=-1, keepdims=True)
    result = cells.copy()
    result[at] = np.where(possible, np.clip(solved, 0, 255), cells[at])
    return result


def _shares(lines: NDArray[np.floating], offsets: NDArray[np.floating], response: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the share (n, n) of every cell that the sample of each (row) holds, given what a step shows at offsets from its line."""
    places = 0.5 + _SAMPLED * ((np.arange(_TAPS) + 0.5) / _TAPS - 0.5)
    taps = lines[:-1, None] + np.diff(lines)[:, None] * places
    risen = np.interp(taps[:, :, None] - lines[1:-1], offsets, response, left=0, right=1).mean(axis=1)
    return -np.diff(risen, axis=1, prepend=1, append=0)
