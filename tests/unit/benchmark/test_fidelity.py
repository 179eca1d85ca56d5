"""PSNR, SSIM and the largest error against values worked out another way."""

import io
import math

import numpy as np
import pytest
from fast_sprites.nodes.benchmark.bench.fidelity import FidelityError, compare_pictures, psnr, ssim
from PIL import Image


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def picture(seed: int, height: int = 24, width: int = 20) -> np.ndarray:
    numbers = np.random.default_rng(seed)
    smooth = np.add.outer(np.linspace(0, 160, height), np.linspace(0, 60, width))[..., None]
    return np.clip(smooth + numbers.integers(0, 30, (height, width, 3)), 0, 255).astype(np.float32)


def slow_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """The formula of Wang et al. 2004, window by window."""
    grey = np.array([0.299, 0.587, 0.114])
    a, b = a.astype(np.float64) @ grey, b.astype(np.float64) @ grey
    window = np.exp(-np.add.outer(np.arange(-5, 6) ** 2, np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window /= window.sum()
    values = []
    for y in range(a.shape[0] - 10):
        for x in range(a.shape[1] - 10):
            p, q = a[y : y + 11, x : x + 11], b[y : y + 11, x : x + 11]
            mean_p, mean_q = (window * p).sum(), (window * q).sum()
            var_p, var_q = (window * (p - mean_p) ** 2).sum(), (window * (q - mean_q) ** 2).sum()
            cov = (window * (p - mean_p) * (q - mean_q)).sum()
            c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
            values.append((2 * mean_p * mean_q + c1) * (2 * cov + c2) / ((mean_p**2 + mean_q**2 + c1) * (var_p + var_q + c2)))
    return float(np.mean(values))


def test_psnr_of_a_known_error():
    black = np.zeros((8, 8, 3), np.float32)
    assert psnr(black, black + 255) == pytest.approx(0.0)
    assert psnr(black, black + 1) == pytest.approx(20 * math.log10(255))
    assert math.isinf(psnr(black, black))


def test_ssim_is_the_papers():
    a, b = picture(1), picture(2)
    assert ssim(a, b) == pytest.approx(slow_ssim(a, b), abs=1e-9)
    assert ssim(a, a) == pytest.approx(1.0)
    assert ssim(a, 255 - a) < 0


def test_the_worst_picture_counts():
    same, near = picture(3), picture(4)
    changed = near.copy()
    changed[5, 5, 1] += 40 if changed[5, 5, 1] < 200 else -40
    found = compare_pictures([png(same), png(near)], [png(same), png(changed)])
    assert (found.num_pictures, found.num_identical, found.max_error) == (2, 1, 40)
    assert found.worst_psnr_db == pytest.approx(
        psnr(near.astype(np.uint8).astype(np.float32), changed.astype(np.uint8).astype(np.float32))
    )
    assert found.worst_ssim < found.mean_ssim < 1


def test_identical_pictures_have_no_psnr():
    found = compare_pictures([png(picture(5))], [png(picture(5))])
    assert (found.worst_psnr_db, found.mean_psnr_db, found.worst_ssim, found.max_error) == (None, None, pytest.approx(1.0), 0)


def test_transparency_counts():
    opaque = np.concatenate([picture(6), np.full((24, 20, 1), 255)], axis=2)
    clear = opaque.copy()
    clear[..., 3] = 0
    assert compare_pictures([png(opaque)], [png(clear)]).max_error == 255


def test_a_picture_smaller_than_the_window_is_compared_too():
    found = compare_pictures([png(picture(7, 4, 6))], [png(picture(8, 4, 6))])
    assert -1 <= found.worst_ssim < 1


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_every_frame_of_an_animation_counts(kind: str):
    def animated(*frames: np.ndarray) -> bytes:
        first, *others = (Image.fromarray(frame.astype(np.uint8)) for frame in frames)
        file = io.BytesIO()
        first.save(file, kind, save_all=True, append_images=others, lossless=True)
        return file.getvalue()

    found = compare_pictures([animated(picture(1), picture(2))], [animated(picture(1), picture(3))])
    assert (found.num_pictures, found.num_identical) == (2, 1)


@pytest.mark.parametrize("file", [b"\0\0\0 ftypisom", png(picture(1))[:200]])
def test_what_is_no_picture_is_said(file: bytes):
    with pytest.raises(FidelityError, match="no PNG, JPEG or WebP"):
        compare_pictures([file], [file])


@pytest.mark.parametrize(
    ("reference", "other", "says"),
    [
        ([picture(1)], [], "Stock drew 1 pictures and the other side 0"),
        ([picture(1, 24, 20)], [picture(1, 24, 24)], "Stock drew 20x24 and the other side 24x24 pixels"),
    ],
)
def test_what_cannot_be_compared_is_said(reference: list[np.ndarray], other: list[np.ndarray], says: str):
    with pytest.raises(FidelityError, match=says):
        compare_pictures([png(pixels) for pixels in reference], [png(pixels) for pixels in other])
