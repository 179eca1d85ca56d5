"""Follows the lines of a grid, how many there are included, through votes of whole cells."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .colour import Floats
from .lines import centred_lines, settle_evidence

# Places are counted in twelfths of the pitch. A line strays from the even grid by up to five of them, and the even grid's own spacing
# from the pitch by up to three.
_UNITS = 12
_STRAY = 5
_BEND = 3
# Standard deviations of both, and the narrowest cell, as shares of the pitch.
_STRAY_SHARE = 0.13
_BEND_SHARE = 0.04
_LEAST_CELL = 0.4
# Most that one line gains, however many cells show it: the lines beside it are to count too.
_MOST_GAIN = 30.0
# Votes of one cell that changes its colour, and pitches to both sides over which the changes of a usual line are counted.
_CELL_VOTES = 10.0
_AROUND = 2.5
# Share of lines that no cell shows where those beside them are shown by n cells each: (1 + n) to this power, and no less than the other
# share. Counted in hand-drawn art: one line in 9 for n = 1.1, in 20 for 2.3, in 35 for 4, and in 45 to 100 for more.
_PLAIN_POWER = -3.0
_LEAST_PLAIN = 0.02
# Gain from which a line counts as seen, and from which it pays nothing: one cell that clearly changes shows it.
_SEEN = 1.0
_SURE_GAIN = 6.0
# Gain of the outermost lines, as a share of the usual one: noise shows some beyond the drawing.
_OUTERMOST_SHARE = 0.25
_SAMPLES = 4


@dataclass(frozen=True)
class Chain:
    """Consecutive lines along one axis: `lines` in px, which of them are `seen` rather than at even spacing, and how well they fit."""

    lines: Floats
    seen: NDArray[np.bool_]
    fit: float

    def pitch(self) -> tuple[float, float]:
        """Return the pitch of the seen lines by least squares, and its weight."""
        index = np.flatnonzero(self.seen)
        if len(index) < 4:
            return 1.0, 0.0
        centred = index - index.mean()
        certainty = float((centred**2).sum())
        return float((centred * self.lines[index]).sum()) / certainty, certainty


def follow_chains(votes: list[Floats], pitch: float, factors: tuple[float, ...] = (1.0,)) -> list[list[Chain]]:
    """Return, for each factor of the pitch, the chains that explain each of the votes (`edges.cell_votes`) best.

    Hidden Markov model by dynamic programming: an even grid whose spacing changes slowly, and lines that stray from it, each by itself.
    A line gains by the cells that change colour at it and pays, where lines on both sides show, for showing in none: a wide cell is no
    two narrow ones.
    """
    gains = [_gains(part, pitch) for part in votes]
    rows = [(part, factor) for factor in factors for part in gains]
    lengths = [int((len(part[0]) - 1) / (pitch * factor) * _UNITS) + 2 for part, factor in rows]
    shaped = np.zeros((len(rows), max(lengths) + 2 * _STRAY), dtype=np.float32)
    shown = np.zeros_like(shaped)
    for row, ((part, factor), length) in enumerate(zip(rows, lengths, strict=True)):
        place = slice(_STRAY, _STRAY + length)
        shown[row, place], price = _in_units(part, pitch * factor / _UNITS, length)
        shaped[row, place] = shown[row, place] - price * np.maximum(1 - shown[row, place] / _SURE_GAIN, 0)
    chains = []
    for row, (even, strayed, fit) in enumerate(_best_traces(shaped, lengths)):
        (evidence, _), factor = rows[row]
        seen = _within_drawing(shown[row, even + strayed + _STRAY])
        lines = np.where(seen, even + strayed, even) * (pitch * factor / _UNITS)
        at_votes = centred_lines(np.rint(lines).astype(np.intp), evidence, pitch)
        chains.append(Chain(np.where(seen, at_votes, lines).astype(np.float32), seen, fit))
    return [chains[start : start + len(votes)] for start in range(0, len(chains), len(votes))]


def _within_drawing(gains: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Return which lines their gains show, from the first to the last sure one: what noise shows beyond the drawing is no line."""
    seen = gains > _SEEN
    usual = float((gains[seen] ** 2).sum() / max(gains[seen].sum(), 1e-6))
    sure = np.flatnonzero(gains > max(_OUTERMOST_SHARE * usual, _SEEN))
    inside = np.zeros_like(seen)
    if len(sure):
        inside[sure[0] : sure[-1] + 1] = True
    return seen & inside


def _gains(votes: Floats, pitch: float) -> tuple[Floats, Floats]:
    """Return what a line gains by its votes, and what it pays where nothing shows it: how rarely a line beside such others is plain."""
    reach = max(1, int(_AROUND * pitch))
    window = np.hanning(2 * reach + 3)[: reach + 1]
    window *= pitch / _CELL_VOTES / window.sum()
    size = len(votes)
    # beyond the drawing's end nothing is expected: what there is on both sides counts
    usual = np.minimum(np.convolve(votes, window[::-1])[:size], np.convolve(votes, window)[reach : reach + size])
    # Saturated before they are blurred: what spills over from a line that many cells show is no line beside it.
    plain = _LEAST_PLAIN + (1 - _LEAST_PLAIN) * (1 + usual) ** _PLAIN_POWER
    return settle_evidence(_saturated(votes), pitch), -np.log(plain).astype(np.float32)


def _saturated(gain: NDArray[np.floating]) -> NDArray[np.floating]:
    return _MOST_GAIN * gain / (_MOST_GAIN + gain)


def _in_units(part: tuple[Floats, Floats], unit: float, length: int) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Return gains and prices of `length` places that lie `unit` px apart, gains saturated."""
    evidence, price = part
    fine = (np.arange(length * _SAMPLES) + 0.5) / _SAMPLES - 0.5
    px = np.arange(len(evidence))
    gain = np.interp(fine * unit, px, evidence, right=0).reshape(length, _SAMPLES).max(axis=1)
    return _saturated(gain), np.interp(np.arange(length) * unit, px, price)


def _best_traces(shaped: Floats, lengths: list[int]) -> list[tuple[NDArray[np.intp], NDArray[np.intp], float]]:
    """Return, for each row of gains (R, L + 2 * stray), the places of the even grid, how far lines stray from it, and the sum gained.

    A state is a place of the even grid and how far the line strays from it. The sum up to a line depends on places at least `nearest`
    earlier, so that many places are one array operation.
    """
    rows = len(shaped)
    size = shaped.shape[1] - 2 * _STRAY
    stray = np.arange(-_STRAY, _STRAY + 1)
    strayed_far = ((stray / _UNITS / _STRAY_SHARE) ** 2 / 2).astype(np.float32)
    own = np.lib.stride_tricks.sliding_window_view(shaped, len(stray), axis=1) - strayed_far
    nearest, guard = _UNITS - _BEND, _UNITS + _BEND
    spacing = np.arange(nearest, guard + 1)
    price = (((spacing - _UNITS) / _UNITS / _BEND_SHARE) ** 2 / 2).astype(np.float32)
    # of the line before, only what leaves room for the narrowest cell: the best up to the last such place
    last = np.minimum(spacing[:, None] + np.arange(len(stray)) - int(np.ceil(_LEAST_CELL * _UNITS)), len(stray) - 1)
    total = np.full((rows, size, len(stray)), -np.inf, dtype=np.float32)
    best = np.full((rows, guard + size, len(stray)), -np.inf, dtype=np.float32)
    step = np.zeros(total.shape, dtype=np.int8)
    for start in range(0, size, nearest):
        place = np.arange(start, min(start + nearest, size))
        reached = best[:, (guard + place[:, None] - spacing)[:, :, None], last] - price[:, None]
        choice = reached.argmax(axis=2)
        gain = np.take_along_axis(reached, choice[:, :, None], axis=2)[:, :, 0]
        begins = (place < _UNITS)[:, None] & (gain < 0)
        step[:, place] = np.where(begins, -1, choice)
        total[:, place] = np.where(begins, 0, gain) + own[:, place]
        best[:, guard + place] = np.maximum.accumulate(total[:, place], axis=2)
    traces = []
    for row, length in enumerate(lengths):
        tail = max(0, length - _UNITS)
        at, off = divmod(int(total[row, tail:length].argmax()), len(stray))
        at += tail
        fit, chain = float(total[row, at, off]), []
        while True:
            chain.append((at, off - _STRAY))
            choice = int(step[row, at, off])
            if choice < 0:
                break
            limit = int(last[choice, off])
            at -= int(spacing[choice])
            off = int(total[row, at, : limit + 1].argmax())
        even, strayed = np.array(chain[::-1]).T
        traces.append((even, strayed, fit))
    return traces
