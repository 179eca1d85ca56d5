"""How alike two pictures are: PSNR, SSIM and the largest error of one channel."""

import io
import math
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from ...engine.errors import PackError
from .record import Fidelity

Pixels = npt.NDArray[np.float32]  # [H, W, C], 0 to 255
Plane = npt.NDArray[np.floating[Any]]  # [H, W]

NUM_THREADS = 4  # a picture of 1024x1024 takes about 0.2 s, in which the card waits
# Wang, Bovik, Sheikh, Simoncelli 2004: an 11 x 11 Gaussian window of 1.5 pixels, K1 0.01, K2 0.03.
_SIGMA, _RADIUS = 1.5, 5
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


class FidelityError(PackError):
    """Pictures that cannot be compared."""


def compare_pictures(reference: Sequence[bytes], other: Sequence[bytes]) -> Fidelity:
    """Compare pictures (files) one by one, animations frame by frame.

    Raises FidelityError if their number or sizes differ, and for files that are neither PNG, JPEG nor WebP.
    """
    if len(reference) != len(other) or not reference:
        raise FidelityError(f"Stock drew {len(reference)} pictures and the other side {len(other)}: they cannot be compared.")
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        pairs = [pair for pairs_of_file in pool.map(_compare_files, reference, other) for pair in pairs_of_file]
    psnrs = [psnr for psnr, _, _ in pairs if not math.isinf(psnr)]
    return Fidelity(
        num_pictures=len(pairs),
        num_identical=len(pairs) - len(psnrs),
        worst_psnr_db=min(psnrs) if psnrs else None,
        mean_psnr_db=sum(psnrs) / len(psnrs) if psnrs else None,
        worst_ssim=min(ssim for _, ssim, _ in pairs),
        mean_ssim=sum(ssim for _, ssim, _ in pairs) / len(pairs),
        max_error=max(error for _, _, error in pairs),
    )


def _compare_files(reference: bytes, other: bytes) -> list[tuple[float, float, int]]:
    before, after = _frames(reference), _frames(other)
    if len(before) != len(after):
        raise FidelityError(f"Stock drew {len(before)} frames and the other side {len(after)}: they cannot be compared.")
    return [_compare(a, b) for a, b in zip(before, after, strict=True)]


def _frames(file: bytes) -> list[Pixels]:
    from PIL import Image, ImageSequence

    def pixels(picture: Any) -> Pixels:
        return np.asarray(picture.convert("RGBA" if "A" in picture.getbands() else "RGB"), dtype=np.float32)

    try:
        opened: Any = Image.open(io.BytesIO(file), formats=["PNG", "JPEG", "WEBP"])
        with opened as picture:
            return [pixels(frame) for frame in cast(Iterable[Any], ImageSequence.Iterator(picture))]
    except OSError as error:  # of a video, too
        raise FidelityError("What was saved is no PNG, JPEG or WebP, so that it cannot be compared with stock's.") from error


def _compare(a: Pixels, b: Pixels) -> tuple[float, float, int]:
    if a.shape != b.shape:
        raise FidelityError(f"Stock drew {a.shape[1]}x{a.shape[0]} and the other side {b.shape[1]}x{b.shape[0]} pixels.")
    error = np.abs(a - b)
    return psnr(a, b), ssim(a, b), int(error.max())


def psnr(a: Pixels, b: Pixels) -> float:
    """Peak signal-to-noise ratio in dB, infinite for identical pictures."""
    mean_square = float(np.mean((a - b) ** 2, dtype=np.float64))
    return math.inf if mean_square == 0 else 10 * math.log10(255**2 / mean_square)


def ssim(a: Pixels, b: Pixels) -> float:
    """Mean structural similarity of the brightness (Rec. 601), 1 for identical pictures."""
    one, two = _brightness(a), _brightness(b)
    mean_a, mean_b = _blurred(one), _blurred(two)
    variance_a, variance_b = _blurred(one * one) - mean_a**2, _blurred(two * two) - mean_b**2
    covariance = _blurred(one * two) - mean_a * mean_b
    likeness = (2 * mean_a * mean_b + _C1) * (2 * covariance + _C2)
    return float(np.mean(likeness / ((mean_a**2 + mean_b**2 + _C1) * (variance_a + variance_b + _C2))))


def _brightness(picture: Pixels) -> Plane:
    return picture[..., :3].astype(np.float64) @ np.array([0.299, 0.587, 0.114])


def _blurred(plane: Plane) -> Plane:
    """Weighted means of the windows that lie wholly inside; pictures smaller than a window keep one mean a side."""
    offsets = np.arange(-_RADIUS, _RADIUS + 1)
    weights = np.exp(-(offsets**2) / (2 * _SIGMA**2))
    weights /= weights.sum()
    for axis in (0, 1):
        length = plane.shape[axis] - 2 * _RADIUS
        if length < 1:
            plane = plane.mean(axis=axis, keepdims=True)
            continue
        across = np.moveaxis(plane, axis, 0)
        mean = weights[0] * across[:length]
        for start, weight in enumerate(weights[1:], start=1):
            mean += weight * across[start : start + length]
        plane = np.moveaxis(mean, 0, axis)
    return plane
