"""Chooses the palette that the user asked for and maps a batch to it."""

from pathlib import Path

import numpy as np
import torch

from ...comfy_adapters import folders
from ..errors import BadInputError
from .batch import to_image, to_pictures
from .builtin_palettes import BUILTIN_PALETTES
from .dither import Dither, map_to_palette
from .palette import Palette, find_palette, recover_colours
from .palette_files import PALETTE_EXTENSIONS, builtin_palette, read_palette_file

NO_FILE = "none"
PALETTE_SOURCES = ("auto", "file", "reference picture", "connected palette", *BUILTIN_PALETTES)
_SWATCH_PX = 16


def palette_file_names() -> list[str]:
    """Return the palette files in ComfyUI's input folder."""
    return folders.list_input_files(PALETTE_EXTENSIONS)


def recolour_images(
    image: torch.Tensor,
    *,
    source: str,
    max_colours: int,
    palette_file: str,
    dither: Dither,
    dither_strength: float,
    reference: torch.Tensor | None,
    palette: Palette | None,
) -> tuple[torch.Tensor, Palette, torch.Tensor, str]:
    """Return the IMAGE in palette colours, the palette, its picture and its text; alpha stays as it is."""
    pictures = to_pictures(image)
    cells = pictures[..., :3]
    if source == "auto":
        chosen, cells = recover_colours(pictures, max_colours)
    else:
        chosen = _choose(source, max_colours, palette_file, reference, palette)
    labels = np.stack([map_to_palette(picture, chosen.colours, dither, dither_strength) for picture in cells])
    recoloured = chosen.colours[labels].astype(np.float32)
    if pictures.shape[-1] == 4:
        recoloured = np.concatenate([recoloured, pictures[..., 3:]], axis=-1)
    swatches = np.repeat(np.repeat(chosen.colours[None, None], _SWATCH_PX, axis=1), _SWATCH_PX, axis=2)
    return to_image(recoloured), chosen, to_image(swatches), "\n".join(colour[1:] for colour in chosen.to_hex())


def _choose(source: str, max_colours: int, palette_file: str, reference: torch.Tensor | None, palette: Palette | None) -> Palette:
    if source == "reference picture":
        if reference is None:
            raise BadInputError("The source 'reference picture' needs a picture; connect one or choose another source.")
        return find_palette(to_pictures(reference), max_colours)
    if source == "connected palette":
        if palette is None:
            raise BadInputError(
                "The source 'connected palette' needs a palette; connect another Pixel Palette or choose another source."
            )
        return palette
    if source == "file":
        if palette_file == NO_FILE:
            raise BadInputError("The source 'file' needs a palette file; put one into ComfyUI's input folder and choose it.")
        return Palette(read_palette_file(Path(folders.input_file_path(palette_file))), palette_file)
    return Palette(builtin_palette(source), source)
