"""Triton kernels against the torch reference on the shapes that SDXL has."""

import itertools

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)

from fast_sprites.nodes.engine.kernels import reference, triton_pictures, triton_tokens  # noqa: E402
from fast_sprites.nodes.engine.kernels.ops import TritonOps  # noqa: E402

# Both round once from fp32 to the dtype; sums run in another order.
TOLERANCE = {torch.float16: 1e-3, torch.bfloat16: 8e-3}
DTYPES = list(TOLERANCE)
# A value between two of FP8's may go to the other one; half a step is 3 % of a value, and few values are that close to the middle.
FP8_TOLERANCE = 3e-3
needs_fp8 = pytest.mark.skipif(torch.cuda.get_device_capability() < (8, 9), reason="FP8 needs compute capability 8.9")


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
        out = triton_pictures.group_norm(x, weight, bias, 32, 1e-5, add=add, silu=silu)
        assert relative_error(out, reference.group_norm(x, weight, bias, 32, 1e-5, add=add, silu=silu)) < TOLERANCE[dtype]
        in_place = triton_pictures.group_norm(x.clone(), weight, bias, 32, 1e-5, add=add, silu=silu, in_place=True)
        assert torch.equal(in_place, out)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "first"), [((2, 64, 64, 1920), 1280), ((1, 13, 19, 960), 640), ((3, 8, 8, 96), 40)], ids=str)
def test_group_norm_of_two_pictures(dtype, shape, first):
    x = random(*shape, dtype=dtype, offset=3.0)
    weight, bias, add = random(shape[-1], dtype=dtype), random(shape[-1], dtype=dtype), random(shape[0], shape[-1], dtype=dtype)
    parts = x[..., :first].contiguous(), x[..., first:].contiguous()
    out = triton_pictures.group_norm(parts[0], weight, bias, 32, 1e-5, second=parts[1], add=add)
    assert relative_error(out, reference.group_norm(x, weight, bias, 32, 1e-5, add=add)) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(2, 4096, 640), (16, 1024, 1280), (1, 247, 768), (3, 33, 64)], ids=str)
def test_layer_norm_geglu_and_bias(dtype, shape):
    x, delta = random(*shape, dtype=dtype), random(*shape, dtype=dtype)
    weight, bias = random(shape[-1], dtype=dtype), random(shape[-1], dtype=dtype)
    for maybe, offset in itertools.product((None, delta), (None, torch.randn(shape[-1], device="cuda"))):
        for out, expected in zip(
            triton_tokens.residual_layer_norm(x, maybe, offset, weight, bias, 1e-5),
            reference.residual_layer_norm(x, maybe, offset, weight, bias, 1e-5),
            strict=True,
        ):
            assert relative_error(out, expected) < TOLERANCE[dtype]
    for b, r in ((bias, delta), (bias, None), (None, delta)):
        out, expected = (way.add_bias(x.clone(), b, r) for way in (triton_tokens, reference))
        assert relative_error(out, expected) < TOLERANCE[dtype]
    projected = random(*shape[:-1], 8 * shape[-1], dtype=dtype)
    assert relative_error(triton_tokens.geglu(projected), reference.geglu(projected)) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(1, 32, 32, 1280), (2, 24, 19, 640), (1, 5, 7, 96)], ids=str)
def test_upsample(dtype, shape):
    x = random(*shape, dtype=dtype)
    for size in ((2 * shape[1], 2 * shape[2]), (2 * shape[1] - 1, 2 * shape[2] - 1)):
        expected = torch.nn.functional.interpolate(x.permute(0, 3, 1, 2), size=size, mode="nearest")
        assert torch.equal(triton_pictures.upsample(x, size), expected.permute(0, 2, 3, 1))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_linear_onto(dtype):
    x, weight, total = (
        random(2, 1024, 1280, dtype=dtype),
        random(1280, 1280, dtype=dtype) / 36,
        random(2, 1024, 1280, dtype=dtype),
    )
    expected = total.float() + x.float() @ weight.float().t()
    out = TritonOps().linear_onto(total, x, weight)
    assert out is total
    assert relative_error(out, expected) < TOLERANCE[dtype]


def check_fp8(out, expected):
    torch.testing.assert_close(out.scales, expected.scales, rtol=1e-5, atol=0)
    assert out.values.dtype == reference.FP8
    assert relative_error(out.dequantize(), expected.dequantize()) < FP8_TOLERANCE


@needs_fp8
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(2, 1024, 1280), (16, 4096, 640), (3, 33, 64)], ids=str)
def test_quantising_kernels(dtype, shape):
    x, delta = random(*shape, dtype=dtype), random(*shape, dtype=dtype)
    x[..., 3] *= 50  # an outlier channel
    x[0, 0] = 0
    weight, bias, offset = random(shape[-1], dtype=dtype), random(shape[-1], dtype=dtype), torch.randn(shape[-1], device="cuda")
    check_fp8(triton_tokens.quantize_rows(x), reference.quantize_rows(x))
    total, normed = triton_tokens.residual_layer_norm(x, delta, offset, weight, bias, 1e-5, fp8=True)
    expected_total, expected = reference.residual_layer_norm_fp8(x, delta, offset, weight, bias, 1e-5)
    assert relative_error(total, expected_total) < TOLERANCE[dtype]
    check_fp8(normed, expected)
    projected = random(*shape[:-1], 8 * shape[-1], dtype=dtype)
    check_fp8(triton_tokens.geglu_fp8(projected), reference.geglu_fp8(projected))


@needs_fp8
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", [2048, 3 * 247], ids=str)
@pytest.mark.parametrize("with_bias", [False, True])
def test_fp8_linear(dtype, rows, with_bias):
    x, weight = (
        reference.quantize_rows(random(1, rows, 1280, dtype=dtype)),
        reference.quantize_rows(random(2560, 1280, dtype=dtype)),
    )
    bias = random(2560, dtype=dtype) if with_bias else None
    out = TritonOps().fp8_linear(x, weight, bias, dtype)
    assert (out.shape, out.dtype) == ((1, rows, 2560), dtype)
    assert relative_error(out, reference.fp8_linear(x, weight, bias, dtype)) < TOLERANCE[dtype]
