"""Where a drawing changes colour: profiles of edge votes along both axes."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .colour import Floats

# Px on both sides of a step that are compared, and inner part of a cell that is averaged, as shares of the cell.
_CELL_REACH = 0.2
_CELL_CORE = 0.7
# Steps count from three times the usual one of their strip, and by no more than ten times it beyond that.
_LEAST_RATIO = 3.0
_MOST_RATIO = 10.0
_LEAST_FLOOR = 5.0


@dataclass(frozen=True)
class Strips:
    """Means over short runs of px of a picture (H, W, 3): `across` of rows (N, W, 3), `down` of columns (M, H, 3)."""

    across: Floats
    down: Floats


def picture_strips(picture: NDArray[np.floating]) -> Strips:
    """Return the strips of a picture (H, W, 3), sRGB 0..255."""
    return Strips(_strips(picture), _strips(picture.swapaxes(0, 1)))


def edge_profiles(strips: Strips) -> tuple[Floats, Floats]:
    """Return edge votes of a picture's strips: W + 1 for borders between columns, H + 1 for borders between rows.

    Place x stands for the border left of px x.
    """
    return _profile(strips.across), _profile(strips.down)


def _strips(picture: NDArray[np.floating]) -> Floats:
    """Return means over short runs of rows, i.e. along the edges between columns: less noise, and less work."""
    across = len(picture)
    run = 4 if across >= 512 else 2 if across >= 128 else 1
    total = picture[: across // run * run : run].astype(np.float32)
    for offset in range(1, run):
        total += picture[offset : across // run * run : run]
    total /= run
    return np.ascontiguousarray(total)


def cell_votes(strips: Strips, columns: Floats, rows: Floats, pitch: float) -> tuple[Floats, Floats]:
    """Return edge votes as `edge_profiles` does, of one strip along each row (column) of cells between known lines.

    Such strips do not straddle other cells and have less noise. A vote weighs by how far its step stands out of the noise.
    """
    reach = int(np.clip(round(_CELL_REACH * pitch), 1, 6))
    height, width = strips.down.shape[1], strips.across.shape[1]
    return (
        _weighed_votes(_cell_strips(strips.across, rows, height), reach),
        _weighed_votes(_cell_strips(strips.down, columns, width), reach),
    )


def _cell_strips(strips: Floats, lines: Floats, across: int) -> Floats:
    """Return means of runs of px over the inner part of the cells between `lines`, (cells, length, 3)."""
    run = across // len(strips)
    middle, half = (lines[1:] + lines[:-1]) / 2, _CELL_CORE / 2 * np.diff(lines)
    place = run * np.arange(len(strips))
    shared = np.minimum((middle + half)[:, None], place + run) - np.maximum((middle - half)[:, None], place)
    shared = np.maximum(shared, 0)
    shared = shared[shared.sum(axis=1) > 0]
    shared /= shared.sum(axis=1, keepdims=True)
    return (shared.astype(np.float32) @ strips.reshape(len(strips), -1)).reshape(len(shared), *strips.shape[1:])


def _weighed_votes(strips: Floats, reach: int) -> Floats:
    strength = _step_strength(strips, reach)
    floor = np.maximum(np.median(strength[:, ::2], axis=1, keepdims=True), _LEAST_FLOOR)
    floor = np.minimum(floor, 1.5 * np.median(floor))
    ratio = strength / floor - _LEAST_RATIO
    votes = np.zeros_like(strength)
    votes[:, 1:-1] = np.where(_peaks(strength), np.clip(ratio[:, 1:-1], 0, _MOST_RATIO), 0)
    return votes.sum(axis=0)


def _peaks(strength: Floats) -> NDArray[np.bool_]:
    return (strength[:, 1:-1] >= strength[:, :-2]) & (strength[:, 1:-1] > strength[:, 2:])


def _profile(strips: Floats) -> Floats:
    length = strips.shape[1]
    # Difference of the means of `reach` px on both sides; the peak of a blurred step stays where the step was.
    reach = 2 if length >= 128 else 1
    strength = _step_strength(strips, reach)
    # neighbouring places share their samples, so every other one tells as much
    floor = np.median(strength[:, ::2], axis=1, keepdims=True)
    peak = np.zeros_like(strength, dtype=bool)
    peak[:, 1:-1] = _peaks(strength)
    threshold = np.maximum(4.0 * floor, 10.0)
    excess = np.where(peak & (strength > threshold), strength - floor, 0)
    # A black outline is one edge like any other: it must not outvote the rest. Nor may noise, which has the many weak peaks.
    found = excess[excess > 0]
    cap = max(2.5 * float(np.median(threshold)), float(np.percentile(found, 40))) if len(found) else 1.0
    votes = np.minimum(excess, cap).sum(axis=0) / (cap * len(strips))
    return np.maximum(votes - np.quantile(votes, 0.25), 0).astype(np.float32)


def _step_strength(strips: Floats, reach: int) -> Floats:
    rows, length, _ = strips.shape
    sums = strips[:, : strips.shape[1] - reach + 1]
    for shift in range(1, reach):
        sums = sums + strips[:, shift : strips.shape[1] - reach + 1 + shift]
    step = np.abs(sums[:, reach:] - sums[:, :-reach])
    strength = np.zeros((rows, length + 1), dtype=np.float32)
    strength[:, reach:-reach] = (step[..., 0] + step[..., 1] + step[..., 2]) / reach
    return strength
