"""Pictures given out one by one while the rest is decoded: what was given out stays, whatever happens after."""

import contextlib
from collections.abc import Callable, Generator
from typing import Any

import pytest
import torch

from .optimized import package
from .test_kept_memory import entries
from .test_optimize_vae import TOLERANCE, latents, optimize


@pytest.fixture(autouse=True)
def inference_mode():
    with torch.inference_mode():
        yield


@pytest.fixture
def decode_each(pack_nodes) -> Callable[..., Generator[Any]]:
    return package(pack_nodes, "comfy_adapters.vae").decode_each


def failing_at(monkeypatch: pytest.MonkeyPatch, vae: Any, call: int, error: Exception) -> list[int]:
    """Let the stock decoder raise `error` at this call (from 1); returns the heights of what it is asked for."""
    decode, heights = vae.first_stage_model.decode, []

    def failing(z: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        heights.append(z.shape[2])
        if len(heights) == call:
            raise error
        return decode(z, **kwargs)

    monkeypatch.setattr(vae.first_stage_model, "decode", failing)
    return heights


def test_a_picture_that_was_given_out_is_not_decoded_again(pack_nodes, tiny_sdxl, monkeypatch, decode_each):
    optimized, _ = optimize(pack_nodes, tiny_sdxl.vae, pictures_per_pass=1)
    tall = latents(batch=4, height=48)
    expected = tiny_sdxl.vae.decode(tall)
    heights = failing_at(monkeypatch, tiny_sdxl.vae, 3, torch.OutOfMemoryError("injected"))
    got = list(decode_each(optimized, tall, torch.clone))
    assert [len(pictures) for pictures in got] == [1, 1, 1, 1]
    assert heights[:3] == [48, 48, 48]
    assert set(heights[3:]) == {32, 24}
    assert (torch.cat(got[:2]) - expected[:2]).abs().max() < TOLERANCE
    # Tiled: seams are blended, so only the look is the same.
    assert (torch.cat(got[2:]) - expected[2:]).abs().mean() < 0.05


def test_memory_that_runs_out_while_pictures_are_finished_is_made_up_for(pack_nodes, tiny_sdxl, decode_each):
    optimized, _ = optimize(pack_nodes, tiny_sdxl.vae, pictures_per_pass=2)
    taken: list[int] = []

    def finish(pictures: torch.Tensor) -> torch.Tensor:
        taken.append(len(pictures))
        if len(taken) == 2:
            raise torch.OutOfMemoryError("injected")
        return pictures.clone()

    got = list(decode_each(optimized, latents(batch=4), finish))
    assert taken == [2, 2, 1, 1]
    assert (torch.cat(got) - tiny_sdxl.vae.decode(latents(batch=4))).abs().max() < TOLERANCE


def test_comfyuis_decoder_goes_on_after_the_pictures_that_were_given_out(pack_nodes, tiny_sdxl, monkeypatch, decode_each):
    optimized, _ = optimize(pack_nodes, tiny_sdxl.vae, pictures_per_pass=1)
    expected = tiny_sdxl.vae.decode(latents(batch=4))
    not_resident = package(pack_nodes, "comfy_adapters.weights").NotResidentError
    failing_at(monkeypatch, tiny_sdxl.vae, 3, not_resident("injected"))
    got = list(decode_each(optimized, latents(batch=4), torch.clone))
    assert [len(pictures) for pictures in got] == [1, 1, 2]
    assert (torch.cat(got) - expected).abs().max() < TOLERANCE


def test_a_decode_that_is_broken_off_leaves_the_decoder_whole(pack_nodes, tiny_sdxl, decode_each):
    import comfy.model_management as management

    optimized, _ = optimize(pack_nodes, tiny_sdxl.vae, channels_last="on")
    expected = optimized.decode(latents())
    with contextlib.closing(decode_each(optimized, latents(), torch.clone)) as passes:
        assert torch.equal(next(passes), expected[:1])
        assert entries("OptimizeVAE") == [], "ComfyUI may take the weights in the middle of a decode"
    assert len(entries("OptimizeVAE")) == 1
    with contextlib.closing(decode_each(optimized, latents(), torch.clone)) as passes:
        next(passes)
        management.interrupt_current_processing(True)
        with pytest.raises(management.InterruptProcessingException):
            next(passes)
    assert len(entries("OptimizeVAE")) == 1
    assert torch.equal(optimized.decode(latents()), expected)


@pytest.mark.parametrize("where", ["instance", "class"])
def test_the_decode_that_another_node_put_in_place_is_asked(pack_nodes, tiny_sdxl, decode_each, where):
    optimized, _ = optimize(pack_nodes, tiny_sdxl.vae)
    if where == "instance":
        optimized.decode = lambda samples, vae_options: torch.zeros(len(samples), 8, 8, 3)
    else:
        replaced = {"decode": lambda vae, samples, vae_options: torch.zeros(len(samples), 8, 8, 3)}
        optimized.__class__ = type("Other", (type(optimized),), replaced)
    (got,) = decode_each(optimized, latents(), torch.clone)
    assert got.shape == (3, 8, 8, 3)
