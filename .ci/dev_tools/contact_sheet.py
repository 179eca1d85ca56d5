"""Puts small copies of all pictures onto one sheet."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

CELL = 256  # pixels a side
GAP = 8
TITLE = 20
COLUMNS = 4
BACKGROUND = (32, 32, 36)
INK = (230, 230, 230)


def write_contact_sheet(groups: Sequence[tuple[str, Sequence[Path]]], target: Path) -> None:
    """Write one PNG with a titled block per group, at most four pictures in a row."""
    num_rows = [-(-len(pictures) // COLUMNS) for _, pictures in groups]
    width = GAP + COLUMNS * (CELL + GAP)
    height = GAP + sum(TITLE + rows * (CELL + GAP) for rows in num_rows)
    sheet = Image.new("RGB", (width, height), BACKGROUND)
    ink = ImageDraw.Draw(sheet)
    top = GAP
    for (title, pictures), rows in zip(groups, num_rows, strict=True):
        ink.text((GAP, top), title, fill=INK)
        for number, path in enumerate(pictures):
            row, column = divmod(number, COLUMNS)
            place = (GAP + column * (CELL + GAP), top + TITLE + row * (CELL + GAP))
            with Image.open(path) as picture:
                # Nearest neighbour where it enlarges: a pixel of pixel art stays a square.
                filtering = Image.Resampling.NEAREST if max(picture.size) < CELL else Image.Resampling.LANCZOS
                scale = CELL / max(picture.size)
                size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
                small = picture.convert("RGBA").resize(size, filtering)
            sheet.paste(small, place, small)
        top += TITLE + rows * (CELL + GAP)
    sheet.save(target)
