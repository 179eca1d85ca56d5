"""Colour spaces: 8-bit sRGB and CIELAB (D65, 2 degrees)."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_WHITE_D65 = np.array([0.95047, 1.0, 1.08883], dtype=np.float32)
_RGB_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]], dtype=np.float32
)
_XYZ_TO_RGB = np.linalg.inv(_RGB_TO_XYZ)


def srgb_to_lab(rgb: NDArray[np.floating] | NDArray[np.uint8]) -> Floats:
    """Convert sRGB in 0..255, shape (..., 3), to CIELAB (IEC 61966-2-1, CIE 15:2004)."""
    value = np.clip(np.asarray(rgb, dtype=np.float32) / 255, 0, 1)
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    ratio = linear @ _RGB_TO_XYZ.T / _WHITE_D65
    f = np.where(ratio > 216 / 24389, np.cbrt(ratio), (24389 / 27 * ratio + 16) / 116)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1).astype(np.float32)


def lab_to_srgb(lab: NDArray[np.floating]) -> Floats:
    """Convert CIELAB, shape (..., 3), to sRGB in 0..255, clipped to the gamut."""
    lab = np.asarray(lab, dtype=np.float32)
    fy = (lab[..., 0] + 16) / 116
    f = np.stack([fy + lab[..., 1] / 500, fy, fy - lab[..., 2] / 200], axis=-1)
    ratio = np.where(f**3 > 216 / 24389, f**3, (116 * f - 16) * 27 / 24389)
    linear = np.clip((ratio * _WHITE_D65) @ _XYZ_TO_RGB.T, 0, 1)
    value = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return (value * 255).astype(np.float32)
