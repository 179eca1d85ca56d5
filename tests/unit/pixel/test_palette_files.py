"""Palette files, sound and hostile."""

import struct

import numpy as np
import pytest
from fast_sprites.nodes.engine.errors import BadInputError
from fast_sprites.nodes.engine.pixel.palette_files import read_palette_file
from PIL import Image

COLOURS = [[26, 28, 44], [93, 39, 93], [177, 62, 83]]
HEX = b"1a1c2c\n5d275d\nb13e53\n"
GPL = b"GIMP Palette\nName: x\nColumns: 3\n# made by hand\n 26  28  44\tnight\n 93 39 93\n177 62 83 Untitled\n"
JASC = b"JASC-PAL\r\n0100\r\n3\r\n26 28 44\r\n93 39 93\r\n177 62 83\r\n"
RIFF = (
    b"RIFF"
    + struct.pack("<I", 28)
    + b"PAL data"
    + struct.pack("<IHH", 16, 0x300, 3)
    + bytes([26, 28, 44, 0, 93, 39, 93, 0, 177, 62, 83, 0])
)


def write(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.hex", HEX),
        ("a.hex", b"\xef\xbb\xbf; lospec\r\n#1A1C2C\r\n#5d275dff\r\n\r\nb13e53"),
        ("a.gpl", GPL),
        ("a.pal", JASC),
        ("a.pal", RIFF),
        ("A.HEX", HEX),
    ],
)
def test_formats(tmp_path, name, content):
    assert read_palette_file(write(tmp_path, name, content)).tolist() == COLOURS


@pytest.mark.parametrize("mode", ["RGB", "P", "RGBA"])
def test_strip(tmp_path, mode):
    strip = np.array(COLOURS, dtype=np.uint8)[None].repeat(8, axis=1).repeat(8, axis=0)
    Image.fromarray(strip).convert(mode, palette=Image.Palette.ADAPTIVE).save(tmp_path / "strip.png")
    assert read_palette_file(tmp_path / "strip.png").tolist() == COLOURS


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.hex", b"", "0 colours"),
        ("a.hex", b"zzzzzz\n", "RRGGBB"),
        ("a.hex", b"12345\n", "RRGGBB"),
        ("a.hex", "\u0661\u0662\u0663\u0664\u0665\u0666\n".encode(), "RRGGBB"),
        ("a.hex", b"\x00\xff\xfe\x80" * 50, "not a text file"),
        ("a.hex", b"\n".join(b"%06x" % i for i in range(257)), "257 colours"),
        ("a.hex", b"0" * (5 * 1024 * 1024), "bytes"),
        ("a.gpl", b"hello", "GIMP Palette"),
        ("a.gpl", b"GIMP Palette\n1 2\n", "three numbers"),
        ("a.gpl", b"GIMP Palette\n1 2 300\n", "0 to 255"),
        ("a.gpl", b"GIMP Palette\n1 -2 3\n", "three numbers"),
        ("a.pal", b"JASC-PAL\n0100\n5\n1 2 3\n", "damaged"),
        ("a.pal", b"JASC-PAL\n0100\n99999999999999999999\n1 2 3\n", "damaged"),
        ("a.pal", b"neither", "cannot be read"),
        ("a.pal", b"RIFFxxxxWAVEfmt ", "without a palette"),
        ("a.pal", RIFF[:26], "damaged"),
        ("a.png", b"not a png", "cannot be read"),
        ("a.png", b"\x89PNG\r\n\x1a\n" + b"\x00" * 40, "cannot be read"),
        ("a.exe", b"MZ", "not a palette file"),
    ],
)
def test_hostile_files_end_in_one_sentence(tmp_path, name, content, sentence):
    with pytest.raises(BadInputError, match=sentence) as caught:
        read_palette_file(write(tmp_path, name, content))
    assert "\n" not in str(caught.value)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(BadInputError, match=r"'gone\.hex' is not in ComfyUI's input folder"):
        read_palette_file(tmp_path / "gone.hex")


def test_photo_is_no_strip(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "photo.png")
    with pytest.raises(BadInputError, match="no palette strip"):
        read_palette_file(tmp_path / "photo.png")


def test_huge_strip_is_refused_before_it_is_decoded(tmp_path):
    Image.new("1", (20000, 20000)).save(tmp_path / "bomb.png")
    with pytest.raises(BadInputError, match=r"4096|cannot be read"):
        read_palette_file(tmp_path / "bomb.png")
