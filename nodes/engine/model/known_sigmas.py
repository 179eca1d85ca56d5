"""Sigmas on the device whose numbers the host knows.

Samplers ask at every step whether the next sigma is 0, and wait for the device until it has answered, so that nothing is queued behind the
step meanwhile: 8 to 10 ms of each with euler_ancestral on an H100.
"""

import copy
import ctypes
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

ROUNDING = 1e-6
"""More than what one operation in fp32 rounds away, relative to its result."""
FP32 = torch.finfo(torch.float32)


@dataclass(frozen=True)
class Known:
    """What the host knows of a number on the device: it lies between these, and is `low` where they are equal."""

    low: float
    high: float

    @property
    def is_exact(self) -> bool:
        """Tell whether there is but one."""
        return self.low == self.high


def _spread(*ends: float) -> Known | None:
    low, high = min(ends), max(ends)
    if low == high == 0:
        return Known(0.0, 0.0)
    widest = max(-low, high)
    return None if widest > FP32.max else Known(low - ROUNDING * abs(low) - FP32.tiny, high + ROUNDING * abs(high) + FP32.tiny)


def _times(a: Known, b: Known) -> Known | None:
    return _spread(a.low * b.low, a.low * b.high, a.high * b.low, a.high * b.high)


def _over(a: Known, b: Known) -> Known | None:
    return None if b.low <= 0 <= b.high else _spread(a.low / b.low, a.low / b.high, a.high / b.low, a.high / b.high)


def _power(a: Known, b: Known) -> Known | None:
    """Squares and square roots alone: other powers are rounded by several units (CUDA's powf)."""
    return _spread(a.low**b.low, a.high**b.low) if a.low >= 0 and b in (Known(2, 2), Known(0.5, 0.5)) else None


_ARITHMETIC: dict[str, Callable[[Known, Known], Known | None]] = {
    "add": lambda a, b: _spread(a.low + b.low, a.high + b.high),
    "sub": lambda a, b: _spread(a.low - b.high, a.high - b.low),
    "__rsub__": lambda a, b: _spread(b.low - a.high, b.high - a.low),
    "mul": _times,
    "div": _over,
    "pow": _power,
}
_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "__eq__": operator.eq, "eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "le": operator.le, "gt": operator.gt, "ge": operator.ge,
}  # fmt: skip
_READING: dict[str, Callable[[float], Any]] = {"item": lambda number: number, "__float__": float, "__bool__": bool}


def _compare(name: str, a: Known, b: Known) -> bool | None:
    """Return what the comparison `name` of two numbers says on the device; None where only the device knows."""
    if (a.is_exact and b.is_exact) or a.high < b.low or b.high < a.low:
        return _COMPARISONS[name](a.low, b.low)
    return None


class _Values:
    """The numbers of a schedule; none is known any more once somebody has written into one of its tensors."""

    def __init__(self) -> None:
        self.are_valid = True


class KnownSigmas(Tensor):
    """A tensor in every respect; comparisons and item() of what follows from its numbers alone do not wait for the device.

    Made by known_sigmas(). Every operation runs on the device as it would; what the host cannot tell, it asks the device.
    """

    _known: tuple[Known, ...] | Known
    _values: _Values

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, or answer it."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        operands = [_known_of(arg) for arg in args]
        known = operands[0] if operands and not kwargs else None
        if name in _READING and isinstance(known, Known) and known.is_exact:
            return _READING[name](known.low)
        with torch._C.DisableTorchFunctionSubclass():
            if name == "cpu" and (exact := _exact(known)) is not None:
                return torch.tensor(exact, dtype=args[0].dtype)
            out = func(*args, **kwargs)
        if "out" in kwargs or name == "__setitem__" or (name.endswith("_") and not name.endswith("__")):
            for arg in (*args, *kwargs.values()):
                if isinstance(arg, KnownSigmas):
                    arg._values.are_valid = False
        elif not kwargs and type(out) is Tensor and (found := _result(name, args, operands)) is not None:
            values = next(arg._values for arg in args if isinstance(arg, KnownSigmas))
            return _with(out, found, values)
        return out

    def __format__(self, spec: str) -> str:
        """Return the number as text; torch formats no subclass."""
        return format(self.item() if self.ndim == 0 else self.as_subclass(Tensor), spec)

    def __deepcopy__(self, memo: Any) -> Tensor:
        """Return a plain tensor; torch copies no subclass without a `new_empty` of its own."""
        return copy.deepcopy(self.as_subclass(Tensor), memo)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle a plain tensor, which loads where this pack is not."""
        return self.as_subclass(Tensor).__reduce_ex__(protocol)


def known_sigmas(sigmas: Tensor) -> Tensor:
    """Return a view of a schedule [steps + 1] that knows its numbers, waiting for the device once; of another dtype than fp32 itself."""
    if sigmas.dtype != torch.float32:
        return sigmas
    return _with(sigmas, tuple(Known(number, number) for number in sigmas.tolist()), _Values())


def _with(tensor: Tensor, known: tuple[Known, ...] | Known, values: _Values) -> KnownSigmas:
    made = tensor.as_subclass(KnownSigmas)
    made._known = known
    made._values = values
    return made


def _known_of(value: Any) -> tuple[Known, ...] | Known | None:
    if isinstance(value, KnownSigmas):
        return value._known if value._values.are_valid else None
    if not isinstance(value, (int, float)):
        return None
    rounded = ctypes.c_float(value).value  # as the device reads it: to it fp32's 0.1 equals Python's
    return Known(rounded, rounded)


def _exact(known: tuple[Known, ...] | Known | None) -> float | list[float] | None:
    if isinstance(known, Known):
        return known.low if known.is_exact else None
    return None if known is None else [number.low for number in known]


def _result(name: str, args: Any, operands: list[Any]) -> tuple[Known, ...] | Known | None:
    known = operands[0]
    if name == "detach":
        return known
    if name == "__getitem__" and isinstance(known, tuple) and isinstance(args[1], (int, slice)):
        return known[args[1]]
    if len(operands) != 2 or not all(isinstance(operand, Known) for operand in operands):
        return None
    if name in _COMPARISONS:
        answer = _compare(name, *operands)
        return None if answer is None else Known(answer, answer)
    return _ARITHMETIC[name](*operands) if name in _ARITHMETIC else None
