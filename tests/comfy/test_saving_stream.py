"""The stream of SaveSprites with OptimizeVAE's decoder, which gives pictures out one by one: what is finished stays, whatever follows."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.comfy.optimized import package
from tests.comfy.test_decode_each import failing_at
from tests.comfy.test_optimize_vae import optimize
from tests.comfy.test_save_sprites import bench, save, vae

__all__ = ["bench", "save", "vae"]  # fixtures


@pytest.fixture(autouse=True)
def inference_mode():
    with torch.inference_mode():
        yield


@pytest.fixture
def stream(bench) -> Any:
    return bench.run(count=4, micro_batch=4, steps=1, sampler_name="euler", draw="while saving")[3]


@pytest.fixture
def optimized(pack_nodes, vae) -> Any:
    return optimize(pack_nodes, vae, pictures_per_pass=1)[0]


def pixels(folder: Path) -> dict[str, Any]:
    return {path.name: np.asarray(Image.open(path)) for path in sorted(folder.iterdir())}


def test_both_ways_of_saving_make_the_same_files(save, output, stream, optimized):
    by_itself = save(None, "a/%index%", sprites=stream, vae=optimized)
    drawn = optimized.decode(torch.cat(list(stream.micro_batches("9"))))
    as_images = save(drawn, "b/%index%", seeds=stream.seeds)
    assert [(output / "a" / f"{i:05}.png").read_bytes() for i in (1, 2, 3, 4)] == [
        (output / "b" / f"{i:05}.png").read_bytes() for i in (1, 2, 3, 4)
    ]
    assert np.array_equal(pixels(output / "a")["00003.png"], np.clip(255.0 * drawn[2].numpy(), 0, 255).astype(np.uint8))
    said, also_said = (result.args[1].splitlines() for result in (by_itself, as_images))
    assert [Path(line).name for line in said[-4:]] == [Path(line).name for line in also_said[-4:]]


def test_memory_that_runs_out_at_the_third_picture_costs_no_other(save, output, stream, optimized, vae, monkeypatch):
    expected = optimized.decode(torch.cat(list(stream.micro_batches("9"))))
    heights = failing_at(monkeypatch, vae, 3, torch.OutOfMemoryError("injected"))
    save(None, "s%index%", sprites=stream, vae=optimized)
    # The tiles are larger than these small latents, so they hold the same picture.
    assert heights == [8] * 5
    for picture, saved in zip(expected.numpy(), pixels(output).values(), strict=True):
        assert np.abs(saved.astype(int) - np.clip(255.0 * picture, 0, 255).astype(int)).max() <= 1


def test_a_cancel_between_two_pictures_leaves_the_finished_ones(save, output, stream, optimized, vae, monkeypatch):
    import comfy.model_management as management

    decode, decoded = vae.first_stage_model.decode, []

    def cancel_after_the_second(z: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        decoded.append(len(z))
        picture = decode(z, **kwargs)
        if len(decoded) == 2:
            management.interrupt_current_processing(True)
        return picture

    monkeypatch.setattr(vae.first_stage_model, "decode", cancel_after_the_second)
    with pytest.raises(management.InterruptProcessingException):
        save(None, "s%index%", sprites=stream, vae=optimized)
    assert sorted(pixels(output)) == ["s00001.png", "s00002.png"]
    again = save(None, "s%index%", sprites=stream, vae=optimized)
    assert decoded == [1] * 4
    assert sorted(pixels(output)) == [f"s0000{i}.png" for i in (1, 2, 3, 4)]
    assert ", 2 of them before the last run was broken off" in again.args[1]
    assert [json.loads(Image.open(path).info["fast_sprites"])["index"] for path in sorted(output.iterdir())] == [0, 1, 2, 3]


@pytest.mark.parametrize("format", ["png", "webp"])
def test_a_picture_of_no_numbers_is_told_with_its_number(save, pack_nodes, output, stream, optimized, vae, monkeypatch, format):
    to_output = package(pack_nodes, "comfy_adapters.vae").to_output
    decoded: list[int] = []

    def spoil_the_second(vae: Any, pictures: torch.Tensor) -> torch.Tensor:
        decoded.append(1)
        pictures = to_output(vae, pictures)
        return pictures * float("nan") if len(decoded) == 2 else pictures

    monkeypatch.setattr(package(pack_nodes, "comfy_adapters.vae"), "to_output", spoil_the_second)
    report = save(None, "s%index%", format=format, sprites=stream, vae=optimized).args[1]
    assert "NaN or infinite values in sprite 2, black or white there" in report
    found = pixels(output)
    assert found[f"s00002.{format}"].max() == 0
    assert found[f"s00001.{format}"].max() > 0


@pytest.mark.parametrize("num_threads", [1, 2, 8])
def test_large_pictures_in_a_pool_of_any_size(save, pack_nodes, output, monkeypatch, num_threads):
    """Their strips are given to the pool that is full of pictures."""
    monkeypatch.setattr(package(pack_nodes, "engine.sprites.run_saving"), "_THREADS", num_threads)
    images = torch.rand(9, 400, 500, 3, generator=torch.Generator().manual_seed(4))
    save(images, "s%index%")
    for picture, path in zip(images.numpy(), sorted(output.iterdir()), strict=True):
        assert path.read_bytes() == one_after_the_other(pack_nodes, picture, Image.open(path).info)


def one_after_the_other(pack_nodes: dict[str, Any], picture: Any, texts: dict[Any, str]) -> bytes:
    rows, _ = package(pack_nodes, "engine.sprites.staging").content(picture, "png")
    return package(pack_nodes, "engine.sprites.png").encode_png(rows, 3, texts)


def test_what_waits_is_saved_when_python_ends(pack_nodes):
    """Pools take nothing new then, and finish what they have."""
    writer = package(pack_nodes, "engine.sprites.run_saving")._Writer
    ended = SimpleNamespace(_pool=ThreadPoolExecutor(1))
    ended._pool.shutdown()
    assert writer._in_idle_threads(ended, lambda value: bytes([value]), range(3)) == [b"\0", b"\1", b"\2"]


def test_strips_are_made_two_at_a_time(pack_nodes):
    met = threading.Barrier(2, timeout=20)
    with ThreadPoolExecutor(1) as pool:
        strips = package(pack_nodes, "engine.sprites.run_saving")._Writer._in_idle_threads(
            SimpleNamespace(_pool=pool), lambda value: bytes([value, met.wait() * 0]), range(6)
        )
    assert strips == [bytes([value, 0]) for value in range(6)]


def test_the_last_picture_finds_the_threads_still_there(save, pack_nodes, monkeypatch):
    met = threading.Barrier(2, timeout=20)

    def encode(_rows: Any, _channels: int, _texts: dict[str, str], run: Any) -> bytes:
        time.sleep(0.2)  # by then nothing is left to be given to the threads
        return b"".join(run(lambda value: bytes([value, met.wait() * 0]), range(4)))

    run_saving = package(pack_nodes, "engine.sprites.run_saving")
    monkeypatch.setattr(run_saving, "_THREADS", 2)
    monkeypatch.setattr(run_saving, "encode_png", encode)
    assert "1 sprites saved in" in save(torch.zeros(1, 8, 8, 3), "a").args[1]
