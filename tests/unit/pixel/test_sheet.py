"""Background, sheet layout and the files around it."""

import json
import re

import numpy as np
import pytest
from fast_sprites.nodes.engine.errors import BadInputError
from fast_sprites.nodes.engine.pixel.background import background_alpha, bleed_under_alpha, reaches_border
from fast_sprites.nodes.engine.pixel.png import encode_indexed, encode_rgba, index_pixels
from fast_sprites.nodes.engine.pixel.sheet import compose_sheet, crop_to_content, plan_layout
from fast_sprites.nodes.engine.pixel.sheet_json import frame_names, godot_sprite_frames, sheet_json
from PIL import Image

GREEN, RED = (0, 255, 0), (200, 0, 0)


def ring() -> np.ndarray:
    """A red ring on green, with green inside."""
    cells = np.full((12, 12, 3), GREEN, dtype=np.uint8)
    cells[2:10, 2:10] = RED
    cells[4:8, 4:8] = GREEN
    return cells


def test_background_is_cut_up_to_the_sprite():
    alpha = background_alpha(ring())
    assert (alpha == np.where(np.pad(np.ones((8, 8)), 2) > 0, 255, 0)).all()


def test_enclosed_holes_on_request():
    alpha = background_alpha(ring(), enclosed_holes=True)
    assert (alpha[4:8, 4:8] == 0).all()
    assert (alpha[2:4, 2:10] == 255).all()


def test_flood_fill_follows_a_spiral():
    open_cells = np.array([[c == "." for c in row] for row in (".#####", ".#...#", ".#.#.#", ".###.#", ".....#", "######")])
    assert reaches_border(open_cells).sum() == open_cells.sum()
    open_cells[0, 0] = open_cells[1, 0] = open_cells[2, 0] = open_cells[3, 0] = open_cells[4, 0] = False
    assert reaches_border(open_cells).sum() == 0


def test_picture_without_a_plain_border_stays_whole():
    cells = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    assert (background_alpha(cells) == 255).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (2, 2)])
def test_smallest_pictures(shape):
    assert (background_alpha(np.zeros((*shape, 3), np.uint8)) == 0).all()


def test_tolerance_takes_near_colours():
    cells = ring()
    cells[0, :6] = (0, 250, 4)
    assert (background_alpha(cells)[0, :6] == 255).all()
    assert (background_alpha(cells, tolerance=5.0)[0] == 0).all()


def test_clear_pixels_beside_the_sprite_take_its_colour():
    alpha = background_alpha(ring())
    bled = bleed_under_alpha(ring(), alpha, rings=1)
    assert bled[1, 5].tolist() == list(RED)
    assert bled[0, 5].tolist() == [0, 0, 0]
    assert (bled[alpha > 0] == ring()[alpha > 0]).all()


def test_layout_columns_padding_and_extrusion():
    layout = plan_layout(5, (16, 8), columns=2, padding=3, extrude=1)
    assert (layout.columns, layout.rows) == (2, 3)
    assert (layout.width, layout.height) == (2 * 18 + 3, 3 * 10 + 2 * 3)
    assert layout.origin(3) == (1 + 18 + 3, 1 + 10 + 3)


def test_layout_auto_columns_and_power_of_two():
    assert plan_layout(8, (64, 64)).columns == 3
    assert plan_layout(1, (64, 64), columns=7).columns == 1
    layout = plan_layout(3, (48, 48), columns=3, power_of_two=True)
    assert (layout.width, layout.height) == (256, 64)


def test_layout_beyond_what_engines_load_is_refused():
    with pytest.raises(BadInputError, match="16384"):
        plan_layout(100, (1024, 1024), columns=100)


def test_extrusion_repeats_the_border():
    frame = np.zeros((1, 2, 2, 4), np.uint8)
    frame[0, 0, 0] = (9, 9, 9, 255)
    sheet = compose_sheet(frame, plan_layout(1, (2, 2), extrude=1))
    assert sheet.shape == (4, 4, 4)
    assert (sheet[:2, :2] == (9, 9, 9, 255)).all()
    assert (sheet[2:, 2:] == 0).all()


def test_common_crop_stands_on_the_feet_or_is_centred():
    frames = np.zeros((3, 10, 10, 4), np.uint8)
    frames[0, 1:7, 2:6] = 255
    frames[1, 5:7, 8:10] = 255
    feet = crop_to_content(frames, "feet")
    assert feet.shape == (3, 6, 4, 4)
    assert feet[1, 4:6, 1:3, 3].all()
    assert feet[1].astype(bool).sum() == 2 * 2 * 4
    assert not feet[2].any()
    assert crop_to_content(frames, "centre")[1, 2:4, 1:3, 3].all()
    assert crop_to_content(frames[2:], "feet").shape == (1, 10, 10, 4)


def test_json_is_aseprites_hash():
    layout = plan_layout(2, (64, 32), columns=2)
    names = frame_names("knight", 2, "name_index")
    document = json.loads(
        sheet_json(layout, names, animation="knight", image="k.png", indexed=False, frame_ms=120, sprite_facts={"seeds": [1, 2]})
    )
    assert document["frames"]["knight_1"] == {
        "frame": {"x": 64, "y": 0, "w": 64, "h": 32},
        "rotated": False,
        "trimmed": False,
        "spriteSourceSize": {"x": 0, "y": 0, "w": 64, "h": 32},
        "sourceSize": {"w": 64, "h": 32},
        "duration": 120,
    }
    assert document["animations"] == {"knight": ["knight_0", "knight_1"]}
    meta = document["meta"]
    assert meta["frameTags"] == [{"name": "knight", "from": 0, "to": 1, "direction": "forward"}]
    assert (meta["image"], meta["scale"], meta["size"], meta["format"]) == ("k.png", "1", {"w": 128, "h": 32}, "RGBA8888")
    assert meta["sprite"] == {"seeds": [1, 2]}
    assert frame_names("knight", 2, "index") == ["0", "1"]


def test_godot_resource_counts_its_parts():
    layout = plan_layout(3, (16, 16), columns=3)
    text = godot_sprite_frames(layout, 3, animation='a"b', image="k.png", frame_ms=100)
    steps = int(re.search(r"load_steps=(\d+) format=3", text)[1])  # type: ignore[index]
    assert steps == text.count("[ext_resource") + text.count("[sub_resource") + 1
    assert '[ext_resource type="Texture2D" path="k.png" id="1"]' in text
    assert "region = Rect2(32, 0, 16, 16)" in text
    assert '"name": &"a\\"b"' in text
    assert '"speed": 10\n' in text


def test_indexed_png_opens_with_its_palette(tmp_path):
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[1, 1], pixels[2, 2], pixels[3, 3] = (10, 20, 30, 255), (40, 50, 60, 255), (1, 2, 3, 255)
    palette = np.array([[40, 50, 60], [7, 7, 7], [10, 20, 30]], dtype=np.uint8)
    (tmp_path / "i.png").write_bytes(encode_indexed(*index_pixels(pixels, palette), {"prompt": "{}"}))
    with Image.open(tmp_path / "i.png") as picture:
        assert picture.mode == "P"
        assert picture.info["transparency"] == 0
        assert picture.info["prompt"] == "{}"
        assert picture.getpalette()[:15] == [0, 0, 0, 40, 50, 60, 7, 7, 7, 10, 20, 30, 1, 2, 3]  # type: ignore[index]
        assert np.asarray(picture)[2, 2] == 1
        assert np.array_equal(np.asarray(picture.convert("RGBA")), pixels)


def test_rgba_png_round_trip(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 4), dtype=np.uint8)
    (tmp_path / "r.png").write_bytes(encode_rgba(pixels, {"workflow": '{"a": 1}'}))
    with Image.open(tmp_path / "r.png") as picture:
        assert picture.info["workflow"] == '{"a": 1}'
        assert np.array_equal(np.asarray(picture), pixels)


def test_too_many_colours_for_an_indexed_png():
    pixels = np.full((16, 17, 4), 255, np.uint8)
    pixels[..., 0] = np.arange(16)[:, None]
    pixels[..., 1] = np.arange(17)
    with pytest.raises(BadInputError, match="272 colours"):
        index_pixels(pixels, None)
