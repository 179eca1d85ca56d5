"""Memory that CUDA graphs share: handed out again only when nothing reads it any more."""

import torch
from fast_sprites.nodes.engine.kernels.ops import Arena

CPU = torch.device("cpu")


def test_blocks_are_reused_once_every_view_is_gone():
    arena = Arena()
    first = arena.empty((4, 100), torch.float16, CPU)
    view = first[1:]
    address = first.data_ptr()
    second = arena.empty((4, 100), torch.float16, CPU)
    assert second.data_ptr() != address
    del first
    assert arena.empty((4, 100), torch.float16, CPU).data_ptr() != address
    del view
    assert arena.empty((4, 100), torch.float16, CPU).data_ptr() == address


def test_the_same_calls_take_no_more_memory():
    arena = Arena()

    def forward():
        x = arena.empty((8, 64, 32), torch.float32, CPU)
        for _ in range(5):
            x = torch.neg(x, out=arena.empty((8, 64, 32), torch.float32, CPU))

    forward()
    size = arena.nbytes
    for _ in range(3):
        forward()
    assert arena.nbytes == size


def test_a_small_tensor_does_not_take_a_large_block():
    arena = Arena()
    large = arena.empty((1024, 1024), torch.float32, CPU)
    address = large.data_ptr()
    del large
    assert arena.empty((8,), torch.float32, CPU).data_ptr() != address


def test_shapes_and_dtypes():
    tensor = Arena().empty((3, 5, 7), torch.bfloat16, CPU)
    assert (tensor.shape, tensor.dtype, tensor.is_contiguous()) == ((3, 5, 7), torch.bfloat16, True)
