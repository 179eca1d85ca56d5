"""Triton kernels against the torch reference on the shapes that SDXL has."""

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)

from fast_sprites.nodes.engine.kernels import reference, triton_kernels  # noqa: E402

# Both round once from fp32 to the dtype; sums run in another order.
TOLERANCE = {torch.float16: 1e-3, torch.bfloat16: 8e-3}
DTYPES = list(TOLERANCE)


def relative_error(out, expected):
    return (torch.linalg.vector_norm((out - expected).double()) / torch.linalg.vector_norm(expected.double())).item()


def random(*shape, dtype, offset=0.0):
    return (torch.randn(*shape, device="cuda") + offset).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "shape",
    [(2, 128, 128, 320), (2, 64, 64, 960), (16, 32, 32, 2560), (1, 104, 152, 384), (3, 13, 19, 64), (1, 512, 512, 128)],
    ids=str,
)
@pytest.mark.parametrize("with_add", [False, True])
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_group_norm(dtype, shape, with_add, offset):
    x = random(*shape, dtype=dtype, offset=offset)
    weight, bias = random(shape[-1], dtype=dtype), random(shape[-1], dtype=dtype)
    add = random(shape[0], shape[-1], dtype=dtype) if with_add else None
    for silu in (False, True):
        out = triton_kernels.group_norm(x, weight, bias, 32, 1e-5, add=add, silu=silu)
        assert relative_error(out, reference.group_norm(x, weight, bias, 32, 1e-5, add=add, silu=silu)) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(2, 4096, 640), (16, 1024, 1280), (1, 247, 768), (3, 33, 64)], ids=str)
def test_layer_norm_geglu_and_bias(dtype, shape):
    x, delta = random(*shape, dtype=dtype), random(*shape, dtype=dtype)
    weight, bias = random(shape[-1], dtype=dtype), random(shape[-1], dtype=dtype)
    for maybe in (None, delta):
        for out, expected in zip(
            triton_kernels.residual_layer_norm(x, maybe, weight, bias, 1e-5),
            reference.residual_layer_norm(x, maybe, weight, bias, 1e-5),
            strict=True,
        ):
            assert relative_error(out, expected) < TOLERANCE[dtype]
    for b, r in ((bias, delta), (bias, None), (None, delta)):
        assert relative_error(triton_kernels.add_bias(x, b, r), reference.add_bias(x, b, r)) < TOLERANCE[dtype]
    projected = random(*shape[:-1], 8 * shape[-1], dtype=dtype)
    assert relative_error(triton_kernels.geglu(projected), reference.geglu(projected)) < TOLERANCE[dtype]
