"""Follows the lines of the grid along one axis by dynamic programming."""

import numpy as np
from numpy.typing import NDArray

from .colour import Floats

# Allowed share by which one cell may differ from the pitch, and the price of doing so.
_SLACK = 0.3
_STIFFNESS = 6.0
# Lines are settled on votes blurred by this share of the pitch, within this share of it; prices of leaving the place and the pitch.
_SETTLE_BLUR = 0.06
_SETTLE_REACH = 0.45
_SETTLE_HOLD = 5.0
_SETTLE_STIFFNESS = 20.0
# Narrowest cell between settled lines, as a share of the pitch.
_LEAST_CELL = 0.3
# Evidence from which a line counts as seen.
SURE = 0.4


def line_evidence(votes: Floats, pitch: float) -> Floats:
    """Return the votes as evidence in 0..1 for a line at each position, blurred by a twentieth of the pitch and saturated."""
    sigma = max(0.5, 0.05 * pitch)
    reach = int(np.ceil(3 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    smooth = np.convolve(votes, kernel / kernel.max(), mode="same")
    peaks = smooth[1:-1][(smooth[1:-1] >= smooth[:-2]) & (smooth[1:-1] > smooth[2:])]
    if len(peaks) == 0:
        return np.zeros_like(votes)
    # the typical line weighs by its height: where a sprite is small, most peaks are noise
    reference = max(0.7 * float((peaks**2).sum() / max(peaks.sum(), 1e-9)), 1e-6)
    # what noise votes for everywhere is no evidence, and would favour more lines
    smooth = np.maximum(smooth - np.median(smooth), 0)
    return (smooth / (smooth + 0.25 * reference)).astype(np.float32)


def track_lines(evidence: Floats, pitch: float) -> list[NDArray[np.intp]]:
    """Return, for each row of evidence (R, L), increasing positions spaced near `pitch` that pass through the most evidence.

    Blocks of positions shorter than the smallest spacing depend on earlier blocks alone, so each is one array operation.
    """
    rows, size = evidence.shape
    low, high = max(1, int(np.floor(pitch * (1 - _SLACK)))), max(2, int(np.ceil(pitch * (1 + _SLACK))))
    spacing = np.arange(low, high + 1)
    price = (_STIFFNESS * ((spacing - pitch) / pitch) ** 2).astype(np.float32)
    # `high` guard places before position 0 let a chain begin anywhere in the first cell
    best = np.concatenate([np.full((rows, high), -1e9, dtype=np.float32), evidence], axis=1)
    step = np.zeros((rows, size), dtype=np.intp)
    free_until = int(np.ceil(pitch))
    for start in range(0, size, low):
        stop = min(start + low, size)
        reached = best[:, high + np.arange(start, stop)[:, None] - spacing] - price
        choice = reached.argmax(axis=2)
        gain = np.take_along_axis(reached, choice[..., None], axis=2)[..., 0]
        step[:, start:stop] = spacing[choice]
        if start < free_until:
            begins = (np.arange(start, stop) < free_until) & (gain < 0)
            gain = np.where(begins, 0, gain)
            step[:, start:stop] = np.where(begins, 0, step[:, start:stop])
        best[:, high + start : high + stop] = evidence[:, start:stop] + gain
    tail = max(0, size - free_until)
    chains = []
    for row in range(rows):
        at = tail + int(best[row, high + tail :].argmax())
        chain = [at]
        while step[row, at] > 0:
            at -= int(step[row, at])
            chain.append(at)
        chains.append(np.array(chain[::-1]))
    return chains


def refine_pitch(lines: NDArray[np.intp], evidence: Floats, pitch: float) -> tuple[float, float]:
    """Return the pitch that the evidenced lines agree on and their weight: neighbours first, then least squares on whole indices."""
    weight = evidence[lines]
    sure = weight > SURE
    if sure.sum() < 4:
        return pitch, 0.0
    position, w = lines[sure].astype(np.float64), weight[sure].astype(np.float64)
    certainty = 0.0
    for _ in range(2):
        index = np.concatenate([[0], np.cumsum(np.maximum(1, np.rint(np.diff(position) / pitch)))])
        centred = index - np.average(index, weights=w)
        certainty = float((w * centred**2).sum())
        pitch = float((w * centred * (position - np.average(position, weights=w))).sum() / certainty)
    return pitch, certainty


def place_lines(sure: NDArray[np.intp], evidence: Floats, pitch: float, count: int, *, whole: bool = False) -> Floats:
    """Return `count` + 1 line positions: seen lines stay, gaps are divided evenly, the ends go on at `pitch`.

    Of more lines than `count` + 1, those whose cells show most are kept. With `whole`, a number of cells that misses `count` by more
    than two is stretched to it between the borders of the picture; otherwise cells at the ends are added or dropped.
    """
    size = len(evidence) - 1
    if len(sure) == 0:
        return np.linspace(0, size, count + 1, dtype=np.float32)
    positions = centred_lines(sure, evidence, pitch)
    gaps = np.maximum(1, np.rint(np.diff(positions) / pitch)).astype(int)
    inside = gaps.sum() + positions[0] / pitch + (size - positions[-1]) / pitch
    if whole and abs(inside - count) > 2.2:
        inner = positions[(positions > 0.4 * pitch) & (positions < size - 0.4 * pitch)]
        positions = np.concatenate([[0.0], inner, [float(size)]])
        gaps = _match_count(np.diff(positions), np.maximum(1, np.rint(np.diff(positions) / pitch)).astype(int), count)
        if gaps is None:
            return np.linspace(0, size, count + 1, dtype=np.float32)
    index = np.concatenate([[0], np.cumsum(gaps)])
    lines = np.interp(np.arange(index[-1] + 1), index, positions)
    return continue_lines(lines, pitch, count, size)


def continue_lines(lines: NDArray[np.floating], pitch: float, count: int, size: int) -> Floats:
    """Return `count` + 1 lines: the given ones, gone on with at `pitch` where too few, and else those whose cells show most."""
    before = max(int(np.ceil(lines[0] / pitch)), count - len(lines) + 2, 0)
    after = max(int(np.ceil((size - lines[-1]) / pitch)), count - len(lines) + 2, 0)
    lines = np.concatenate([lines[0] - pitch * np.arange(before, 0, -1), lines, lines[-1] + pitch * np.arange(1, after + 1)])
    shown = np.minimum(lines[count:], size) - np.maximum(lines[: len(lines) - count], 0)
    # of windows that show as much, the most central one
    middle = np.abs(lines[count:] + lines[: len(lines) - count] - size)
    first = int(np.argmax(shown - 1e-3 * middle))
    return lines[first : first + count + 1].astype(np.float32)


def centred_lines(lines: NDArray[np.intp], evidence: Floats, pitch: float) -> NDArray[np.float64]:
    """Return whole-px lines moved to the centre of the evidence around them."""
    reach = max(1, int(0.12 * pitch))
    offsets = np.arange(-reach, reach + 1)
    around = np.clip(lines[:, None] + offsets, 0, len(evidence) - 1)
    weight = evidence[around] ** 2
    return lines + (weight * offsets).sum(axis=1) / np.maximum(weight.sum(axis=1), 1e-6)


def _match_count(widths: NDArray[np.float64], gaps: NDArray[np.intp], count: int) -> NDArray[np.intp] | None:
    """Change the numbers of cells in the gaps to sum up to `count`, where that stretches cells least; None if it cannot be."""
    gaps = gaps.copy()
    while gaps.sum() != count:
        change = 1 if gaps.sum() < count else -1
        changed = gaps + change
        # how far from the even pitch a cell would be after the change
        cost = np.where(changed > 0, np.abs(np.log(widths / np.maximum(changed, 1) * count / widths.sum())), np.inf)
        at = int(cost.argmin())
        if not np.isfinite(cost[at]):
            return None
        gaps[at] = changed[at]
    return gaps


def settle_evidence(votes: Floats, pitch: float) -> Floats:
    """Return votes of whole cells blurred by what their places scatter, less what there is of them everywhere."""
    sigma = max(0.5, _SETTLE_BLUR * pitch)
    reach = int(np.ceil(3 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    smooth = np.convolve(votes, kernel)[reach : reach + len(votes)]
    return np.maximum(smooth - np.median(smooth), 0).astype(np.float32)


def settle_lines(lines: Floats, votes: Floats, pitch: float) -> Floats:
    """Move placed lines, each by less than half a cell, to where votes of whole cells and even spacing agree best.

    `votes` add up likelihoods, so a step that only one cell shows can move its line, and a narrow cell between two clear lines
    may stay one.
    """
    evidence = settle_evidence(votes, pitch)
    reach = max(1, round(_SETTLE_REACH * pitch))
    offsets = np.arange(-reach, reach + 1)
    places = np.rint(lines).astype(np.intp)[:, None] + offsets
    inside = (places >= 0) & (places < len(votes))
    gain = np.where(inside, evidence[np.clip(places, 0, len(votes) - 1)], 0) - _SETTLE_HOLD * (offsets / pitch) ** 2
    best, steps = gain[0], []
    for index in range(1, len(lines)):
        spacing = (places[index][:, None] - places[index - 1]) / pitch
        reached = best - _SETTLE_STIFFNESS * (spacing - 1) ** 2 - np.where(spacing < _LEAST_CELL, np.inf, 0)
        steps.append(reached.argmax(axis=1))
        best = gain[index] + reached.max(axis=1)
    chain = [int(best.argmax())]
    for step in reversed(steps):
        chain.append(int(step[chain[-1]]))
    settled = places[np.arange(len(lines)), chain[::-1]]
    return centred_lines(settled, evidence, pitch).astype(np.float32)
