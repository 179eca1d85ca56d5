"""Lays native sprites out as one sheet of equal cells."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import BadInputError

MAX_SHEET_SIDE = 16384

Anchor = Literal["feet", "centre"]


@dataclass(frozen=True)
class SheetLayout:
    """Where each frame stands; `padding` px between cells, `extrude` px of repeated border around each."""

    cell_width: int
    cell_height: int
    columns: int
    rows: int
    padding: int
    extrude: int
    width: int
    height: int

    def origin(self, index: int) -> tuple[int, int]:
        """Return the (x, y) of frame `index`'s own first pixel, inside its extrusion."""
        row, column = divmod(index, self.columns)
        step_x = self.cell_width + 2 * self.extrude + self.padding
        step_y = self.cell_height + 2 * self.extrude + self.padding
        return column * step_x + self.extrude, row * step_y + self.extrude


def plan_layout(
    count: int, cell: tuple[int, int], *, columns: int = 0, padding: int = 0, extrude: int = 0, power_of_two: bool = False
) -> SheetLayout:
    """Plan a sheet for `count` cells of (width, height) px; 0 columns makes it as square as can be.

    Raises BadInputError where the sheet would pass 16384 px, the largest texture that engines load.
    """
    cell_width, cell_height = cell
    step_x, step_y = cell_width + 2 * extrude + padding, cell_height + 2 * extrude + padding
    if columns == 0:
        columns = max(1, round(math.sqrt(count * step_y / step_x)))
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    width, height = columns * step_x - padding, rows * step_y - padding
    if power_of_two:
        width, height = 1 << (width - 1).bit_length(), 1 << (height - 1).bit_length()
    if max(width, height) > MAX_SHEET_SIDE:
        raise BadInputError(
            f"{count} cells of {cell_width}x{cell_height} px in {columns} columns make a sheet of {width}x{height} px; "
            f"engines load at most {MAX_SHEET_SIDE} a side, so choose another number of columns or fewer sprites."
        )
    return SheetLayout(cell_width, cell_height, columns, rows, padding, extrude, width, height)


def crop_to_content(frames: NDArray[np.uint8], anchor: Anchor) -> NDArray[np.uint8]:
    """Crop RGBA frames (B, H, W, 4) to one common size, each sprite's own box standing at the anchor; all clear frames stay clear.

    With "feet" the boxes stand on the bottom edge, centred; with "centre" they are centred both ways.
    """
    boxes = [_content_box(frame[..., 3]) for frame in frames]
    filled = [box for box in boxes if box is not None]
    if not filled:
        return frames
    height = max(bottom - top for top, bottom, _, _ in filled)
    width = max(right - left for _, _, left, right in filled)
    cropped = np.zeros((len(frames), height, width, 4), dtype=np.uint8)
    for target, frame, box in zip(cropped, frames, boxes, strict=True):
        if box is None:
            continue
        top, bottom, left, right = box
        y = height - (bottom - top)
        x = (width - (right - left)) // 2
        y = y if anchor == "feet" else y // 2
        target[y : y + bottom - top, x : x + right - left] = frame[top:bottom, left:right]
    return cropped


def _content_box(alpha: NDArray[np.uint8]) -> tuple[int, int, int, int] | None:
    rows, columns = np.flatnonzero(alpha.any(axis=1)), np.flatnonzero(alpha.any(axis=0))
    if len(rows) == 0:
        return None
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def compose_sheet(frames: NDArray[np.uint8], layout: SheetLayout) -> NDArray[np.uint8]:
    """Draw RGBA frames (B, H, W, 4) into one RGBA sheet; the border of each frame is repeated into its extrusion."""
    sheet = np.zeros((layout.height, layout.width, 4), dtype=np.uint8)
    e = layout.extrude
    for index, frame in enumerate(frames):
        x, y = layout.origin(index)
        framed = np.pad(frame, ((e, e), (e, e), (0, 0)), mode="edge") if e else frame
        sheet[y - e : y + layout.cell_height + e, x - e : x + layout.cell_width + e] = framed
    return sheet
