"""Third looks: how many lines there are is decided by the cells that change colour at them, and by an even grid that bends slowly."""

import numpy as np
import pytest
from fast_sprites.nodes.engine.pixel.cells import CellLines, sample_cells
from fast_sprites.nodes.engine.pixel.chains import follow_chains
from fast_sprites.nodes.engine.pixel.finish import pixelate
from fast_sprites.nodes.engine.pixel.palette import find_palette
from fast_sprites.nodes.engine.pixel.snap import SnapRequest, snap_batch
from generator import make_case

PITCH = 12.0


def _votes(lines, length=601, cells=6):
    votes = np.zeros(length, dtype=np.float32)
    votes[np.rint(lines).astype(int)] = 10.0 * cells
    return votes


def _even(count=51):
    return np.arange(count) * PITCH


def _follow(votes, factors=(1.0,)):
    return [chain for (chain,) in follow_chains([votes], PITCH, factors)]


def test_wide_cell_is_not_two_narrow_ones():
    drawn = _even()
    drawn[21] += 4.5  # cells of 1.38 and 0.62 pitches
    (chain,) = _follow(_votes(drawn))
    assert len(chain.lines) == len(drawn)
    assert np.abs(chain.lines - drawn).max() < 1


def test_narrow_cell_beside_a_wide_one_stays():
    drawn = _even()
    drawn[20] -= 3
    drawn[21] += 4
    drawn[22] -= 3
    (chain,) = _follow(_votes(drawn))
    assert len(chain.lines) == len(drawn)
    assert np.abs(chain.lines - drawn).max() < 1


def test_lines_that_nothing_shows_stand_where_the_grid_is_even():
    drawn = _even()
    (chain,) = _follow(_votes(np.concatenate([drawn[:16], drawn[22:]])))
    assert np.array_equal(np.flatnonzero(~chain.seen), np.arange(16, 22))
    assert np.abs(chain.lines - drawn).max() < 1


def test_line_is_missed_where_all_around_it_show():
    """A cell of one and a half pitches: what it lacks of two is as much as it has beyond one, but a line in it would show."""
    drawn = _even()
    drawn[21:] += 6
    drawn = drawn[drawn < 600]
    (chain,) = _follow(_votes(drawn, cells=12))
    assert len(chain.lines) == len(drawn)
    assert chain.seen.all()


@pytest.mark.parametrize("scale", [0.96, 1.04])
def test_the_pitch_that_fits_best_is_told_by_the_fit(scale):
    factors = (0.96, 1.0, 1.04)
    chains = _follow(_votes(np.arange(0, 600, PITCH * scale)), factors)
    best = int(np.argmax([chain.fit for chain in chains]))
    assert factors[best] == scale
    assert chains[best].pitch()[0] == pytest.approx(PITCH * scale, rel=0.002)


def test_no_votes_give_even_lines():
    (chain,) = _follow(np.zeros(601, dtype=np.float32))
    assert not chain.seen.any()
    assert np.allclose(np.diff(chain.lines), PITCH)
    assert chain.pitch()[1] == 0


@pytest.mark.parametrize("size", [0, 32])
def test_wide_cells_of_a_drawing_stay_whole(size):
    """Columns of 16 and 4 px among columns of 10: neither falls into two, neither is passed over; found and typed sizes alike."""
    rng = np.random.default_rng(11)
    colours = np.array([[20, 12, 28], [208, 70, 72], [222, 238, 214], [52, 101, 36]], dtype=np.float32)
    native = colours[rng.integers(0, 4, (32, 32))]
    widths = np.full(32, 10)
    widths[[7, 15, 25]], widths[[8, 16, 26]] = 16, 4
    picture = native.repeat(widths, axis=1).repeat(10, axis=0)
    cells = snap_batch(picture[None], SnapRequest(native_width=size)).cells
    assert cells.shape == (1, 32, 32, 3)
    assert np.abs(cells[0] - native).max() < 8


def test_cells_that_the_border_cuts_are_sampled_within_it():
    picture = np.zeros((20, 20, 3), dtype=np.float32)
    picture[:, :4] = 200.0
    picture[:, 0] = 80.0  # noise of one px
    lines = CellLines(np.array([-6, 4, 14, 24], dtype=np.float32), np.array([0, 10, 20], dtype=np.float32))
    cells = sample_cells(picture, lines, 10.0)
    assert np.all(cells[:, 0] == 200.0)


def test_shades_that_the_eye_cannot_part_are_one_colour():
    """A codec rounds a flat background to either side of its colour, 2.6 apart in CIELAB."""
    rng = np.random.default_rng(2)
    shades = np.array([[80, 94, 82], [80, 96, 80]], dtype=np.float32)
    cells = shades[rng.integers(0, 2, (40, 40))]
    cells[10:20, 10:20] = [228, 100, 139]
    assert len(find_palette(cells[None]).colours) == 2


@pytest.mark.parametrize(("side", "scale"), [(512, 4), (512, 5), (1024, 4), (1024, 6)])
def test_large_clean_drawings_keep_their_size(side, scale):
    """Hundreds of cells show each line there: its neighbours must not count as lines for what spills over."""
    random = np.random.default_rng(side + scale)
    cells = -(-side // scale)
    colours = random.random((6, 3)).astype(np.float32)
    shape = random.integers(0, 6, (cells // 4 + 1, cells // 4 + 1)).repeat(4, 0).repeat(4, 1)[:cells, :cells]
    speckled = np.where(random.random(shape.shape) < 0.3, random.integers(0, 6, shape.shape), shape)
    picture = colours[speckled].repeat(scale, 0).repeat(scale, 1)[:side, :side]
    native = snap_batch(255 * picture[None], SnapRequest()).cells
    assert native.shape[1:3] in ((side // scale, side // scale), (cells, cells))


def test_wide_cell_at_the_end_of_the_drawing_stays_whole():
    """Nothing shows beyond the last line, so a line there costs nothing; one within the drawing that no cell shows does."""
    drawn = np.concatenate([np.arange(10, 39) * PITCH, [38 * PITCH + 17.5]])
    drawn[20:] += 2.5
    (chain,) = _follow(_votes(drawn, cells=12))
    inside = (chain.lines > drawn[0] - 1) & (chain.lines < drawn[-1] + 1)
    assert np.abs(chain.lines[inside] - drawn).max() < 1


def test_what_noise_shows_beyond_the_drawing_is_not_seen():
    drawn = np.arange(20, 31) * PITCH
    votes = _votes(drawn)
    votes[[37, 95, 470, 590]] = 2.5
    (chain,) = _follow(votes)
    assert np.allclose(chain.lines[chain.seen], drawn, atol=1)


def test_small_sprite_among_noise_keeps_its_canvas():
    """Noise that looks like a line, far from the sprite, would bend the count of cells."""
    case = make_case(53052, "hard")
    assert pixelate(case.picture).native.shape == (64, 64, 3)
