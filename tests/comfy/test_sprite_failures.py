"""BatchSpriteSampler when memory runs out, when a person cancels and when something else breaks."""

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.comfy.test_batch_sprite_sampler import SEEDS, Bench, assert_same_pictures


@pytest.fixture(scope="module")
def bench(comfyui, pack_nodes, tiny_checkpoint) -> Bench:
    return Bench(comfyui, pack_nodes, tiny_checkpoint)


@pytest.fixture
def run_batch(pack_nodes, monkeypatch) -> Any:
    """The module that draws the sprites, with no sizes remembered from earlier tests."""
    node_module = sys.modules[pack_nodes["BatchSpriteSampler"].__module__]
    module = sys.modules[node_module.draw_sprites.__module__]
    monkeypatch.setattr(module, "_remembered", module.RememberedSizes())
    return module


class Forward:
    """Stands before the UNet, counts its calls with their batch sizes and fails where it is told to."""

    def __init__(self, model: Any, fails: Callable[[int, int], Exception | None]) -> None:
        self.sizes: list[int] = []
        self.model = model.clone()
        self._fails = fails
        self.model.set_model_unet_function_wrapper(self)

    def __call__(self, apply_model: Any, arguments: dict[str, Any]) -> torch.Tensor:
        call, size = len(self.sizes), len(arguments["input"])
        self.sizes.append(size)
        if (error := self._fails(call, size)) is not None:
            raise error
        return apply_model(arguments["input"], arguments["timestep"], **arguments["c"])


def out_of_memory() -> torch.OutOfMemoryError:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore words")


@pytest.mark.parametrize("failing_call", range(8))
def test_out_of_memory_anywhere_loses_and_changes_nothing(bench, run_batch, failing_call):
    """Four sprites in two micro-batches of four steps: eight calls of the UNet, each of which fails once."""
    singles = bench.singles("euler_ancestral")
    forward = Forward(bench.model, lambda call, _: out_of_memory() if call == failing_call else None)
    samples, seeds, report, _ = bench.run(model=forward.model, micro_batch=2)
    assert_same_pictures(samples["samples"], singles)
    finished = 2 * (failing_call // 4)
    assert f"Out of memory with 2 at once after {finished} finished sprites: went on with 1" in report
    # Finished sprites are not drawn again: the failed calls, then four calls for each sprite that is left.
    assert forward.sizes == [4] * (failing_call + 1) + [2] * 4 * (4 - finished)
    assert seeds == (11, 12, 13, 14)


@pytest.mark.parametrize(
    "words",
    [
        "MPS backend out of memory (MPS allocated: 9.57 GiB, other allocations: 17.35 GiB, max allowed: 27.20 GiB).",
        "[enforce fail at alloc_cpu.cpp:127] data. DefaultCPUAllocator: not enough memory: you tried to allocate 4294967296 bytes.",
    ],
    ids=["mps", "cpu"],
)
def test_devices_without_an_error_class_of_their_own_run_out_of_memory_too(bench, run_batch, words):
    forward = Forward(bench.model, lambda call, _: RuntimeError(words) if call == 0 else None)
    assert "Out of memory with 4 at once after 0 finished sprites: went on with 2" in bench.run(model=forward.model)[2]


def test_smaller_size_is_remembered_for_this_graph(bench, run_batch):
    forward = Forward(bench.model, lambda _, size: out_of_memory() if size > 2 else None)
    assert "went on with 2" in bench.run(model=forward.model)[2]
    forward.sizes.clear()
    report = bench.run(model=forward.model)[2]
    assert "Micro-batch: 1 (1 after an earlier run was short of memory)" in report
    assert set(forward.sizes) == {2}
    assert "Micro-batch: 4 (" in bench.run(model=forward.model, width=128)[2]


def test_one_sprite_too_large_says_how_much_is_missing(bench, run_batch, monkeypatch):
    monkeypatch.setattr(run_batch.sampling, "available_bytes", lambda model: 0)
    forward = Forward(bench.model, lambda *_: out_of_memory())
    with pytest.raises(Exception, match=r"One sprite needs about 0\.0 GiB.*Tried to allocate 2\.00 GiB\.$") as caught:
        bench.run(model=forward.model)
    assert type(caught.value).__name__ == "OutOfMemoryError"
    assert "more words" not in str(caught.value)


def test_other_errors_pass_untouched(bench, run_batch):
    error = RuntimeError("The size of tensor a must match")
    forward = Forward(bench.model, lambda call, _: error if call == 1 else None)
    with pytest.raises(RuntimeError) as caught:
        bench.run(model=forward.model)
    assert caught.value is error
    assert len(forward.sizes) == 2


def test_cancel_stops_within_one_step(bench):
    import comfy.model_management

    def cancel(call: int, _: int) -> None:
        if call == 2:
            comfy.model_management.interrupt_current_processing()

    forward = Forward(bench.model, cancel)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        bench.run(model=forward.model, micro_batch=2)
    assert len(forward.sizes) == 3
    assert not comfy.model_management.processing_interrupted()


def test_one_bar_runs_over_the_whole_count(bench, monkeypatch):
    import comfy.utils

    seen = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, preview, node_id=None: seen.append((value, total)))
    monkeypatch.setattr(comfy.utils, "PROGRESS_THROTTLE_MIN_INTERVAL", 0.0)
    bench.run(micro_batch=3)
    assert [value for value, _ in seen] == [3, 6, 9, 12, 13, 14, 15, 16]
    assert {total for _, total in seen} == {16}


def test_time_left_is_shown_on_the_node(bench, monkeypatch):
    import server

    class Server:
        client_id = "me"

        def __init__(self) -> None:
            self.texts: list[str] = []

        def send_progress_text(self, text: str, node_id: str, sid: str) -> None:
            assert (node_id, sid) == ("7", "me")
            self.texts.append(text)

    monkeypatch.setattr(server.PromptServer, "instance", running := Server(), raising=False)
    bench.run(micro_batch=3, sampler_name="euler")
    assert running.texts[0].startswith("sprites 1-3 of 4, step 1/4, ")
    assert running.texts[-1] == "sprites 4-4 of 4, step 4/4, 0 s left"


def test_optimised_model_draws_each_seeds_own_picture_and_survives_out_of_memory(bench, run_batch, pack_nodes):
    from comfy_api.latest import io

    values = dict.fromkeys(("precision", "attention", "channels_last", "cudnn_autotune", "fp16_accumulation"), "auto")
    node = pack_nodes["OptimizeModel"].PREPARE_CLASS_CLONE({"hidden_inputs": {io.Hidden.unique_id: "3"}})
    model = node.execute(bench.model, engine="eager", **values).args[0]
    singles = torch.cat([bench.single(seed, "euler_ancestral", model=model) for seed in SEEDS])
    assert torch.equal(bench.batch(model=model, micro_batch=1), singles)
    forward = Forward(model, lambda call, _: out_of_memory() if call == 2 else None)
    assert_same_pictures(bench.batch(model=forward.model, micro_batch=3), singles)
    assert torch.equal(bench.single(SEEDS[0], "euler"), bench.singles("euler")[:1])
