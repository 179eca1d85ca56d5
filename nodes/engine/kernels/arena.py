"""Device memory that CUDA graphs own: planned from how long each tensor of a forward lives, and lent to others while no graph runs.

Every tensor made here has a storage of its own, so that it is known when nothing refers to it any more.
"""

import math
import threading
import weakref
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.dlpack import from_dlpack, to_dlpack  # pyright: ignore[reportPrivateImportUsage]

ALIGNMENT = 512


def rounded_bytes(shape: Sequence[int], dtype: torch.dtype) -> int:
    """Return what a tensor takes of an arena."""
    return max(1, -(-math.prod(shape) * dtype.itemsize // ALIGNMENT)) * ALIGNMENT


class Source(Protocol):
    """Where operations take memory for their results from."""

    def empty(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return an uninitialised contiguous tensor."""
        ...


@dataclass(frozen=True)
class Lifetimes:
    """Tensors in the order in which they are made: their bytes, and before which later one's making each was gone."""

    sizes: tuple[int, ...]
    ends: tuple[int, ...]

    @property
    def peak_bytes(self) -> int:
        """Return the most that is alive at once: no plan can take less."""
        dying = [0] * (len(self.sizes) + 1)
        peak = alive = 0
        for index, (size, end) in enumerate(zip(self.sizes, self.ends, strict=True)):
            alive += size - dying[index]
            dying[end] += size
            peak = max(peak, alive)
        return peak


class Recorder:
    """Hands out torch's own memory, and sees how long each tensor lives."""

    def __init__(self) -> None:
        self._sizes: list[int] = []
        self._ends: list[int] = []
        self._alive: list[tuple[int, StorageWeakRef]] = []

    def empty(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return an uninitialised contiguous tensor."""
        self._bury()
        tensor = torch.empty(tuple(shape), dtype=dtype, device=device)
        self._alive.append((len(self._sizes), StorageWeakRef(tensor.untyped_storage())))
        self._sizes.append(rounded_bytes(shape, dtype))
        self._ends.append(-1)
        return tensor

    def _bury(self) -> None:
        for index, storage in self._alive:
            if storage.expired():
                self._ends[index] = len(self._sizes)
        self._alive = [(index, storage) for index, storage in self._alive if self._ends[index] < 0]

    def lifetimes(self) -> Lifetimes:
        """Return what was seen; what is alive still counts as alive to the end."""
        self._bury()
        return Lifetimes(tuple(self._sizes), tuple(len(self._sizes) if end < 0 else end for end in self._ends))


class Place(NamedTuple):
    """Where a tensor lies: the slab's number and bytes in it."""

    slab: int
    start: int
    end: int


def plan_places(lifetimes: Lifetimes, slab_sizes: Sequence[int]) -> list[Place]:
    """Give every tensor a place that no other has while both are alive, in slabs of `slab_sizes` bytes and one more without an end.

    The largest first, each as far down as it fits ("greedy by size", arXiv:2001.03288): on SDXL's UNet that takes no more than is alive
    at once, where memory handed out as it comes takes a fifth more.
    """
    sizes, ends = lifetimes.sizes, lifetimes.ends
    places: dict[int, Place] = {}
    filled: list[list[tuple[int, int, int]]] = [[] for _ in range(len(slab_sizes) + 1)]  # start, end, tensor
    for tensor in sorted(range(len(sizes)), key=lambda index: -sizes[index]):
        for slab, (capacity, taken) in enumerate(zip((*slab_sizes, math.inf), filled, strict=True)):
            occupied = [(start, end) for start, end, other in taken if other < ends[tensor] and tensor < ends[other]]
            start = next((low for low, high in gaps(occupied, capacity) if high - low >= sizes[tensor]), None)
            if start is not None:
                places[tensor] = Place(slab, start, start + sizes[tensor])
                taken.append((start, start + sizes[tensor], tensor))
                break
    return [places[tensor] for tensor in range(len(sizes))]


def gaps(occupied: Sequence[tuple[int, int]], capacity: float) -> Iterator[tuple[int, float]]:
    """Yield from the lowest on what is free below `capacity` beside the ranges `occupied`, which may overlap."""
    top = 0
    for start, end in sorted(occupied):
        if start > top:
            yield top, start
        top = max(top, end)
    if capacity > top:
        yield top, capacity


def free_place(alive: Sequence[Place], slab_sizes: Sequence[int], nbytes: int) -> Place | None:
    """Return where `nbytes` fit beside what is alive: in the smallest gap, on its side that is nearer to an end of the slab.

    So what is left stays in one piece: a decode fits into a slab of no more than is alive at once, where from below it needs half as much
    again. None where they fit nowhere.
    """
    found: tuple[float, int, int, float] | None = None
    for slab, capacity in enumerate(slab_sizes):
        for low, high in gaps([(place.start, place.end) for place in alive if place.slab == slab], capacity):
            if high - low >= nbytes and (found is None or high - low < found[0]):
                found = high - low, slab, low, high
    if found is None:
        return None
    _, slab, low, high = found
    start = low if low <= slab_sizes[slab] - high else int(high) - nbytes
    return Place(slab, start, start + nbytes)


class Arena:
    """Slabs of device memory that all graphs of one model share, because they never run at the same time.

    Tensors allocated while a stream is captured under cudaMallocAsync, ComfyUI's default, have no address that Triton's launcher accepts.
    A slab never moves, and goes with the last that refers to it: the arena, or a tensor in it.
    """

    def __init__(self) -> None:
        self._slabs: list[Tensor] = []
        self._alive: list[tuple[Place, StorageWeakRef]] = []

    def planned(self, lifetimes: Lifetimes, device: torch.device) -> "PlannedTensors":
        """Plan tensors that live so into the slabs, and add a slab for what does not fit."""
        places = plan_places(lifetimes, self.slab_sizes)
        missing = max((place.end for place in places if place.slab == len(self._slabs)), default=0)
        if missing:
            with torch.inference_mode(False):  # a later capture may be outside of it (CapturedForward)
                self._slabs.append(torch.empty(missing, dtype=torch.uint8, device=device))
        return PlannedTensors(self, lifetimes.sizes, places)

    def place(self, place: Place, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return an uninitialised contiguous tensor there, with a storage of its own; raises RuntimeError where another still lies."""
        if any(other.slab == place.slab and other.start < place.end and place.start < other.end for other in self.alive()):
            raise RuntimeError("a tensor outlived the forward's recorded lifetimes")
        tensor = from_dlpack(to_dlpack(self._slabs[place.slab][place.start : place.end]))
        self._alive.append((place, StorageWeakRef(tensor.untyped_storage())))
        count = math.prod(shape)
        return tensor[: count * dtype.itemsize].view(dtype).view(tuple(shape))

    def rest(self) -> None:
        """Let others that work after the last replay in its thread and stream have the slabs: every replay writes what it reads there."""
        for slab in self._slabs:
            if slab.is_cuda:  # made on the stream of captures: freed at the end of what runs here
                slab.record_stream(torch.cuda.current_stream(slab.device))
            _at_rest[self] = slab.device, _here(slab.device)

    def wake(self) -> None:
        """Lend the slabs to nobody any more."""
        _at_rest.pop(self, None)

    def alive(self) -> list[Place]:
        """Return where tensors lie that something refers to."""
        self._alive = [(place, storage) for place, storage in self._alive if not storage.expired()]
        return [place for place, _ in self._alive]

    @property
    def slab_sizes(self) -> list[int]:
        """Return the bytes of each slab."""
        return [slab.numel() for slab in self._slabs]

    @property
    def nbytes(self) -> int:
        """Return the size of all slabs."""
        return sum(self.slab_sizes)


class PlannedTensors:
    """Hands out the tensors of one pass after another at their planned places."""

    def __init__(self, arena: Arena, sizes: Sequence[int], places: Sequence[Place]):
        self._arena = arena
        self._sizes = sizes
        self._places = places
        self._next = 0

    def restart(self) -> None:
        """Begin another pass."""
        self._next = 0

    def empty(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return the next tensor; raises RuntimeError where the pass differs from the recorded one or its place is not free."""
        index = self._next
        if index >= len(self._sizes) or self._sizes[index] != rounded_bytes(shape, dtype):
            raise RuntimeError("the forward makes other tensors than when it was recorded")
        self._next += 1
        return self._arena.place(self._places[index], shape, dtype)


class LentTensors:
    """Hands out what is free of another's arena at rest, and memory of torch's where nothing fits."""

    def __init__(self, arena: Arena):
        self._arena = arena

    @property
    def largest_bytes(self) -> int:
        """Return the size of the largest slab."""
        return max(self._arena.slab_sizes)

    def empty(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return an uninitialised contiguous tensor."""
        place = free_place(self._arena.alive(), self._arena.slab_sizes, rounded_bytes(shape, dtype))
        if place is None:
            return torch.empty(tuple(shape), dtype=dtype, device=device)
        return self._arena.place(place, shape, dtype)


_at_rest: weakref.WeakKeyDictionary[Arena, tuple[torch.device, Hashable]] = weakref.WeakKeyDictionary()
"""Where they are, and the thread and stream in which their graphs were replayed."""


def _here(device: torch.device) -> Hashable:
    return threading.get_ident(), torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0


def lent_tensors(device: torch.device) -> LentTensors | None:
    """Return the largest arena at rest on `device`, for tensors that are gone before this thread samples again; None if there is none."""
    arenas = [arena for arena, where in list(_at_rest.items()) if where == (device, _here(device))]
    return LentTensors(max(arenas, key=lambda arena: arena.nbytes)) if arenas else None
