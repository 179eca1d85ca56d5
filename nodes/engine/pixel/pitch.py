"""Candidates for the size of a cell: which spacings do the edge votes repeat with?"""

import numpy as np

from .colour import Floats

_WINDOW_PX = 320
_PEAKS = 5
# Votes for one line fall on px this far apart.
_LINE_LAGS = (1, 2)


def pitch_spectrum(profiles: list[Floats], min_pitch: float, max_pitch: float) -> tuple[Floats, Floats]:
    """Return (pitches, concentration): how far the votes share one phase at each pitch, summed over windows, axes and pictures.

    Windows of 320 px keep a slow drift of the cells from blurring the phase.
    """
    length = max(len(profile) for profile in profiles)
    padded = 1 << (8 * length - 1).bit_length()
    window_px = min(_WINDOW_PX, length)
    taper = np.hanning(window_px + 2)[1:-1].astype(np.float32)
    total, mass = np.zeros(padded // 2 + 1), 0.0
    for profile in profiles:
        for start in range(0, max(1, len(profile) - window_px // 2), window_px // 2):
            part = profile[start : start + window_px]
            part = part * taper[: len(part)]
            # a lone line agrees with itself at any pitch: take out what each line adds to its own sum
            own = float((part**2).sum()) + sum(2 * float((part[lag:] * part[:-lag]).sum()) for lag in _LINE_LAGS)
            total += np.sqrt(np.maximum(np.abs(np.fft.rfft(part, n=padded)) ** 2 - own, 0))
            mass += float(part.sum())
    first, last = int(np.ceil(padded / max_pitch)), int(padded / min_pitch)
    bins = np.arange(first, last + 1)
    return (padded / bins).astype(np.float32), (total[bins] / max(mass, 1e-9)).astype(np.float32)


def candidate_pitches(pitches: Floats, concentration: Floats) -> list[tuple[float, float]]:
    """Return (pitch, concentration) of the peaks that come near the highest, and of multiples and fractions of the best two."""
    at = np.flatnonzero((concentration[1:-1] >= concentration[:-2]) & (concentration[1:-1] > concentration[2:])) + 1
    at = at[np.argsort(-concentration[at])]
    at = at[concentration[at] > 0.4 * concentration[at[0]]] if len(at) else at
    chosen: list[tuple[float, float]] = []

    def add(index: int) -> None:
        pitch = float(pitches[index])
        if all(abs(pitch / other - 1) > 0.02 for other, _ in chosen):
            chosen.append((pitch, float(concentration[index])))

    for index in at[:_PEAKS]:
        add(index)
    for pitch, strength in chosen[:2]:
        for factor in (2.0, 3.0, 0.5):
            near = np.flatnonzero(np.abs(pitches / (pitch * factor) - 1) < 0.01)
            if len(near):
                index = int(near[concentration[near].argmax()])
                if concentration[index] > 0.3 * strength:
                    add(index)
    return chosen
