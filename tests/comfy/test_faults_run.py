"""Memory that runs out, a person who cancels and another node that fails, at any operation of a run.

A few places in every check. More, and the figures, with FAST_SPRITES_FAULTS: a number of places, `paths` for the first and the last time
that each code path allocates, or `all`.

FAST_SPRITES_FAULTS=paths python -m pytest tests/comfy/test_faults_run.py -s
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from .faults import Allocations, Scene
from .optimized import Graphs, StopError, package

WANTED = os.environ.get("FAST_SPRITES_FAULTS", "4")
FAULTS_PER_COUNT = 20
"""What is left behind adds up, so it need not be counted after every fault."""


@pytest.fixture(scope="module")
def scene(comfyui, pack_nodes, tiny_sdxl, tmp_path_factory) -> Iterator[Scene]:
    import comfy.utils
    import folder_paths

    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(folder_paths, "output_directory", folder_paths.output_directory)
        patches.setattr(comfy.utils, "PROGRESS_BAR_ENABLED", False)
        Graphs(pack_nodes, patches)
        yield Scene(comfyui, pack_nodes, tiny_sdxl, tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module")
def allocations(scene: Scene) -> Allocations:
    return scene.allocations()


def chosen(allocations: Allocations) -> list[int]:
    """The numbers of the allocations to strike at."""
    paths = allocations.code_paths
    last = {path: number for number, path in enumerate(paths)}
    first = {path: number for number, path in reversed(list(enumerate(paths)))}
    distinct = sorted({*first.values(), *last.values()})
    if WANTED == "all":
        return list(range(len(paths)))
    if WANTED == "paths":
        return distinct
    return distinct[:: max(1, len(distinct) // int(WANTED))]


def strike_everywhere(what: str, scene: Scene, places: list[int], total: int, strike: Callable[[int], str]) -> Counter[str]:
    """Strike at each of the places, check that nothing is left, tell how the runs ended, and return that."""
    began = time.process_time()
    endings: Counter[str] = Counter()
    for number, place in enumerate(places, start=1):
        scene.place = f"{what} at {place} of {total}"
        endings[strike(place)] += 1
        scene.check_stock()
        if number % FAULTS_PER_COUNT == 0 or number == len(places):
            scene.check_nothing_is_left()
    print(f"{what}: {len(places)} of {total} places: {dict(endings)}; {time.process_time() - began:.0f} s of CPU", flush=True)
    return endings


@pytest.fixture(scope="module")
def too_large(pack_nodes) -> tuple[type[Exception], ...]:
    """What a run may end in where memory runs out outside of what can be made smaller, or with one sprite at once."""
    return torch.OutOfMemoryError, package(pack_nodes, "engine.errors").OutOfMemoryError


def out_of_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def test_memory_that_runs_out_at_any_allocation(scene, allocations, too_large):
    def strike(at: int) -> str:
        with Allocations(out_of_memory, at):
            return scene.survive(too_large)

    endings = strike_everywhere("out of memory", scene, chosen(allocations), allocations.count, strike)
    assert endings["finished"] >= endings.total() / 2  # the rest are ComfyUI's own text encoders and loaders


def test_cancel_in_the_middle_of_any_operation(scene, allocations):
    from comfy.model_management import InterruptProcessingException, interrupt_current_processing

    def strike(at: int) -> str:
        try:
            with Allocations(interrupt_current_processing, at):
                return scene.survive((InterruptProcessingException,))
        finally:
            interrupt_current_processing(False)  # as ComfyUI does before every prompt

    endings = strike_everywhere("cancel", scene, chosen(allocations), allocations.count, strike)
    assert endings["InterruptProcessingException"] >= endings.total() / 2


@pytest.mark.parametrize("error", [StopError, torch.OutOfMemoryError])
def test_another_nodes_patch_that_fails_at_any_call(scene, error):
    def patch_that_fails(calls: list[int], at: int) -> Callable[[Any], None]:
        def fail(h: torch.Tensor, _options: Any) -> torch.Tensor:
            calls.append(1)
            if len(calls) == at + 1:
                raise error("planted")
            return h

        return lambda model: model.set_model_attn2_output_patch(fail)

    calls: list[int] = []
    scene.survive((error,), patch_that_fails(calls, -1))
    total = len(calls)
    few = int(WANTED) // 2 if WANTED.isdecimal() else total
    places = sorted({number * total // few for number in range(few)})
    endings = strike_everywhere(
        f"{error.__name__} in a patch", scene, places, total, lambda at: scene.survive((error,), patch_that_fails([], at))
    )
    assert set(endings) == ({"StopError"} if error is StopError else {"finished"})
