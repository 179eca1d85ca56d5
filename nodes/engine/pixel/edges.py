"""Where a drawing changes colour: profiles of edge votes along both axes."""

import numpy as np
from numpy.typing import NDArray

from .colour import Floats


def edge_profiles(picture: NDArray[np.floating]) -> tuple[Floats, Floats]:
    """Return edge votes of a picture (H, W, 3), sRGB 0..255: W + 1 for borders between columns, H + 1 for borders between rows.

    Place x stands for the border left of px x.
    """
    return _profile(picture), _profile(picture.swapaxes(0, 1))


def _profile(picture: NDArray[np.floating]) -> Floats:
    length, across = picture.shape[1], picture.shape[0]
    # Mean over short runs along the edge: noise falls, and so does the work.
    run = 4 if across >= 512 else 2 if across >= 128 else 1
    strips = picture[: across // run * run].reshape(across // run, run, length, 3).mean(axis=1, dtype=np.float32)
    # Difference of the means of `reach` px on both sides; the peak of a blurred step stays where the step was.
    reach = 2 if length >= 128 else 1
    strength = _step_strength(strips, reach)
    floor = np.median(strength, axis=1, keepdims=True)
    peak = np.zeros_like(strength, dtype=bool)
    peak[:, 1:-1] = (strength[:, 1:-1] >= strength[:, :-2]) & (strength[:, 1:-1] > strength[:, 2:])
    threshold = np.maximum(4.0 * floor, 10.0)
    excess = np.where(peak & (strength > threshold), strength - floor, 0)
    # A black outline is one edge like any other: it must not outvote the rest.
    found = excess[excess > 0]
    cap = max(12.0, float(np.percentile(found, 40))) if len(found) else 12.0
    votes = np.minimum(excess, cap).sum(axis=0) / (cap * len(strips))
    return votes.astype(np.float32)


def _step_strength(strips: Floats, reach: int) -> Floats:
    rows, length, _ = strips.shape
    total = np.zeros((rows, length + 1, 3), dtype=np.float32)
    np.cumsum(strips - strips.mean(), axis=1, out=total[:, 1:])
    strength = np.zeros((rows, length + 1), dtype=np.float32)
    middle = total[:, reach:-reach]
    step = total[:, 2 * reach :] + total[:, : -2 * reach] - 2 * middle
    strength[:, reach:-reach] = np.abs(step).sum(axis=2) / reach
    return strength
