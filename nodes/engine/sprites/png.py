"""PNG files with a fast deflate, written from threads: zlib and its replacements release Python's lock.

A smooth 1024x1024 RGB picture with grain takes 174 ms of one core with Pillow at SaveImage's level 4, here 86 ms with zlib, 54 ms with
zlib-ng and 15 ms with ISA-L, in files 11 %, 6 % and 5 % larger (a picture of flat squares: 15, 15, 7 and 6 ms).
"""

import functools
import struct
import zlib
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

_COLOUR_TYPES = {1: 0, 3: 2, 4: 6}


@functools.cache
def deflate() -> tuple[str, Callable[[bytes], bytes]]:
    """Return name and function of the fastest installed deflate; all of them write zlib streams."""
    try:
        from isal import isal_zlib
    except ImportError:
        pass
    else:
        return "isa-l", lambda data: isal_zlib.compress(data, 1)
    try:
        from zlib_ng import zlib_ng
    except ImportError:
        return "zlib", lambda data: zlib.compress(data, 4)
    return "zlib-ng", lambda data: zlib_ng.compress(data, 3)


def encode_png(pixels: NDArray[np.uint8], texts: Mapping[str, str]) -> bytes:
    """Return a PNG of [H, W, C] pixels (C: 1, 3 or 4) with text chunks; texts must be Latin-1, such as JSON in ASCII.

    Format: https://www.w3.org/TR/png-3/.
    """
    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOUR_TYPES[channels], 0, 0, 0)
    chunks = [_chunk(b"IHDR", header)]
    chunks += [_chunk(b"tEXt", key.encode("latin-1") + b"\0" + text.encode("latin-1")) for key, text in texts.items()]
    chunks += [_chunk(b"IDAT", deflate()[1](_filtered(pixels))), _chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _filtered(pixels: NDArray[np.uint8]) -> bytes:
    """Return the rows with the filter of each that leaves the least sum of absolute differences (PNG specification, 12.7)."""
    height, width, channels = pixels.shape
    rows = pixels.reshape(height, width * channels)
    candidates = np.empty((3, height, 1 + width * channels), dtype=np.uint8)
    for i, kind in enumerate((0, 1, 2)):
        candidates[i, :, 0] = kind
        candidates[i, :, 1:] = rows
    candidates[1, :, 1 + channels :] -= rows[:, :-channels]
    candidates[2, 1:, 1:] -= rows[:-1]
    # An unsigned byte and its negative: the smaller is the absolute value of the byte read as signed.
    costs = np.minimum(candidates[:, :, 1:], np.negative(candidates[:, :, 1:])).sum(axis=2, dtype=np.uint32)
    return candidates[costs.argmin(axis=0), np.arange(height)].tobytes()
