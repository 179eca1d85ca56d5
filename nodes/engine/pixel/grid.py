"""The pixel grid of a drawing: facts that travel from the grid to the sheet."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class CellLines:
    """Positions, in px of the drawing, of one picture's lines: width + 1 columns and height + 1 rows."""

    columns: NDArray[np.float32]
    rows: NDArray[np.float32]


@dataclass(frozen=True)
class PixelGrid:
    """The grid chosen for a batch; `pitch` in px, `confidence` 0..1, `found` False where a fallback was used, `report` says it."""

    width: int
    height: int
    pitch: float
    lines: tuple[CellLines, ...]
    confidence: float
    found: bool
    report: str
