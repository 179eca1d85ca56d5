"""Colours, palettes and dithering."""

import numpy as np
import pytest
from ciede2000 import ciede2000
from fast_sprites.nodes.engine.pixel.builtin_palettes import BUILTIN_PALETTES
from fast_sprites.nodes.engine.pixel.cells import CellLines, sample_cells
from fast_sprites.nodes.engine.pixel.colour import lab_to_srgb, srgb_to_lab
from fast_sprites.nodes.engine.pixel.dither import DITHERS, bayer_matrix, map_to_palette
from fast_sprites.nodes.engine.pixel.palette import find_palette, recover_colours
from fast_sprites.nodes.engine.pixel.palette_files import builtin_palette


# Sharma, Wu and Dalal 2005, table 1
@pytest.mark.parametrize(
    ("first", "second", "difference"),
    [
        ((50.0, 2.6772, -79.7751), (50.0, 0.0, -82.7485), 2.0425),
        ((50.0, 2.5, 0.0), (50.0, 0.0, -2.5), 4.3065),
        ((50.0, 2.49, -0.001), (50.0, -2.49, 0.0011), 7.2195),
        ((2.0776, 0.0795, -1.135), (0.9033, -0.0636, -0.5514), 0.9082),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
    ],
)
def test_ciede2000_matches_the_published_pairs(first, second, difference):
    assert float(ciede2000(np.array(first), np.array(second))) == pytest.approx(difference, abs=1e-4)


def test_lab_round_trip():
    rgb = np.random.default_rng(0).integers(0, 256, (500, 3)).astype(np.float32)
    assert np.abs(lab_to_srgb(srgb_to_lab(rgb)) - rgb).max() < 0.1
    assert srgb_to_lab(np.array([255.0, 255.0, 255.0])) == pytest.approx([100, 0, 0], abs=0.02)


def drawn(colours: list[tuple[int, int, int]], noise: float, side: int = 48) -> np.ndarray:
    rng = np.random.default_rng(1)
    labels = np.kron(rng.integers(0, len(colours), (side // 4, side // 4)), np.ones((4, 4), int))
    return np.clip(np.array(colours, dtype=np.float32)[labels] + rng.normal(0, noise, (side, side, 3)), 0, 255)[None]


SIX = [(20, 20, 30), (200, 40, 40), (220, 90, 60), (40, 160, 80), (60, 100, 220), (240, 240, 230)]


@pytest.mark.parametrize("noise", [0.0, 2.0, 4.0])
def test_number_of_colours_is_found(noise):
    palette = find_palette(drawn(SIX, noise)).colours
    assert len(palette) == 6
    gap = ciede2000(srgb_to_lab(np.array(SIX))[:, None], srgb_to_lab(palette)[None]).min(axis=1)
    assert gap.max() < 1.0


def test_at_most_n_colours():
    pictures = drawn(SIX, 1.0)
    for count in (1, 2, 5):
        assert len(find_palette(pictures, count).colours) == count
    assert len(find_palette(pictures, 200).colours) == 6


def test_clear_pixels_have_no_say():
    pictures = np.concatenate([drawn(SIX, 0.0), np.zeros((1, 48, 48, 1), np.float32)], axis=-1)
    pictures[:, :24, :, 3] = 255
    pictures[:, 24:, :, :3] = (255, 0, 255)
    assert [255, 0, 255] not in find_palette(pictures).colours.tolist()


def test_a_single_pixel_of_a_strong_colour_is_kept():
    pictures = drawn(SIX, 0.0)
    pictures[0, 10, 10] = (255, 0, 255)
    assert [255, 0, 255] in find_palette(pictures).colours.tolist()


def cut_by_the_border(bottom: np.ndarray | tuple[int, int, int]) -> np.ndarray:
    """A sprite with an outline in the last row but one; the last row is as given below it, plain elsewhere."""
    pictures = drawn(SIX, 0.0)
    pictures[0, -6:] = SIX[5]
    pictures[0, -2, 20:28] = SIX[0]
    pictures[0, -1, 20:28] = bottom
    return np.clip(pictures + np.random.default_rng(2).normal(0, 1.5, pictures.shape), 0, 255).astype(np.float32)


def test_background_cut_to_a_sliver_and_mixed_with_the_outline_is_no_colour():
    outline, plain = np.array(SIX[0]), np.array(SIX[5])
    palette, cells = recover_colours(cut_by_the_border(0.85 * plain + 0.15 * outline))
    assert len(palette.colours) == 6
    mapped = palette.colours[map_to_palette(cells[0], palette.colours)]
    assert (mapped[-1] == mapped[-1, 0]).all()


def test_drawn_colour_along_the_border_is_kept():
    assert len(find_palette(cut_by_the_border((230, 160, 210))).colours) == 7


def test_clean_shade_along_the_border_is_kept():
    pictures = drawn(SIX, 0.0)
    pictures[0, -6:] = SIX[5]
    pictures[0, -2, 20:28], pictures[0, -1, 20:28] = SIX[0], (207, 207, 200)
    assert [207, 207, 200] in find_palette(pictures).colours.tolist()


def test_builtin_palettes_have_their_colours():
    counts = {name: len(builtin_palette(name)) for name in BUILTIN_PALETTES}
    assert counts == {"PICO-8": 16, "Game Boy": 4, "NES": 55, "Sweetie 16": 16, "DB32": 32}


def test_bayer_matrix_is_bayers():
    assert np.array_equal((bayer_matrix(2) + 0.5) * 4 - 0.5, [[0, 2], [3, 1]])
    assert sorted(((bayer_matrix(8) + 0.5) * 64 - 0.5).astype(int).ravel()) == list(range(64))


@pytest.mark.parametrize("dither", DITHERS)
def test_dither_uses_palette_colours_and_keeps_the_mean(dither):
    black_white = np.array([[0, 0, 0], [255, 255, 255]], dtype=np.uint8)
    grey = np.full((32, 32, 3), float(lab_to_srgb(np.array([40.0, 0, 0]))[0]), dtype=np.float32)
    labels = map_to_palette(grey, black_white, dither)
    assert set(np.unique(labels)) <= {0, 1}
    if dither == "none":
        assert labels.max() == 0
    elif dither != "atkinson":  # it drops a quarter of the error
        assert labels.mean() == pytest.approx(0.4, abs=0.11)
    assert np.array_equal(map_to_palette(grey, black_white, dither, 0.0), np.zeros((32, 32)))


def test_palette_colours_pass_every_dither_unchanged():
    palette = builtin_palette("Sweetie 16")
    labels = np.random.default_rng(2).integers(0, 16, (24, 24))
    for dither in DITHERS:
        assert np.array_equal(map_to_palette(palette[labels].astype(np.float32), palette, dither), labels)


def test_clean_backdrop_does_not_hide_the_noise_of_the_sprite():
    picture = np.full((1, 64, 64, 3), 255, dtype=np.float32)
    picture[:, 12:52, 12:52] = drawn(SIX, 5.0, 40)
    assert len(find_palette(picture).colours) in (6, 7)  # 240, 240, 230 may count as the backdrop


def test_single_cells_that_blur_mixed_are_no_colours():
    """An outline of single cells that took on some of the body, more in some cells than in others."""
    outline, body, backdrop = np.array([[20, 16, 24], [208, 70, 72], [60, 120, 220]], dtype=np.float32)
    picture = np.broadcast_to(backdrop, (1, 40, 40, 3)).copy()
    picture[:, 8:32, 8:32] = body
    picture[:, 8, 8:32] = outline
    for x, share in ((10, 0.1), (14, 0.18), (19, 0.26), (25, 0.34)):
        picture[0, 8, x] = outline * (1 - share) + body * share
    assert len(find_palette(picture).colours) == 3


def test_blur_is_taken_out_of_the_colours():
    rng = np.random.default_rng(2)
    true = np.array([[30, 30, 60], [200, 60, 50], [90, 190, 80]], dtype=np.float32)
    native = true[rng.integers(0, 3, (40, 40))]
    around = sum(np.roll(native, shift, axis) for shift in (-1, 1) for axis in (0, 1)) / 4
    blurred = 0.94 * native + 0.06 * around
    colours = find_palette(blurred[None]).colours.astype(int)
    assert len(colours) == 3
    assert all(np.abs(colours - colour).max(axis=1).min() <= 3 for colour in true)  # 6 without


THREE = np.array([[30, 30, 60], [200, 60, 50], [90, 190, 80]], dtype=np.float32)


def test_a_misplaced_line_is_taken_out_of_its_column():
    rng = np.random.default_rng(5)
    native = THREE[rng.integers(0, 3, (40, 40))]
    seen = native + rng.normal(0, 3, native.shape)
    seen[:, 17] -= 0.1 * (native[:, 17] - native[:, 16])
    palette, cleaned = recover_colours(seen[None].astype(np.float32))
    assert len(palette.colours) == 3
    step = native[:, 16] - native[:, 17]
    assert abs(((cleaned[0, :, 17] - native[:, 17]) * step).sum() / (step**2).sum()) < 0.02


def test_slow_drift_is_taken_out_of_the_cells():
    rng = np.random.default_rng(6)
    native = THREE[rng.integers(0, 3, (48, 48))]
    y, x = np.mgrid[0:48, 0:48] / 48
    drift = (3 * np.sin(7 * x + 4 * y))[..., None] * np.array([1.0, -1.0, 0.5])
    seen = (native + drift + rng.normal(0, 1, native.shape)).astype(np.float32)
    palette, cleaned = recover_colours(seen[None])
    assert len(palette.colours) == 3
    assert np.abs(cleaned[0] - native).mean() < 0.6 * np.abs(seen - native).mean()


def test_clipped_noise_does_not_darken_white():
    rng = np.random.default_rng(7)
    picture = np.clip(np.full((128, 128, 3), 255.0) + rng.normal(0, 8, (128, 128, 3)), 0, 255)
    lines = CellLines(np.linspace(0, 128, 17, dtype=np.float32), np.linspace(0, 128, 17, dtype=np.float32))
    cells = sample_cells(picture.astype(np.float32), lines, 8.0)
    assert cells.mean() > 254  # 252 as the plain mean
