"""Facts about the pixel grid of a batch, as they travel from the grid node to the sheet."""

from dataclasses import dataclass

from .cells import CellLines


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
