"""Memory that CUDA graphs share: planned from recorded lifetimes, never given to two tensors that are both alive."""

import random
from collections.abc import Callable

import pytest
import torch
from fast_sprites.nodes.engine.kernels.arena import (
    Arena,
    Lifetimes,
    Place,
    Recorder,
    Source,
    free_place,
    lent_tensors,
    plan_places,
)
from torch.multiprocessing.reductions import StorageWeakRef

CPU = torch.device("cpu")
Forward = Callable[[Source], None]


def chain(rows: int, steps: int = 5) -> Forward:
    """A forward that keeps its input and its latest two results."""

    def run(source: Source) -> None:
        skip = source.empty((rows, 256), torch.float32, CPU).fill_(1.0)
        x = skip
        for _ in range(steps):
            x = torch.add(x, skip, out=source.empty((rows, 256), torch.float32, CPU))
        assert x.min() == x.max() == steps + 1

    return run


def recorded(forward: Forward) -> Lifetimes:
    recorder = Recorder()
    forward(recorder)
    return recorder.lifetimes()


def test_lifetimes_are_those_of_every_view():
    recorder = Recorder()
    first = recorder.empty((4, 100), torch.float16, CPU)
    view = first[1:]
    second = recorder.empty((3, 5, 7), torch.bfloat16, CPU)
    assert (second.shape, second.dtype, second.is_contiguous()) == ((3, 5, 7), torch.bfloat16, True)
    del first
    third = recorder.empty((1,), torch.float32, CPU)
    del view, second
    last = recorder.empty((512,), torch.uint8, CPU)
    assert recorder.lifetimes() == Lifetimes(sizes=(1024, 512, 512, 512), ends=(3, 3, 4, 4))
    assert recorder.lifetimes().peak_bytes == 2048
    assert third is not last


@pytest.mark.parametrize("seed", range(20))
def test_no_two_tensors_that_are_alive_share_a_byte(seed):
    choose = random.Random(seed)
    count = 150
    sizes = tuple(512 * choose.choice((1, 2, 3, 8, 64, choose.randint(1, 300))) for _ in range(count))
    ends = tuple(min(count, index + choose.choice((1, 1, 2, 3, 5, 80))) for index in range(count))
    slabs = [512 * choose.randint(1, 400) for _ in range(choose.randint(0, 3))]
    lifetimes = Lifetimes(sizes, ends)
    places = plan_places(lifetimes, slabs)
    for index, place in enumerate(places):
        assert place.end - place.start == sizes[index]
        assert place.slab == len(slabs) or place.end <= slabs[place.slab]
        for other in range(index + 1, ends[index]):
            assert places[other].slab != place.slab or places[other].end <= place.start or place.end <= places[other].start
    if not slabs:
        assert max(place.end for place in places) <= 1.25 * lifetimes.peak_bytes


def test_every_pass_of_a_forward_lies_where_it_was_planned():
    forward, arena = chain(64), Arena()
    lifetimes = recorded(forward)
    planned = arena.planned(lifetimes, CPU)
    for _ in range(3):
        planned.restart()
        forward(planned)
        assert arena.alive() == []
    assert arena.nbytes == lifetimes.peak_bytes == 3 * 64 * 1024


def test_shapes_share_an_arena_and_a_larger_one_adds_what_is_missing():
    arena = Arena()
    sizes = []
    for rows in (64, 16, 80, 100, 64):
        forward = chain(rows)
        forward(arena.planned(recorded(forward), CPU))
        sizes.append(arena.nbytes // 1024)
    # two of 80 fit where three of 64 did, and one of 100
    assert sizes == [3 * 64, 3 * 64, 3 * 64 + 80, 3 * 64 + 80 + 2 * 100, 3 * 64 + 80 + 2 * 100]


def test_a_second_capture_of_a_shape_needs_no_more_and_plans_alike():
    arena, lifetimes = Arena(), recorded(chain(64))
    chain(64)(arena.planned(lifetimes, CPU))
    size = arena.nbytes
    other = Arena()
    chain(64)(other.planned(lifetimes, CPU))
    chain(64)(arena.planned(lifetimes, CPU))
    assert arena.nbytes == other.nbytes == size


def test_a_tensor_that_outlives_its_recorded_end_is_found():
    arena = Arena()
    kept: list[torch.Tensor] = []

    def forward(source: Source, *, keeps: bool) -> None:
        x = source.empty((64,), torch.float32, CPU)
        if keeps:
            kept.append(x[3:])
        for _ in range(3):
            x = torch.neg(x, out=source.empty((64,), torch.float32, CPU))

    lifetimes = recorded(lambda source: forward(source, keeps=False))
    planned = arena.planned(lifetimes, CPU)
    with pytest.raises(RuntimeError, match="outlived"):
        forward(planned, keeps=True)
    planned.restart()
    with pytest.raises(RuntimeError, match="outlived"):  # from the pass before, too
        forward(planned, keeps=False)
    kept.clear()
    planned.restart()
    forward(planned, keeps=False)


@pytest.mark.parametrize("shape", [(65, 256), (16, 256)])
def test_a_pass_that_differs_from_the_recorded_one_is_found(shape):
    planned = Arena().planned(recorded(chain(64)), CPU)
    with pytest.raises(RuntimeError, match="other tensors"):
        planned.empty(shape, torch.float32, CPU)


def test_a_pass_that_makes_more_than_the_recorded_one_is_found():
    planned = Arena().planned(recorded(chain(64, steps=2)), CPU)
    with pytest.raises(RuntimeError, match="other tensors"):
        chain(64, steps=3)(planned)


def test_a_tensor_keeps_its_slab():
    arena = Arena()
    planned = arena.planned(recorded(chain(64)), CPU)
    tensor = planned.empty((64, 256), torch.float32, CPU)
    slab = StorageWeakRef(arena._slabs[0].untyped_storage())
    del arena, planned
    assert not slab.expired()
    del tensor
    assert slab.expired()


def test_a_lent_slab_is_filled_between_what_is_alive_and_torch_gives_the_rest():
    arena = Arena()
    inner = arena.planned(recorded(chain(64)), CPU).empty((64, 256), torch.float32, CPU).fill_(3.0)
    assert lent_tensors(CPU) is None
    arena.rest()
    lent = lent_tensors(CPU)
    assert lent is not None
    assert lent.largest_bytes == arena.nbytes
    slab = range(arena._slabs[0].data_ptr(), arena._slabs[0].data_ptr() + arena.nbytes)
    tensors = [lent.empty((64, 256), torch.float32, CPU).fill_(number) for number in range(4)]
    assert [tensor.data_ptr() in slab for tensor in tensors] == [True, True, False, False]
    assert [tensor.unique().tolist() for tensor in (inner, *tensors)] == [[3.0], [0.0], [1.0], [2.0], [3.0]]
    freed = tensors.pop(0).data_ptr()
    assert lent.empty((16, 256), torch.float32, CPU).data_ptr() in range(freed, freed + 64 * 1024)
    arena.wake()
    assert lent_tensors(CPU) is None


def test_the_largest_arena_at_rest_is_lent():
    small, large, empty = Arena(), Arena(), Arena()
    small.planned(recorded(chain(8)), CPU)
    large.planned(recorded(chain(64)), CPU)
    for arena in (small, large, empty):
        arena.rest()
    lent = lent_tensors(CPU)
    assert lent is not None
    assert lent.largest_bytes == large.nbytes
    large.wake()
    lent = lent_tensors(CPU)
    assert lent is not None
    assert lent.largest_bytes == small.nbytes


def test_an_arena_at_rest_is_kept_by_nobody():
    arena: Arena | None = Arena()
    assert arena is not None
    arena.planned(recorded(chain(8)), CPU)
    arena.rest()
    arena = None
    assert lent_tensors(CPU) is None


def test_a_lent_place_is_in_the_smallest_gap_and_leaves_the_rest_in_one_piece():
    slabs = [8192, 2048]
    assert free_place([], slabs, 1024) == Place(1, 0, 1024)
    assert free_place([Place(1, 0, 1024)], slabs, 1024) == Place(1, 1024, 2048)
    assert free_place([], slabs, 4096) == Place(0, 0, 4096)
    taken = [Place(0, 0, 1024), Place(0, 7168, 8192), Place(1, 0, 2048)]
    assert free_place(taken, slabs, 512) == Place(0, 1024, 1536)
    assert free_place([*taken, Place(0, 1024, 1536)], slabs, 512) == Place(0, 6656, 7168)
    assert free_place(taken, slabs, 6144) == Place(0, 1024, 7168)
    assert free_place(taken, slabs, 6656) is None


def test_places_in_an_empty_arena():
    assert plan_places(Lifetimes(sizes=(512, 1024), ends=(2, 2)), []) == [Place(0, 1024, 1536), Place(0, 0, 1024)]
