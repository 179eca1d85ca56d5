"""Narrow cells and those at the border, with what blur carried into them taken out."""

import numpy as np
import pytest
from fast_sprites.nodes.engine.pixel.cells import CellLines, sample_cells
from fast_sprites.nodes.engine.pixel.narrow import unmix_narrow_cells
from numpy.lib.stride_tricks import sliding_window_view

PITCH = 16.0


def blurred_drawing(sigma: float, noise: float, inner: float = 0.5) -> tuple[np.ndarray, CellLines, np.ndarray]:
    """Random cells of four colours whose column 0 is a fifth of a cell wide, at the border, and whose column 9 is `inner` of one."""
    rng = np.random.default_rng(3)
    widths = np.full(24, PITCH)
    widths[[0, 9]] = 0.2 * PITCH, inner * PITCH
    columns, rows = np.concatenate([[0], np.cumsum(widths)]), np.arange(25) * PITCH
    drawn = rng.choice(np.array([[20, 30, 40], [230, 220, 90], [90, 160, 60], [200, 60, 70]], dtype=np.float32), (24, 24))
    x = np.searchsorted(columns, np.arange(int(columns[-1])) + 0.5) - 1
    y = np.searchsorted(rows, np.arange(int(rows[-1])) + 0.5) - 1
    picture = drawn[y][:, x]
    if sigma:
        reach = np.arange(-16, 17)
        kernel = np.exp(-0.5 * (reach / sigma) ** 2)
        kernel /= kernel.sum()
        for _ in range(2):
            padded = np.pad(picture, ((16, 16), (0, 0), (0, 0)), mode="edge")
            picture = np.tensordot(kernel, sliding_window_view(padded, len(kernel), axis=0), axes=(0, 3)).swapaxes(0, 1)
    picture = np.clip(picture + rng.normal(0, noise, picture.shape), 0, 255).astype(np.float32)
    return picture, CellLines(columns.astype(np.float32), rows.astype(np.float32)), drawn


@pytest.mark.parametrize("column", [0, 9])
def test_narrow_cells_hold_no_more_of_their_neighbours_than_others(column):
    picture, lines, drawn = blurred_drawing(sigma=3.0, noise=3.0)
    sampled = sample_cells(picture, lines, PITCH)
    cells = unmix_narrow_cells(picture, lines, sampled, PITCH)

    def error(found: np.ndarray) -> float:
        return float(np.abs(found[:, column] - drawn[:, column]).mean())

    assert error(cells) < 0.5 * error(sampled)
    wide = [at for at in range(24) if at not in (0, 9)]
    assert np.array_equal(cells[:, wide], sampled[:, wide])


def test_clean_drawings_stay_as_they_are():
    picture, lines, drawn = blurred_drawing(sigma=0.0, noise=0.0)
    off = CellLines(lines.columns + np.float32(0.8), lines.rows - np.float32(0.5))
    sampled = sample_cells(picture, off, PITCH)
    assert np.array_equal(unmix_narrow_cells(picture, off, sampled, PITCH), sampled)
    assert np.abs(sampled - drawn).max() < 1e-3


def test_cells_that_hold_next_to_nothing_of_themselves_stay_as_they_are():
    picture, lines, _ = blurred_drawing(sigma=3.0, noise=3.0, inner=0.12)
    sampled = sample_cells(picture, lines, PITCH)
    cells = unmix_narrow_cells(picture, lines, sampled, PITCH)
    assert np.array_equal(cells[:, 9], sampled[:, 9])
    assert not np.array_equal(cells[:, 0], sampled[:, 0])
