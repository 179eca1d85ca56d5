"""Where a drawing changes colour: profiles of edge votes along both axes."""

import numpy as np
from numpy.typing import NDArray

from .colour import Floats


def edge_profiles(picture: NDArray[np.floating]) -> tuple[Floats, Floats]:
    """Return edge votes of a picture (H, W, 3), sRGB 0..255: W + 1 for borders between columns, H + 1 for borders between rows.

    Place x stands for the border left of px x.
    """
    return _profile(_strips(picture)), _profile(_strips(picture.swapaxes(0, 1)))


def _strips(picture: NDArray[np.floating]) -> Floats:
    """Return means over short runs of rows, i.e. along the edges between columns: less noise, and less work."""
    across = len(picture)
    run = 4 if across >= 512 else 2 if across >= 128 else 1
    total = picture[: across // run * run : run].astype(np.float32)
    for offset in range(1, run):
        total += picture[offset : across // run * run : run]
    total /= run
    return np.ascontiguousarray(total)


def _profile(strips: Floats) -> Floats:
    length = strips.shape[1]
    # Difference of the means of `reach` px on both sides; the peak of a blurred step stays where the step was.
    reach = 2 if length >= 128 else 1
    strength = _step_strength(strips, reach)
    # neighbouring places share their samples, so every other one tells as much
    floor = np.median(strength[:, ::2], axis=1, keepdims=True)
    peak = np.zeros_like(strength, dtype=bool)
    peak[:, 1:-1] = (strength[:, 1:-1] >= strength[:, :-2]) & (strength[:, 1:-1] > strength[:, 2:])
    threshold = np.maximum(4.0 * floor, 10.0)
    excess = np.where(peak & (strength > threshold), strength - floor, 0)
    # A black outline is one edge like any other: it must not outvote the rest. Nor may noise, which has the many weak peaks.
    found = excess[excess > 0]
    cap = max(2.5 * float(np.median(threshold)), float(np.percentile(found, 40))) if len(found) else 1.0
    votes = np.minimum(excess, cap).sum(axis=0) / (cap * len(strips))
    return np.maximum(votes - np.quantile(votes, 0.25), 0).astype(np.float32)


def _step_strength(strips: Floats, reach: int) -> Floats:
    rows, length, _ = strips.shape
    sums = strips if reach == 1 else strips[:, 1:] + strips[:, :-1]
    step = np.abs(sums[:, reach:] - sums[:, :-reach])
    strength = np.zeros((rows, length + 1), dtype=np.float32)
    strength[:, reach:-reach] = (step[..., 0] + step[..., 1] + step[..., 2]) / reach
    return strength
