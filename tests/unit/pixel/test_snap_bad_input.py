"""Pictures without a grid, of odd sizes and of no use: one sentence or a sensible picture."""

import numpy as np
import pytest
import torch
from fast_sprites.nodes.engine.errors import BadInputError
from fast_sprites.nodes.engine.pixel.batch import cut_background_images, snap_images, to_pictures
from fast_sprites.nodes.engine.pixel.finish import pixelate
from fast_sprites.nodes.engine.pixel.snap import SnapRequest, snap_batch
from PIL import Image


def noise(side: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (1, side, side, 3)).astype(np.float32)


def photo_like(side: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    layers = [
        np.asarray(
            Image.fromarray(rng.integers(0, 256, (n, n, 3), dtype=np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
        )
        * share
        for n, share in ((4, 0.5), (11, 0.3), (37, 0.2))
    ]
    return np.sum(layers, axis=0)[None].astype(np.float32)


def gradient(side: int) -> np.ndarray:
    return np.broadcast_to(np.linspace(0, 255, side, dtype=np.float32)[None, None, :, None], (1, side, side, 3))


@pytest.mark.parametrize(
    "pictures",
    [noise(512), photo_like(512), gradient(512), np.full((1, 512, 512, 3), 77.0)],
    ids=["noise", "photo", "gradient", "flat"],
)
def test_no_grid_is_said_and_the_chosen_fallback_taken(pictures):
    snapped = snap_batch(pictures, SnapRequest(fallback_size=48))
    assert snapped.cells.shape == (1, 48, 48, 3)
    assert not snapped.grid.found
    assert "No pixel grid was found" in snapped.grid.report
    assert "48x48" in snapped.grid.report
    unchanged = snap_batch(pictures, SnapRequest(when_unclear="leave unchanged"))
    assert np.array_equal(unchanged.cells, pictures)
    with pytest.raises(BadInputError, match="type a native size"):
        snap_batch(pictures, SnapRequest(when_unclear="stop"))


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (1, 700), (13, 13), (63, 65)])
def test_small_and_thin_pictures(shape):
    picture = np.random.default_rng(2).integers(0, 256, (*shape, 3), dtype=np.uint8)
    art = pixelate(picture)
    assert art.native.shape[0] <= max(shape)
    assert 1 <= len(art.palette) <= 256


def test_65000_colours_end_in_a_palette():
    picture = np.stack([*np.indices((256, 256)), np.full((256, 256), 9)], axis=-1).astype(np.uint8)
    art = pixelate(picture, native_size=256)
    assert 1 <= len(art.palette) <= 256


def test_pictures_above_4096_px_are_refused():
    with pytest.raises(BadInputError, match="4096"):
        snap_batch(np.broadcast_to(np.float32(0), (1, 4097, 8, 3)), SnapRequest())


def test_native_size_larger_than_the_picture_is_refused():
    with pytest.raises(BadInputError, match="larger than the pictures"):
        snap_batch(noise(32), SnapRequest(native_width=64))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_is_refused_with_its_cause(value):
    image = torch.zeros(1, 8, 8, 3)
    image[0, 1, 1, 1] = value
    with pytest.raises(BadInputError, match="VAE"):
        to_pictures(image)


@pytest.mark.parametrize("shape", [(8, 8, 3), (1, 8, 8, 1), (0, 8, 8, 3)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(BadInputError, match="shape"):
        to_pictures(torch.zeros(shape))


def sprite_image(size: int = 16, scale: int = 8) -> torch.Tensor:
    rng = np.random.default_rng(5)
    native = rng.integers(0, 2, (size, size, 1)).astype(np.float32).repeat(3, axis=-1)
    return torch.from_numpy(native.repeat(scale, axis=0).repeat(scale, axis=1))[None]


def test_alpha_is_taken_along_by_majority():
    image = sprite_image()
    alpha = torch.zeros(1, 128, 128, 1)
    alpha[:, :64] = 1.0
    alpha[:, 64:67] = 1.0  # three of the eight rows of a cell
    native, mask, grid = snap_images(torch.cat([image, alpha], dim=-1), None, 0, 0, "stop", 64)
    assert native.shape == (1, 16, 16, 4)
    assert grid.found
    assert native[0, :8, :, 3].min() == 1.0
    assert native[0, 8:, :, 3].max() == 0.0
    assert torch.equal(mask, 1 - native[..., 3])


def test_mask_is_taken_along_and_must_fit():
    mask = torch.zeros(1, 128, 128)
    mask[:, :, 64:] = 1.0
    _, native_mask, _ = snap_images(sprite_image(), mask, 0, 0, "stop", 64)
    assert torch.equal(native_mask[0, :, 8:], torch.ones(16, 8))
    assert native_mask[0, :, :8].max() == 0
    with pytest.raises(BadInputError, match="make them equal"):
        snap_images(sprite_image(), torch.zeros(1, 64, 64), 0, 0, "stop", 64)
    with pytest.raises(BadInputError, match="one for each picture"):
        snap_images(sprite_image(), torch.zeros(3, 128, 128), 0, 0, "stop", 64)


def test_mask_method_without_a_mask_is_refused():
    with pytest.raises(BadInputError, match="needs a mask"):
        cut_background_images(
            torch.zeros(1, 4, 4, 3), method="mask", enclosed_holes=False, tolerance=0.0, mask_marks="sprite", mask=None
        )
