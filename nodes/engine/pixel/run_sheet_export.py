"""Saves a sheet and its descriptions into ComfyUI's output folder."""

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ...comfy_adapters import folders
from ..errors import PackError
from ..sprites.file_names import relative_parts
from .batch import to_image, to_masks, to_pictures
from .grid import PixelGrid
from .palette import Palette
from .png import encode_indexed, encode_rgba, index_pixels
from .sheet import SheetLayout, compose_sheet, crop_to_content, plan_layout
from .sheet_json import FrameNames, frame_names, godot_sprite_frames, sheet_json

Crop = Literal["none", "common, feet", "common, centre"]
CROPS: tuple[Crop, ...] = ("none", "common, feet", "common, centre")
FRAME_NAMES: tuple[FrameNames, ...] = ("name_index", "index")
SHEET_FORMATS = ("RGBA", "indexed")
GODOT_CHOICES = ("none", "SpriteFrames (.tres)")


@dataclass(frozen=True)
class SheetOptions:
    """The widgets of the node."""

    filename_prefix: str = "sprites/sheet"
    columns: int = 0
    padding: int = 0
    extrude: int = 0
    crop: Crop = "none"
    power_of_two: bool = False
    format: str = "RGBA"
    frame_names: FrameNames = "name_index"
    frame_ms: int = 100
    godot: str = "none"
    preview_scale: int = 4


@dataclass(frozen=True)
class SavedSheet:
    """What was written: file facts as ComfyUI's page takes them, and IMAGEs for the previews."""

    sheet: torch.Tensor
    json_text: str
    png: dict[str, str]
    files: list[dict[str, str]]
    frame_previews: torch.Tensor
    sheet_preview: torch.Tensor


def export_sheet(
    image: torch.Tensor,
    options: SheetOptions,
    *,
    mask: torch.Tensor | None = None,
    palette: Palette | None = None,
    grid: PixelGrid | None = None,
    seeds: Sequence[int] | None = None,
    prompt: Any = None,
    extra_pnginfo: Mapping[str, Any] | None = None,
) -> SavedSheet:
    """Write PNG, JSON and, if asked for, .tres; each appears under its name only when it is whole; raises BadInputError for a bad prefix."""
    frames = _rgba_frames(image, mask)
    if options.crop != "none":
        frames = crop_to_content(frames, "feet" if options.crop == "common, feet" else "centre")
    layout = plan_layout(
        len(frames),
        (frames.shape[2], frames.shape[1]),
        columns=options.columns,
        padding=options.padding,
        extrude=options.extrude,
        power_of_two=options.power_of_two,
    )
    sheet = compose_sheet(frames, layout)
    prefix = "/".join(relative_parts(options.filename_prefix, "filename_prefix")) or "sheet"
    folder, filename, counter, subfolder = folders.output_path(prefix, layout.width, layout.height)
    stem = f"{filename}_{counter:05}_"
    indexed = options.format == "indexed"
    texts = folders.workflow_texts(prompt, extra_pnginfo)
    if indexed:
        indices, entries = index_pixels(sheet, None if palette is None else palette.colours)
        png = encode_indexed(indices, entries, texts)
    else:
        png = encode_rgba(sheet, texts)
    names = frame_names(filename, len(frames), options.frame_names)
    json_text = sheet_json(
        layout,
        names,
        animation=filename,
        image=f"{stem}.png",
        indexed=indexed,
        frame_ms=options.frame_ms,
        sprite_facts=_sprite_facts(layout, palette, grid, seeds),
    )
    contents = {f"{stem}.png": png, f"{stem}.json": json_text.encode()}
    if options.godot != "none":
        contents[f"{stem}.tres"] = godot_sprite_frames(
            layout, len(frames), animation=filename, image=f"{stem}.png", frame_ms=options.frame_ms
        ).encode()
    try:
        for name, content in contents.items():
            _write_whole(os.path.join(folder, name), content)
    except OSError as error:
        raise PackError(f"The sheet could not be saved to {folder}: {error}; make room or change filename_prefix.") from error
    saved = [{"filename": name, "subfolder": subfolder, "type": "output"} for name in contents]
    scale = options.preview_scale
    return SavedSheet(
        to_image(sheet), json_text, saved[0], saved, to_image(_enlarge(frames, scale)), to_image(_enlarge(sheet[None], scale))
    )


def _rgba_frames(image: torch.Tensor, mask: torch.Tensor | None) -> NDArray[np.uint8]:
    pictures = to_pictures(image)
    frames = np.full((*pictures.shape[:3], 4), 255, dtype=np.uint8)
    frames[..., : pictures.shape[-1]] = np.rint(pictures).astype(np.uint8)
    if mask is not None:
        frames[..., 3] = np.where(to_masks(mask, len(frames)), 0, frames[..., 3])
    return frames


def _sprite_facts(
    layout: SheetLayout, palette: Palette | None, grid: PixelGrid | None, seeds: Sequence[int] | None
) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "cell": {"w": layout.cell_width, "h": layout.cell_height},
        "columns": layout.columns,
        "padding": layout.padding,
        "extrude": layout.extrude,
    }
    if grid is not None:
        facts["native"] = {"w": grid.width, "h": grid.height}
        facts["pitch"] = round(grid.pitch, 3)
    if palette is not None:
        facts["palette"] = palette.to_hex()
    if seeds is not None:
        facts["seeds"] = list(seeds)
    return facts


def _write_whole(path: str, content: bytes) -> None:
    partial = path + ".part"
    try:
        with open(partial, "wb") as file:
            file.write(content)
        os.replace(partial, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise


def _enlarge(pictures: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    return pictures.repeat(scale, axis=1).repeat(scale, axis=2)
