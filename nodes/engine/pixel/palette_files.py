"""Readers of palette files: .hex (Lospec), .gpl (GIMP), .pal (JASC and RIFF) and picture strips."""

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import BadInputError
from .builtin_palettes import BUILTIN_PALETTES
from .palette import MAX_COLOURS

PALETTE_EXTENSIONS = (".hex", ".gpl", ".pal", ".png")
_MAX_FILE_BYTES = 4 * 1024 * 1024
_MAX_STRIP_PIXELS = 4096 * 4096


def builtin_palette(name: str) -> NDArray[np.uint8]:
    """Return a built-in palette as uint8 (N, 3)."""
    return _from_hex_words(BUILTIN_PALETTES[name].split(), name)


def read_palette_file(path: Path) -> NDArray[np.uint8]:
    """Read a palette as uint8 (N, 3), 1 to 256 distinct colours in file order; raises BadInputError for anything else."""
    extension = path.suffix.lower()
    if extension not in PALETTE_EXTENSIONS:
        raise BadInputError(f"{path.name!r} is not a palette file; use one of {', '.join(PALETTE_EXTENSIONS)}.")
    if not path.is_file():
        raise BadInputError(f"The palette file {path.name!r} is not in ComfyUI's input folder; put it there or choose another.")
    size_bytes = path.stat().st_size
    if size_bytes > _MAX_FILE_BYTES:
        raise BadInputError(f"{path.name!r} has {size_bytes} bytes; a palette file may have at most {_MAX_FILE_BYTES}.")
    if extension == ".png":
        return _read_strip(path)
    data = path.read_bytes()
    if extension == ".hex":
        return _parse_hex(data, path.name)
    if extension == ".gpl":
        return _parse_gpl(data, path.name)
    return _parse_riff(data, path.name) if data[:4] == b"RIFF" else _parse_jasc(data, path.name)


def _distinct(colours: list[tuple[int, int, int]], name: str) -> NDArray[np.uint8]:
    distinct = list(dict.fromkeys(colours))
    if not 1 <= len(distinct) <= MAX_COLOURS:
        raise BadInputError(f"{name!r} holds {len(distinct)} colours; a palette needs 1 to {MAX_COLOURS}.")
    return np.array(distinct, dtype=np.uint8)


def _text_lines(data: bytes, name: str) -> list[str]:
    try:
        return [line.strip() for line in data.decode("utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise BadInputError(f"{name!r} is not a text file; expected a palette in its own format.") from error


def _from_hex_words(words: list[str], name: str) -> NDArray[np.uint8]:
    colours = []
    for word in words:
        digits = word.removeprefix("#")
        if len(digits) not in (6, 8) or not all(digit in "0123456789abcdefABCDEF" for digit in digits):
            raise BadInputError(f"{name!r} holds {word[:20]!r}; each line of a .hex palette is one colour as RRGGBB.")
        colours.append((int(digits[0:2], 16), int(digits[2:4], 16), int(digits[4:6], 16)))
    return _distinct(colours, name)


def _parse_hex(data: bytes, name: str) -> NDArray[np.uint8]:
    return _from_hex_words([line for line in _text_lines(data, name) if line and not line.startswith((";", "//"))], name)


def _rgb_of(line: str, name: str) -> tuple[int, int, int]:
    fields = line.split()[:3]
    if len(fields) < 3 or not all(field.isascii() and field.isdecimal() and len(field) <= 3 for field in fields):
        raise BadInputError(f"{name!r} holds the line {line[:40]!r}; expected three numbers from 0 to 255.")
    red, green, blue = (int(field) for field in fields)
    if max(red, green, blue) > 255:
        raise BadInputError(f"{name!r} holds the line {line[:40]!r}; expected three numbers from 0 to 255.")
    return red, green, blue


def _parse_gpl(data: bytes, name: str) -> NDArray[np.uint8]:
    lines = _text_lines(data, name)
    if not lines or lines[0] != "GIMP Palette":
        raise BadInputError(f"{name!r} does not begin with 'GIMP Palette', so it is no .gpl palette.")
    header = ("#", "Name:", "Columns:", "Channels:")
    return _distinct([_rgb_of(line, name) for line in lines[1:] if line and not line.startswith(header)], name)


def _parse_jasc(data: bytes, name: str) -> NDArray[np.uint8]:
    lines = _text_lines(data, name)
    if len(lines) < 3 or lines[0] != "JASC-PAL" or not (lines[2].isascii() and lines[2].isdecimal()):
        raise BadInputError(f"{name!r} is neither a JASC-PAL nor a RIFF palette, so it cannot be read as .pal.")
    colours = [_rgb_of(line, name) for line in lines[3:] if line]
    if len(lines[2]) > 5 or len(colours) != int(lines[2]):
        raise BadInputError(f"{name!r} announces {lines[2][:20]} colours and holds {len(colours)}; the file is damaged.")
    return _distinct(colours, name)


def _parse_riff(data: bytes, name: str) -> NDArray[np.uint8]:
    # LOGPALETTE in a RIFF container: "RIFF" size "PAL " "data" size version:u16 count:u16 {r g b flags}*
    if len(data) < 24 or data[8:16] != b"PAL data":
        raise BadInputError(f"{name!r} is a RIFF file without a palette in it.")
    (count,) = struct.unpack_from("<H", data, 22)
    if len(data) < 24 + 4 * count:
        raise BadInputError(f"{name!r} announces {count} colours and ends before them; the file is damaged.")
    return _distinct([(data[i], data[i + 1], data[i + 2]) for i in range(24, 24 + 4 * count, 4)], name)


def _read_strip(path: Path) -> NDArray[np.uint8]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path, formats=["PNG"]) as picture:
            if picture.width * picture.height > _MAX_STRIP_PIXELS:
                raise BadInputError(
                    f"{path.name!r} is {picture.width}x{picture.height}; a palette strip may have 4096x4096 pixels."
                )
            pixels = np.asarray(picture.convert("RGBA"))
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        if isinstance(error, BadInputError):
            raise
        raise BadInputError(f"{path.name!r} cannot be read as a PNG picture: {error}.") from error
    opaque = pixels[pixels[..., 3] >= 128]
    red, green, blue = (opaque[:, channel].astype(np.uint32) for channel in range(3))
    codes = red << 16 | green << 8 | blue
    # np.unique sorts: 13 s of one core for the largest strip, this takes 1 s. The last of several values at one place stays.
    first = np.full(1 << 24, -1, dtype=np.int32)
    first[codes[::-1]] = np.arange(len(codes) - 1, -1, -1, dtype=np.int32)
    colours = np.flatnonzero(first >= 0)
    if len(colours) > MAX_COLOURS:
        raise BadInputError(
            f"{path.name!r} holds {len(colours)} colours, so it is a picture and no palette strip (at most {MAX_COLOURS}); "
            "connect it as a reference picture instead."
        )
    ordered = colours[np.argsort(first[colours])]
    return _distinct([(int(code) >> 16, int(code) >> 8 & 255, int(code) & 255) for code in ordered], path.name)
