"""Memory and time of a piece of code, with the readings that MemoryProbe shows."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from .readings import MemoryReading, read_memory, reset_peak


@dataclass
class Profile:
    """What `profile` measured; filled in when its block ends, also by an exception."""

    name: str
    before: MemoryReading
    after: MemoryReading | None = None
    seconds: float = 0.0
    """Wall time on the host; GPU work that is still queued is not waited for."""

    @property
    def peak_growth_gib(self) -> float | None:
        """Return how far torch's peak rose over what was allocated before; None before the end and where torch keeps no peaks."""
        if self.after is None or self.before.torch is None:
            return None
        peak_gib = self.after.torch and self.after.torch.peak_allocated_gib
        return None if peak_gib is None else peak_gib - self.before.torch.allocated_gib


@contextmanager
def profile(name: str, device: torch.device | None = None, *, reset: bool = True) -> Iterator[Profile]:
    """Read the memory around a block, or around every call when used as a decorator.

    `device` defaults to the accelerator that torch finds, else the CPU. With `reset` torch's peak counts from the start of the block.
    """
    if device is None:
        device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    if reset:
        reset_peak(device)
    measured = Profile(name, read_memory(device))
    started = time.perf_counter()
    try:
        yield measured
    finally:
        measured.seconds = time.perf_counter() - started
        measured.after = read_memory(device)
