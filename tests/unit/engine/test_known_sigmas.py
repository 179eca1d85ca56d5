import copy
import io
import operator
import random
from typing import Any

import pytest
import torch
from fast_sprites.nodes.engine.model.known_sigmas import Known, KnownSigmas, known_sigmas

from ...waits import Waits

SCHEDULE = [14.6146, 7.0821, 3.0, 0.5, 0.0292, 0.0]
ARITHMETIC = (operator.add, operator.sub, operator.mul, operator.truediv, operator.pow)
COMPARISONS = (operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge)


@pytest.fixture
def plain() -> torch.Tensor:
    return torch.tensor(SCHEDULE)


@pytest.fixture
def sigmas(plain) -> torch.Tensor:
    return known_sigmas(plain.clone())


def test_numbers_are_read_without_asking_the_device(plain, sigmas):
    expected = plain.tolist()
    with Waits() as waits:
        for i, number in enumerate(expected):
            assert sigmas[i].item() == float(sigmas[i]) == number
            assert [compare(sigmas[i], 0.5) for compare in COMPARISONS] == [compare(number, 0.5) for compare in COMPARISONS]
            assert [bool(compare(3, sigmas[i])) for compare in COMPARISONS] == [compare(3, number) for compare in COMPARISONS]
        assert bool(sigmas[-1] == 0)
        assert f"{sigmas[1]:.2f}" == "7.08"
        assert sigmas[1:4][0].item() == expected[1]
    assert waits.count == 0
    assert torch.equal(sigmas[1:3].cpu(), plain[1:3])
    assert type(sigmas[2].cpu()) is torch.Tensor


def test_numbers_of_python_are_read_as_the_device_reads_them(plain, sigmas):
    for i, number in enumerate(SCHEDULE):  # 14.6146 is 14.614600181579590 in fp32
        assert [bool(compare(sigmas[i], number)) for compare in COMPARISONS] == [
            compare(plain[i], number) for compare in COMPARISONS
        ]
        assert bool(sigmas[i] - number == 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_sigmas_of_another_dtype_stay_as_they_are(plain, dtype):
    others = plain.to(dtype)
    assert known_sigmas(others) is others


def saved_and_loaded(value):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy, saved_and_loaded])
def test_copies_are_plain_tensors(plain, sigmas, copied):
    for known, stock in ((sigmas, plain), (sigmas[1], plain[1]), (sigmas[1] * 2, plain[1] * 2)):
        assert type(copied(known)) is torch.Tensor
        assert torch.equal(copied(known), stock)


def test_text_is_stocks(plain, sigmas):
    assert f"{sigmas}" == f"{plain}"
    assert f"{sigmas[1]} {sigmas[1]:.2f}" == f"{plain[1]} {plain[1]:.2f}"


def test_ancestral_steps_do_not_wait_and_have_stocks_bits(plain, sigmas):
    def ancestral(sigma_from, sigma_to):  # get_ancestral_step of ComfyUI's k_diffusion/sampling.py
        sigma_up = min(sigma_to, 1.0 * (sigma_to**2 * (sigma_from**2 - sigma_to**2) / sigma_from**2) ** 0.5)
        return (sigma_to**2 - sigma_up**2) ** 0.5, sigma_up

    expected = [ancestral(plain[i], plain[i + 1]) for i in range(len(plain) - 1)]
    is_end = [bool(down == 0) for down, _ in expected]
    with Waits() as waits:
        found = [ancestral(sigmas[i], sigmas[i + 1]) for i in range(len(plain) - 1)]
        assert [bool(down == 0) for down, _ in found] == is_end == [False] * 4 + [True]
    assert waits.count == 0
    for pair, stock in zip(found, expected, strict=True):
        assert [value.item() for value in pair] == [value.item() for value in stock]


def test_what_is_known_contains_what_the_device_computes():
    draw = random.Random(3)
    checked = 0
    for _ in range(200):
        numbers = [draw.choice((draw.uniform(0, 15), draw.uniform(0, 0.05), 0.0)) for _ in range(2)]
        known = known_sigmas(torch.tensor(numbers))
        value: Any = known[0]
        other = known[1]
        for _ in range(6):
            operation = draw.choice(ARITHMETIC)
            operands = draw.choice(
                [(value, other), (other, value), (value, 2), (0.5, value), (value, 0.5), (value, 1e-30), (value, numbers[0])]
            )
            result: Any = operation(*operands)
            if not isinstance(result, KnownSigmas):
                break
            value, found = result, result._known
            assert isinstance(found, Known)
            assert found.low <= value.as_subclass(torch.Tensor).double().item() <= found.high
            checked += 1
    assert checked > 300


def test_a_comparison_too_close_to_tell_asks_the_device(sigmas):
    nearly = sigmas[1] * (1 / 3) * 3
    with Waits() as waits:
        assert bool(nearly == sigmas[1]) == bool(nearly.as_subclass(torch.Tensor) == sigmas[1].as_subclass(torch.Tensor))
    assert waits.count == 2
    with Waits() as waits:
        nearly.item()
    assert waits.count == 1


@pytest.mark.parametrize(
    "write",
    [
        lambda s: s[:].__setitem__(-1, 0.001),  # uni_pc of ComfyUI
        lambda s: s.mul_(2),
        lambda s: s[1:].add_(1),
        lambda s: operator.imul(s[0], 3),
        lambda s: torch.mul(s, 2, out=s),
    ],
)
def test_nothing_is_known_any_more_of_what_was_written_over(plain, sigmas, write):
    write(plain)
    write(sigmas)
    assert [sigmas[i].item() for i in range(len(plain))] == plain.tolist()
    assert [bool(sigmas[i] > 5) for i in range(len(plain))] == (plain > 5).tolist()


def test_everything_else_is_a_plain_tensor(plain, sigmas):
    for out in (sigmas * torch.ones(2, 1), sigmas[0].log(), sigmas[sigmas > 0].min(), sigmas[0][None, None], sigmas[0].sqrt()):
        assert type(out) is torch.Tensor
    assert torch.equal(sigmas * torch.ones(2, 1), plain * torch.ones(2, 1))
    assert torch.equal(torch.add(sigmas[0], sigmas[1], alpha=2), torch.add(plain[0], plain[1], alpha=2))
    assert len(sigmas) == len(plain)
    assert [value.item() for value in sigmas] == plain.tolist()
