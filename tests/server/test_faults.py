"""Checkpoints that are damaged, of another kind or full of NaN, on a real server: one failure or one reason, and the next run draws.

Servers and clients that are killed: test_kills.py and test_cluster.py.
"""

import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import safetensors.torch
import torch
from dev_tools.workspace import TINY_CHECKPOINT
from fast_sprites.nodes.benchmark.client import ComfyClient, Event, Failed

from ..sd15 import tiny_sd15
from .conftest import Comfy, eventually


class Planted:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return open, (str(self._path), "w")


def broken_files(models: Path, proof: Path) -> dict[str, bytes]:
    """Files that are no checkpoint, by what is wrong with them."""
    whole = (models / "checkpoints" / TINY_CHECKPOINT).read_bytes()
    header = int.from_bytes(whole[:8], "little")
    return {
        "empty.safetensors": b"",
        "header_cut.safetensors": whole[: 8 + header // 2],
        "weights_cut.safetensors": whole[: len(whole) // 2],
        "header_too_long.safetensors": (1 << 62).to_bytes(8, "little") + whole[8:4096],
        "noise.safetensors": bytes(range(256)) * 64,
        "shifted.safetensors": b"\n" + whole[:100_000],
        "page.ckpt": b"<!DOCTYPE html><title>404</title>" * 50,
        "pickle.ckpt": pickle.dumps({"state_dict": Planted(proof)}),
        "only_a_unet.safetensors": safetensors.torch.save({"model.diffusion_model.out.2.bias": torch.zeros(4)}),
    }


def last_event(comfy: Comfy, prompt: dict[str, Any]) -> Event:
    async def follow(client: ComfyClient) -> Event:
        prompt_id = await client.queue(prompt)
        return [event async for event in client.follow(prompt_id)][-1]

    return comfy.ask(follow)


@pytest.fixture
def models(comfy: Comfy) -> Iterator[Path]:
    """The server's folder of models; files that are added are taken out again."""
    folder = comfy.server.setup.base_directory / "models"
    before = set(folder.rglob("*"))
    yield folder
    for path in set(folder.rglob("*")) - before:
        path.unlink()


def sprites_on_disk(comfy: Comfy, checkpoint: str, **changes: Any) -> dict[str, Any]:
    """Two sprites through every node of the pack that draws, with `checkpoint`."""
    prompt = comfy.sprites(draw="while saving", seed=29, **changes)
    prompt["load"]["inputs"]["ckpt_name"] = checkpoint
    prompt["model"]["inputs"]["engine"] = "eager"
    del prompt["decode"]
    prompt["save"] = comfy.node("SaveSprites", sprites=["sample", 3], vae=["vae", 0], filename="faults/%index%")
    return prompt


@pytest.mark.usefixtures("goes_on")
def test_broken_checkpoints_fail_in_the_loader_and_leave_nothing(comfy: Comfy, models: Path, tmp_path: Path):
    proof = tmp_path / "unpickled"
    comfy.ask(lambda client: client.run(sprites_on_disk(comfy, TINY_CHECKPOINT)))
    process = psutil.Process(comfy.server.pid)
    before = process.num_fds(), process.num_threads()
    files = broken_files(models, proof)
    for name, content in files.items():
        (models / "checkpoints" / name).write_bytes(content)
    for number, name in enumerate(files):
        failed = last_event(comfy, sprites_on_disk(comfy, name))
        assert isinstance(failed, Failed), (name, failed)
        assert failed.node_id == "load", (name, failed)
        assert failed.message, name
        healthy = sprites_on_disk(comfy, TINY_CHECKPOINT, cfg=3.0 + number / 100)
        comfy.ask(lambda client, healthy=healthy: client.run(healthy))
    assert not proof.exists()
    assert eventually(lambda: process.num_fds() <= before[0] + 2)  # connections of the last clients
    assert eventually(lambda: process.num_threads() <= before[1] + 1)
    print(f"{len(files)} broken checkpoints, {len(files)} failures in the loader, {len(files)} runs drawn in between")


@pytest.mark.usefixtures("goes_on")
def test_weights_of_nan_draw_and_are_named(comfy: Comfy, models: Path):
    weights = safetensors.torch.load_file(models / "checkpoints" / TINY_CHECKPOINT)
    (name,) = [name for name in weights if name.endswith("diffusion_model.out.2.bias")]
    weights[name] = torch.full_like(weights[name], float("nan"))
    safetensors.torch.save_file(weights, models / "checkpoints" / "nan.safetensors")
    _, history = comfy.ask(lambda client: client.run(sprites_on_disk(comfy, "nan.safetensors")))
    assert history.succeeded
    assert "NaN or infinite values in sprite 1, 2, black or white there" in history.outputs["save"]["text"][0]
    assert len(history.images) == 2


@pytest.mark.usefixtures("goes_on")
def test_a_checkpoint_that_changes_between_two_runs(comfy: Comfy, models: Path):
    """Replaced by half a file while ComfyUI holds it, and by the whole one again."""
    path = models / "checkpoints" / "changing.safetensors"
    shutil.copy(models / "checkpoints" / TINY_CHECKPOINT, path)
    comfy.ask(lambda client: client.run(sprites_on_disk(comfy, path.name)))
    whole = path.read_bytes()
    half = path.with_suffix(".half")
    half.write_bytes(whole[: len(whole) // 2])
    half.replace(path)  # as a download does; the old file's pages stay with those who read them
    _, history = comfy.ask(lambda client: client.run(sprites_on_disk(comfy, path.name, cfg=3.5)))
    assert history.succeeded


@pytest.mark.usefixtures("goes_on")
def test_a_unet_of_sd_15_is_passed_through(comfy: Comfy, models: Path):
    safetensors.torch.save_file(tiny_sd15(), models / "diffusion_models" / "sd15.safetensors")
    prompt = {
        "load": comfy.node("UNETLoader", unet_name="sd15.safetensors"),
        "model": comfy.node("OptimizeModel", model=["load", 0]),
        "probe": comfy.node("MemoryProbe", value=["model", 0]),
    }
    prompt["load"]["inputs"]["unet_name"] = "sd15.safetensors"
    _, history = comfy.ask(lambda client: client.run(prompt))
    (report,) = history.outputs["model"]["text"]
    assert "not an SDXL UNet (it has no label embedding, as SD 1 and 2); passed through untouched" in report
