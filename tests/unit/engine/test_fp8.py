"""What FP8 keeps of a product, and where its weights lie."""

import torch
from fast_sprites.nodes.engine.kernels import reference
from fast_sprites.nodes.engine.unet.own_weights import OwnWeights
from torch import nn


def relative_error(out, expected):
    return (torch.linalg.vector_norm(out - expected) / torch.linalg.vector_norm(expected)).item()


def test_an_outlier_costs_its_own_row_alone():
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(64, 256, generator=generator), torch.randn(32, 256, generator=generator)
    x[5] *= 1e6
    weight[7] *= 1e6
    rows = reference.quantize_rows(x), reference.quantize_rows(weight)
    out = reference.fp8_linear(*rows, None, torch.float32)
    others = [i for i in range(64) if i != 5]
    assert relative_error(out[others][:, :7], x[others] @ weight[:7].t()) < 5e-2
    scale = x.abs().max() / reference.FP8_MAX  # one scale for all rows flushes the others' small values to zero
    coarse = (x / scale).to(reference.FP8).float() * scale
    assert relative_error(coarse[others], x[others]) > 1.5 * relative_error(rows[0].dequantize()[others], x[others])


def test_rows_of_zeros_and_the_largest_value():
    x = torch.tensor([[0.0, 0.0, 0.0], [1.0, -3.0, 0.5]])
    rows = reference.quantize_rows(x)
    assert torch.equal(rows.dequantize()[0], x[0])
    assert rows.values.float()[1].abs().max() == reference.FP8_MAX
    assert rows.dequantize()[1, 1] == -3.0


def test_new_values_keep_their_addresses():
    group = (nn.Linear(16, 32, bias=False), nn.Linear(16, 32, bias=False))
    weights = OwnWeights(quantized=[group])
    assert weights.nbytes(torch.float32) == 2 * 16 * 32
    first, second = torch.randn(2, 32, 16), torch.randn(2, 32, 16)
    weights.take(group, first, (None, None))
    kept = weights.fp8[group[0]]
    addresses = kept.values.data_ptr(), kept.scales.data_ptr()
    weights.take(group, second, (None, None))
    assert weights.fp8[group[0]] is kept
    assert (kept.values.data_ptr(), kept.scales.data_ptr()) == addresses
    assert relative_error(kept.dequantize(), second.reshape(64, 16)) < 5e-2
    assert weights.biases[group[0]] is None


def test_a_bias_follows():
    group = (nn.Linear(16, 32),)
    weights = OwnWeights(quantized=[group])
    for value in (1.0, 2.0):
        weights.take(group, [torch.randn(32, 16)], [torch.full((32,), value)])
        bias = weights.biases[group[0]]
        assert bias is not None
        assert torch.equal(bias, torch.full((32,), value))


def test_convolutions_follow_too():
    conv = nn.Conv2d(4, 8, 3)
    own = OwnWeights(convolutions=[conv])
    assert own.nbytes(torch.float16) == 2 * 4 * 8 * 9
    assert own.modules == {conv}
    addresses = set()
    for _ in range(2):
        kernel, bias = torch.randn(8, 4, 3, 3), torch.randn(8)
        own.take((conv,), [kernel], [bias])
        kept = own.biases[conv]
        assert kept is not None
        assert torch.equal(own.plain[conv], kernel)
        assert torch.equal(kept, bias)
        assert own.plain[conv].is_contiguous(memory_format=torch.channels_last)
        addresses.add((own.plain[conv].data_ptr(), kept.data_ptr()))
        assert kept.data_ptr() != bias.data_ptr(), "the model's own memory is referred to"
    assert len(addresses) == 1
