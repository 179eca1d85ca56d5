"""Second looks: lines move to where whole cells change colour, unclear cells to the colour of their neighbours."""

import numpy as np
from fast_sprites.nodes.engine.pixel.lines import settle_lines
from fast_sprites.nodes.engine.pixel.snap import SnapRequest, snap_batch
from fast_sprites.nodes.engine.pixel.unclear import settle_unclear

RED, BROWN = np.array([208, 70, 72], dtype=np.uint8), np.array([150, 80, 60], dtype=np.uint8)
PALETTE = np.stack([RED, BROWN])


def _noisy(labels):
    rng = np.random.default_rng(1)
    return PALETTE[labels][None] + rng.normal(0, 2, (1, *labels.shape, 3)).astype(np.float32)


def _settled(cells):
    opaque = np.ones(cells.shape[:3], dtype=bool)
    return settle_unclear(np.clip(cells, 0, 255).astype(np.float32), PALETTE, opaque)[0]


def _distance(cell, colour):
    return np.abs(cell - colour.astype(np.float32)).sum()


def test_lone_cell_between_two_colours_takes_its_neighbours_colour():
    cells = _noisy(np.zeros((12, 12), dtype=int))
    cells[0, 5, 5] = 0.45 * RED + 0.55 * BROWN
    settled = _settled(cells)
    assert np.array_equal(settled[5, 5], RED)
    assert np.array_equal(np.delete(settled.reshape(-1, 3), 65, axis=0), np.delete(cells.reshape(-1, 3), 65, axis=0))


def test_drawn_single_pixel_and_checks_stay():
    labels = np.indices((12, 12)).sum(axis=0) % 2
    labels[:, 6:] = 0
    labels[4, 9] = 1
    settled = _settled(_noisy(labels))
    nearest = [[_distance(cell, BROWN) < _distance(cell, RED) for cell in row] for row in settled]
    assert np.array_equal(nearest, labels == 1)


def test_clear_cells_are_left_out():
    cells = _noisy(np.zeros((12, 12), dtype=int))
    cells[0, 5, 5] = 0.45 * RED + 0.55 * BROWN
    opaque = np.zeros(cells.shape[:3], dtype=bool)
    opaque[0, 5, 5] = True
    opaque[0, 0] = True
    settled = settle_unclear(np.clip(cells, 0, 255).astype(np.float32), PALETTE, opaque)
    assert np.array_equal(settled[0, 5, 5], cells[0, 5, 5].astype(np.float32))


def test_line_moves_to_its_votes_and_others_stay():
    drawn = np.array([0.0, 10, 20, 34, 40, 50, 60])
    votes = np.zeros(61, dtype=np.float32)
    votes[drawn[1:-1].astype(int)] = 8.0
    settled = settle_lines(np.arange(0, 61, 10, dtype=np.float32), votes, 10.0)
    assert np.abs(settled - drawn).max() < 0.6


def test_line_without_votes_keeps_even_spacing():
    settled = settle_lines(np.array([0, 10, 23, 30, 40], dtype=np.float32), np.zeros(41, dtype=np.float32), 10.0)
    assert np.abs(np.diff(settled) - 10).max() <= 2


def test_uneven_cells_keep_their_colours():
    """Columns of 5 px among columns of 10: too narrow for an even grid, and drawn all the same."""
    rng = np.random.default_rng(8)
    colours = np.array([[20, 12, 28], [208, 70, 72], [222, 238, 214], [52, 101, 36]], dtype=np.float32)
    native = colours[rng.integers(0, 4, (32, 32))]
    widths = np.full(32, 10)
    widths[[9, 20]], widths[[10, 21]] = 5, 15
    picture = native.repeat(widths, axis=1).repeat(10, axis=0)
    cells = snap_batch(picture[None], SnapRequest()).cells
    assert cells.shape == (1, 32, 32, 3)
    assert np.abs(cells[0] - native).max() < 8
