"""Finds the colours that a native picture was drawn with."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Palette:
    """Colours (N, 3), uint8 sRGB, in the order of an indexed picture."""

    colours: NDArray[np.uint8]
    name: str = "auto"

    def to_hex(self) -> list[str]:
        """Return the colours as `#rrggbb`."""
        return ["#" + bytes(colour).hex() for colour in self.colours]


def find_palette(pictures: NDArray[np.floating], max_colours: int = 0) -> Palette:
    """Find the colours of native pictures (B, H, W, 3 or 4), sRGB 0..255, leaving clear pixels out; 0 colours finds the number."""
    pixels = pictures[..., :3].reshape(-1, 3)
    if pictures.shape[-1] == 4:
        opaque = pictures[..., 3].reshape(-1) >= 127.5
        pixels = pixels[opaque] if opaque.any() else pixels
    colours, counts = np.unique(np.rint(pixels / 8) * 8, axis=0, return_counts=True)
    kept = colours[np.argsort(-counts)[: max_colours or 32]]
    return Palette(np.clip(kept, 0, 255).astype(np.uint8))
