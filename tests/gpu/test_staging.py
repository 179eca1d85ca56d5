"""Pictures that become a file's bytes on the GPU: the same bytes as on the host, while the stream still computes."""

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("needs CUDA", allow_module_level=True)

from fast_sprites.nodes.engine.sprites.staging import stage


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("file_format", ["png", "webp"])
@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 7, 1), (31, 17, 4), (1024, 1024, 3)], ids=str)
def test_the_gpu_makes_the_bytes_of_the_host(shape, file_format, dtype):
    picture = (torch.rand(*shape, generator=torch.Generator().manual_seed(4)) * 1.2 - 0.1).to(dtype)
    expected = stage(picture, file_format)()
    busy = torch.rand(4096, 4096, device="cuda")
    for _ in range(20):
        busy = busy @ busy
    on_device = picture.to("cuda", non_blocking=True)
    waits = [stage(on_device + 0, file_format) for _ in range(3)]
    for wait in waits:
        got = wait()
        assert (got.data == expected.data).all()
        assert (got.channels, got.is_finite) == (expected.channels, True)


def test_staging_waits_for_nothing():
    picture = torch.rand(1024, 1024, 3, device="cuda")
    stage(picture, "png")()
    busy = torch.rand(8192, 8192, device="cuda")
    torch.cuda.synchronize()
    for _ in range(30):
        busy = busy @ busy
    computed = torch.cuda.Event()
    computed.record()
    wait = stage(picture, "png")
    assert not computed.query(), "the host waited for the device"
    assert wait().is_finite
