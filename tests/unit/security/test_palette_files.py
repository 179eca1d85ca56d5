"""Palette files come from anywhere: whatever bytes they hold, the answer is a palette or one sentence, in bounded time and memory."""

import io
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("hypothesis", reason="the fuzz tests need hypothesis: pip install hypothesis")

from fast_sprites.nodes.engine.errors import BadInputError
from fast_sprites.nodes.engine.pixel.palette_files import MAX_COLOURS, PALETTE_EXTENSIONS, read_palette_file
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from .hostile import texts


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes, data: bytes = b"", depth: int = 8, colour: int = 2) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IDAT", zlib.compress(data, 9)) + chunk(b"IEND", b"")


def strip(colours: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(colours * 3, dtype=np.uint8).reshape(1, colours, 3)).save(buffer, "PNG")
    return buffer.getvalue()


BOMB = bytes(64 * 1024 * 1024)
VALID = {
    ".hex": b"ff0000\n00ff00\n",
    ".gpl": b"GIMP Palette\nName: x\n#\n255 0 0 red\n0 255 0\n",
    ".pal": b"JASC-PAL\n0100\n2\n255 0 0\n0 255 0\n",
    ".png": strip(8),
    ".riff.pal": b"RIFF" + struct.pack("<I", 24) + b"PAL data" + struct.pack("<IHH", 12, 0x300, 2) + bytes(8),
}
HOSTILE_PICTURES = {
    "larger than any memory": png(2**31 - 1, 2**31 - 1),
    "no pixels": png(0, 0),
    "less data than pixels": png(4096, 4096, data=b"\0"),
    "more data than pixels": png(1, 1, data=BOMB),
    "a text that unpacks to 64 MiB": png(1, 1, chunk(b"zTXt", b"a\0\0" + zlib.compress(BOMB, 9)), data=bytes(4)),
    "an international text that does": png(1, 1, chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(BOMB, 9)), data=bytes(4)),
    "a colour profile that does": png(1, 1, chunk(b"iCCP", b"a\0\0" + zlib.compress(BOMB, 9)), data=bytes(4)),
    "a chunk without an end": png(1, 1)[:33] + struct.pack(">I", 2**31 - 1) + b"IDAT",
    "an animation of a billion frames": png(1, 1, chunk(b"acTL", struct.pack(">II", 10**9, 0)), data=bytes(4)),
    "an unknown depth": png(1, 1, depth=3, data=bytes(4)),
    "an unknown colour type": png(1, 1, colour=5, data=bytes(4)),
    "indices without colours": png(1, 1, colour=3, data=b"\0\1"),
    "a page of another format": b"GIF89a" + bytes(40),
    "a script": b"<svg onload='alert(1)'/>",
}


def mutated(valid: bytes) -> st.SearchStrategy[bytes]:
    """The file with a few bytes replaced, cut off, or doubled."""

    def change(spots: list[tuple[int, int]], cut: int, repeat: int) -> bytes:
        data = bytearray(valid)
        for place, value in spots:
            data[place % len(data)] = value
        return bytes(data[: len(data) - cut % len(data)] * repeat)

    return st.builds(
        change,
        st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=6),
        st.integers(0, 10**6) | st.just(0),
        st.integers(1, 3),
    )


contents = st.one_of(
    st.binary(max_size=200),
    st.sampled_from(list(VALID.values())).flatmap(mutated),
    texts.map(lambda text: text.encode(errors="surrogatepass")),
)


def read_or_refuse(path: Path) -> None:
    try:
        palette = read_palette_file(path)
    except BadInputError:
        pass
    else:
        assert palette.dtype == np.uint8
        assert palette.shape == (len(palette), 3)
        assert 1 <= len(np.unique(palette, axis=0)) == len(palette) <= MAX_COLOURS


@given(data=contents, extension=st.sampled_from(PALETTE_EXTENSIONS))
@example(data=b"RIFF" + bytes(4) + b"PAL data", extension=".pal")
@example(data="JASC-PAL\n0100\n\u0661\n1 1 1".encode(), extension=".pal")
@example(data=b"JASC-PAL\n0100\n" + b"9" * 5000 + b"\n1 1 1", extension=".pal")
def test_any_bytes_are_a_palette_or_refused(tmp_path: Path, data: bytes, extension: str):
    path = tmp_path / f"palette{extension}"
    path.write_bytes(data)
    read_or_refuse(path)


@pytest.mark.parametrize("name", HOSTILE_PICTURES)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_hostile_picture_costs_neither_time_nor_memory(tmp_path: Path, name: str):
    import tracemalloc

    (tmp_path / "strip.png").write_bytes(HOSTILE_PICTURES[name])
    assert len(HOSTILE_PICTURES[name]) < 100_000
    tracemalloc.start()
    started = time.process_time()
    read_or_refuse(tmp_path / "strip.png")
    took_s, peak = time.process_time() - started, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert took_s < 3
    assert peak < 200 * 2**20


def test_the_largest_strip_is_read_in_seconds(tmp_path: Path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8).repeat(64, 0).repeat(64, 1)).save(
        tmp_path / "strip.png"
    )
    started = time.process_time()
    with pytest.raises(BadInputError, match="holds 4096 colours"):
        read_palette_file(tmp_path / "strip.png")
    assert time.process_time() - started < 5


@pytest.mark.parametrize("kind", ["folder", "pipe", "link to nothing", "link to itself"])
def test_what_is_no_file_is_not_opened(tmp_path: Path, kind: str):
    import os

    path = tmp_path / "palette.hex"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        if not hasattr(os, "mkfifo"):
            pytest.skip("this system has no named pipes")
        os.mkfifo(path)
    else:
        path.symlink_to(path if kind == "link to itself" else tmp_path / "nowhere")
    with pytest.raises(BadInputError, match="is not in ComfyUI's input folder"):
        read_palette_file(path)
