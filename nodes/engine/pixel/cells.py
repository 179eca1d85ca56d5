"""Samples one colour per cell of a placed grid."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .colour import Floats

# Standard deviation of a channel's noise for a mean spread of 1, which is summed over three channels. Of normal noise that would be
# 0.42; decoders and codecs smooth the noise after it was cut off at black and white, and it went with twice as much.
_NOISE_FOR_SPREAD = 0.6
_LEAST_NOISE = 0.2


@dataclass(frozen=True)
class CellLines:
    """Positions, in px of the drawing, of one picture's lines: width + 1 columns and height + 1 rows."""

    columns: Floats
    rows: Floats


def even_lines(height: int, width: int, rows: int, columns: int) -> CellLines:
    """Return the lines of cells of one size in a picture of `height` and `width` px."""
    return CellLines(np.linspace(0, width, columns + 1, dtype=np.float32), np.linspace(0, height, rows + 1, dtype=np.float32))


def taps_between(lines: Floats, count: int, share: float, limit: int) -> NDArray[np.intp]:
    """Return `count` px positions spread over the central `share` of each interval, shape (intervals, count)."""
    # of cells that the picture's border cuts, what is inside
    lines = np.clip(lines, 0, limit)
    start, width = lines[:-1, None], np.diff(lines)[:, None]
    places = 0.5 + share * ((np.arange(count) + 0.5) / count - 0.5)
    return np.clip((start + width * places).astype(np.intp), 0, limit - 1)


def gather_taps(picture: NDArray[np.floating], lines: CellLines, count: int, share: float) -> Floats:
    """Return the taps of all cells, shape (count * count, rows, columns, 3)."""
    height, width = picture.shape[:2]
    y, x = taps_between(lines.rows, count, share, height), taps_between(lines.columns, count, share, width)
    rows, columns = len(y), len(x)
    taken = picture[y.T.ravel()][:, x.T.ravel()].reshape(count, rows, count, columns, 3)
    return taken.transpose(0, 2, 1, 3, 4).reshape(count * count, rows, columns, 3)


def central_taps(picture: NDArray[np.floating], lines: CellLines) -> Floats:
    """Return nine taps of the central part of each cell, shape (9, rows, columns, 3)."""
    return gather_taps(picture, lines, 3, 0.6)


def tap_deviation(taps: Floats) -> Floats:
    """Return the mean absolute deviation of each cell's taps (N, rows, columns, 3), summed over the channels."""
    return np.abs(taps - taps.mean(axis=0)).mean(axis=0).sum(axis=-1)


def sample_cells(picture: NDArray[np.floating], lines: CellLines, pitch: float) -> Floats:
    """Return the colour of each cell (h, w, 3): the mean of the half of its taps nearest to their median."""
    count = int(np.clip(pitch // 2, 4, 8)) if pitch >= 6 else 3 if pitch >= 3 else 1
    taps = gather_taps(picture, lines, count, 0.5)
    middle = np.partition(taps, len(taps) // 2, axis=0)[len(taps) // 2]
    distance = np.abs(taps - middle).sum(axis=-1)
    near = distance <= np.partition(distance, len(taps) // 2, axis=0)[len(taps) // 2]
    cells = (taps * near[..., None]).sum(axis=0) / near.sum(axis=0)[..., None]
    return _before_clipping(cells.astype(np.float32), _NOISE_FOR_SPREAD * float(np.median(distance.mean(axis=0))))


def _before_clipping(cells: Floats, noise: float) -> Floats:
    """Return the means (h, w, 3) that cells had before values below 0 and above 255 were cut off, given the noise of single px.

    Clipping lifts the mean of black px by 0.4 of the noise's standard deviation, and lowers that of white px.
    """
    if noise < _LEAST_NOISE:
        return cells
    # mean of max(x, 0) for normal x: https://en.wikipedia.org/wiki/Rectified_Gaussian_distribution
    drawn = np.linspace(0, 3 * noise, 32)
    share = np.array([0.5 * (1 + math.erf(place / noise / math.sqrt(2))) for place in drawn])
    seen = drawn * share + noise / math.sqrt(2 * math.pi) * np.exp(-0.5 * (drawn / noise) ** 2)
    lifted = np.interp(cells, seen, drawn - seen, right=0.0)
    lowered = np.interp(255 - cells, seen, drawn - seen, right=0.0)
    return np.clip(cells + lifted - lowered, 0, 255).astype(np.float32)
