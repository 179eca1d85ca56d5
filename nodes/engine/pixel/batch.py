"""Between ComfyUI's tensors (B, H, W, C; 0..1) and the arrays of this package."""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import BadInputError
from .background import background_alpha, bleed_under_alpha
from .cells import CellLines, even_lines
from .grid import PixelGrid
from .snap import Fallback, SnapRequest, snap_batch

BackgroundMethod = Literal["plain background", "mask"]
MaskMarks = Literal["sprite", "background"]
BACKGROUND_METHODS: tuple[BackgroundMethod, ...] = ("plain background", "mask")
MASK_MARKS: tuple[MaskMarks, ...] = ("sprite", "background")


def to_pictures(image: torch.Tensor) -> NDArray[np.float32]:
    """Return an IMAGE (B, H, W, 3 or 4) as float32 in 0..255; raises BadInputError for NaN, for no pictures and other channels."""
    if image.ndim != 4 or image.shape[-1] not in (3, 4) or 0 in image.shape:
        raise BadInputError(f"Expected pictures of 3 or 4 channels, got a tensor of shape {tuple(image.shape)}.")
    values = image.detach().to("cpu", torch.float32).numpy()
    if not np.isfinite(values).all():
        raise BadInputError(
            "The pictures contain NaN or infinite values; check the VAE (SDXL's own VAE overflows in fp16) and draw again."
        )
    return np.clip(values, 0, 1) * np.float32(255)


def to_image(pictures: NDArray[np.generic]) -> torch.Tensor:
    """Return pictures in 0..255 as an IMAGE."""
    return torch.from_numpy(np.ascontiguousarray(pictures, dtype=np.float32) / np.float32(255))


def to_masks(mask: torch.Tensor, count: int) -> NDArray[np.bool_]:
    """Return a MASK as booleans (count, H, W), a single mask repeated for the batch."""
    masks = mask.detach().to("cpu", torch.float32).numpy() >= 0.5
    masks = masks.reshape(-1, *masks.shape[-2:])
    if len(masks) not in (1, count):
        raise BadInputError(f"{len(masks)} masks came with {count} pictures; give one mask, or one for each picture.")
    return np.repeat(masks, count, axis=0) if len(masks) != count else masks


def majority(masks: NDArray[np.bool_], lines: tuple[CellLines, ...]) -> NDArray[np.bool_]:
    """Return, for each cell of each picture's lines, whether most of the mask's pixels in it are set."""
    return np.stack([_cell_share(mask, cell_lines) >= 0.5 for mask, cell_lines in zip(masks, lines, strict=True)])


def _cell_share(mask: NDArray[np.bool_], lines: CellLines) -> NDArray[np.float64]:
    height, width = mask.shape
    columns = np.clip(np.rint(lines.columns), 0, width).astype(int)
    rows = np.clip(np.rint(lines.rows), 0, height).astype(int)
    total = np.zeros((height + 1, width + 1))
    total[1:, 1:] = mask.cumsum(axis=0).cumsum(axis=1)
    corners = total[np.ix_(rows, columns)]
    area = np.maximum(np.outer(np.diff(rows), np.diff(columns)), 1)
    return np.diff(np.diff(corners, axis=0), axis=1) / area


def snap_images(
    image: torch.Tensor,
    mask: torch.Tensor | None,
    native_width: int,
    native_height: int,
    when_unclear: Fallback,
    fallback_size: int,
) -> tuple[torch.Tensor, torch.Tensor, PixelGrid]:
    """Return the native IMAGE (with alpha where it had some), its MASK and the grid of a batch."""
    pictures = to_pictures(image)
    snapped = snap_batch(pictures[..., :3], SnapRequest(native_width, native_height, when_unclear, fallback_size))
    cells, grid = snapped.cells, snapped.grid
    native_mask = np.zeros(cells.shape[:3], dtype=bool)
    if pictures.shape[-1] == 4:
        opaque = majority(pictures[..., 3] >= 127.5, grid.lines)
        cells = np.concatenate([cells, opaque[..., None] * np.float32(255)], axis=-1)
        native_mask = ~opaque
    if mask is not None:
        masks = to_masks(mask, len(pictures))
        if masks.shape[1:] != pictures.shape[1:3]:
            raise BadInputError(
                f"The mask is {masks.shape[2]}x{masks.shape[1]} and the pictures are {pictures.shape[2]}x{pictures.shape[1]}; make them equal."
            )
        native_mask = majority(masks, grid.lines)
    return to_image(cells), torch.from_numpy(native_mask.astype(np.float32)), grid


def cut_background_images(
    image: torch.Tensor,
    *,
    method: BackgroundMethod,
    enclosed_holes: bool,
    tolerance: float,
    mask_marks: MaskMarks,
    mask: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return RGBA sprites and the MASK of what is clear; alpha that the pictures already have stays."""
    pictures = to_pictures(image)
    cells = np.rint(pictures[..., :3]).astype(np.uint8)
    count, height, width = cells.shape[:3]
    if method == "mask":
        if mask is None:
            raise BadInputError("The method 'mask' needs a mask; connect one or choose 'plain background'.")
        masks = to_masks(mask, count)
        marked = majority(masks, (even_lines(masks.shape[1], masks.shape[2], height, width),) * count)
        opaque = marked if mask_marks == "sprite" else ~marked
    else:
        opaque = np.stack([background_alpha(c, enclosed_holes=enclosed_holes, tolerance=tolerance) > 0 for c in cells])
    if pictures.shape[-1] == 4:
        opaque &= pictures[..., 3] >= 127.5
    alpha = np.where(opaque, 255, 0).astype(np.uint8)
    sprites = np.stack([np.dstack([bleed_under_alpha(c, a), a]) for c, a in zip(cells, alpha, strict=True)])
    return to_image(sprites), torch.from_numpy((~opaque).astype(np.float32))
