"""The whole engine on generated sprites whose pixels are known: a small sample with thresholds; score.py has the large one."""

import numpy as np
import pytest
from fast_sprites.nodes.engine.pixel.finish import pixelate, pixelate_batch
from generator import LEVELS, make_case
from score import score_case, share_right

SEEDS = range(4100, 4103)


@pytest.fixture(scope="module")
def cases():
    return {(seed, level): make_case(seed, level) for seed in SEEDS for level in LEVELS}


def test_native_size_is_found(cases):
    scores = {key: score_case(case) for key, case in cases.items()}
    assert all(score.size_right for (_, level), score in scores.items() if level != "hard")
    assert np.mean([score.size_right for score in scores.values()]) >= 0.88


def test_cells_and_palette_are_right(cases):
    scores = [(score_case(case), case) for (_, level), case in cases.items() if level == "easy"]
    assert all(score.cells >= 0.98 for score, _ in scores)
    assert all(score.palette_de <= 1.0 for score, _ in scores)
    assert np.median([score.count_error for score, _ in scores]) <= 1


def test_native_size_typed_by_the_user_always_wins(cases):
    for case in list(cases.values())[:4]:
        for size in (31, 128):
            art = pixelate(case.picture, native_size=size)
            assert art.native.shape == (size, size, 3)


@pytest.mark.parametrize("size", [48, 128])
def test_typed_native_size_samples_the_true_cells(size):
    case = make_case(4110, "medium", size=size, mode="full", kind="creature")
    assert share_right(pixelate(case.picture, native_size=size).native, case) >= 0.98


def test_batch_gets_one_size_and_one_palette():
    cases = [make_case(seed, "medium", size=48, mode="full") for seed in (4120, 4121)]
    arts = pixelate_batch(np.stack([case.picture for case in cases]))
    assert {art.native.shape for art in arts} == {(48, 48, 3)}
    assert all(art.palette is arts[0].palette for art in arts)
    palette = {tuple(colour) for colour in arts[0].palette}
    assert all({tuple(colour) for colour in art.native.reshape(-1, 3)} <= palette for art in arts)


def test_batch_of_one_equals_the_single_picture():
    picture = make_case(4101, "easy").picture
    single, (batched,) = pixelate(picture), pixelate_batch(picture[None])
    assert np.array_equal(single.native, batched.native)


def test_perfect_upscale_is_undone_exactly():
    rng = np.random.default_rng(3)
    native = rng.choice(np.array([[20, 12, 28], [208, 70, 72], [222, 238, 214], [52, 101, 36]], dtype=np.uint8), size=(64, 64))
    art = pixelate(native.repeat(16, axis=0).repeat(16, axis=1))
    assert np.array_equal(art.native, native)
    assert len(art.palette) == 4


def test_pictures_need_not_be_square():
    rng = np.random.default_rng(4)
    native = rng.choice(np.array([[20, 12, 28], [208, 70, 72], [222, 238, 214]], dtype=np.uint8), size=(56, 64))
    assert np.array_equal(pixelate(native.repeat(9, axis=0).repeat(9, axis=1)).native, native)


def test_faint_steps_inside_cells_are_no_lines():
    """Decoders leave steps at the grids of their inner layers: here each 8 px cell falls into four of slightly different shades."""
    rng = np.random.default_rng(6)
    colours = np.array([[20, 12, 28], [208, 70, 72], [222, 238, 214], [52, 101, 36]], dtype=np.float32)
    native = colours[rng.integers(0, 4, (32, 32))]
    halves = native.repeat(2, axis=0).repeat(2, axis=1) + rng.choice([-5.0, 0.0, 5.0], (64, 64, 1))
    art = pixelate(np.clip(halves.repeat(4, axis=0).repeat(4, axis=1), 0, 255).astype(np.uint8))
    assert art.native.shape == (32, 32, 3)
    assert np.abs(art.native - native).max() <= 8


def test_faint_steps_take_no_confidence_away():
    """A sprite on a flat background, where faint half lines outnumber the drawn ones."""
    rng = np.random.default_rng(6)
    colours = np.array([[20, 12, 28], [208, 70, 72], [222, 238, 214], [52, 101, 36]], dtype=np.float32)
    labels = np.full((32, 32), 3)
    labels[8:26, 9:23] = rng.integers(0, 3, (18, 14))
    halves = colours[labels].repeat(2, axis=0).repeat(2, axis=1) + rng.choice([-5.0, 0.0, 5.0], (64, 64, 1))
    art = pixelate(np.clip(halves.repeat(4, axis=0).repeat(4, axis=1), 0, 255).astype(np.uint8))
    assert art.native.shape == (32, 32, 3)
    assert art.grid.found
    assert art.grid.confidence > 0.5  # 0.03 by the lines of the doubled pitch alone
