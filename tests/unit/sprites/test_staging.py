import numpy as np
import pytest
import torch
from fast_sprites.nodes.engine.sprites.staging import content, stage


def pictures(*shape: int) -> torch.Tensor:
    picture = torch.rand(*shape, generator=torch.Generator().manual_seed(4)) * 1.2 - 0.1
    return picture.round(decimals=2) if shape[1] % 2 else picture


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("file_format", ["png", "webp"])
@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 7, 1), (24, 40, 3), (31, 17, 4), (300, 5, 3)], ids=str)
def test_torch_and_numpy_make_the_same_bytes(shape, file_format, dtype):
    """What CUDA makes with torch, the host makes with numpy."""
    picture = pictures(*shape).to(dtype)
    on_host, is_finite = content(picture.numpy(), file_format)
    on_device, device_is_finite = content(picture, file_format)
    assert on_device.dtype == torch.uint8
    assert np.array_equal(on_host, on_device.numpy())
    assert (bool(is_finite), bool(device_is_finite)) == (True, True)
    expected = np.clip(255.0 * picture.numpy(), 0, 255).astype(np.uint8)
    if file_format == "webp":
        assert np.array_equal(on_host, expected)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_no_numbers_are_black_or_white_and_told(bad):
    picture = pictures(4, 5, 3)
    picture[2, 3, 1] = bad
    for given in (picture, picture.numpy()):
        pixels, is_finite = content(given, "webp")
        assert pixels[2, 3, 1] == (255 if bad > 0 else 0)
        assert not is_finite
    assert not stage(picture, "png")().is_finite
