"""PNG files: RGBA or indexed with a transparent entry, with text chunks."""

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import BadInputError

if TYPE_CHECKING:
    from PIL.Image import Image


def encode_rgba(pixels: NDArray[np.uint8], texts: Mapping[str, str]) -> bytes:
    """Encode RGBA pixels (H, W, 4) as an 8-bit RGBA PNG."""
    from PIL import Image

    return _encode(Image.fromarray(pixels, "RGBA"), texts, {})


def index_pixels(pixels: NDArray[np.uint8], palette: NDArray[np.uint8] | None) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return indices (H, W) and entries (N, 3) of RGBA pixels; entry 0 is the transparent one, the rest keep the palette's order.

    Colours outside `palette` follow it; raises BadInputError above 256 entries.
    """
    opaque = pixels[..., 3] > 0
    codes = pixels[..., :3].astype(np.uint32) @ np.array([65536, 256, 1], dtype=np.uint32)
    used = np.unique(codes[opaque])
    wanted = (
        np.zeros(0, dtype=np.uint32)
        if palette is None
        else palette.astype(np.uint32) @ np.array([65536, 256, 1], dtype=np.uint32)
    )
    entries = np.concatenate([wanted, np.setdiff1d(used, wanted)])
    if len(entries) > 255:
        raise BadInputError(
            f"The sprites have {len(entries)} colours and an indexed PNG holds 255 beside the transparent one; "
            "put Pixel Palette before the sheet or save it as RGBA."
        )
    order = np.argsort(entries, kind="stable")
    indices = np.zeros(codes.shape, dtype=np.uint8)
    indices[opaque] = order[np.searchsorted(entries, codes[opaque], sorter=order)] + 1
    colours = np.stack([entries >> 16, entries >> 8 & 255, entries & 255], axis=-1).astype(np.uint8)
    return indices, np.concatenate([np.zeros((1, 3), dtype=np.uint8), colours])


def encode_indexed(indices: NDArray[np.uint8], entries: NDArray[np.uint8], texts: Mapping[str, str]) -> bytes:
    """Encode indices (H, W) with their entries (N, 3) as an 8-bit indexed PNG whose entry 0 is transparent."""
    from PIL import Image

    picture = Image.fromarray(indices, "P")
    picture.putpalette(entries.tobytes())
    return _encode(picture, texts, {"transparency": 0})


def _encode(picture: "Image", texts: Mapping[str, str], options: dict[str, int]) -> bytes:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for key, text in texts.items():
        info.add_text(key, text)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", pnginfo=info, compress_level=6, **options)
    return buffer.getvalue()
