"""What is wrong around the nodes: disks, values that are no numbers, names and prompts, checkpoints of another kind."""

import contextlib
import itertools
import json
import logging
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ..disks import SmallDisk, files_no_longer_than, small_disk
from ..sd15 import tiny_sd15
from .optimized import TOLERANCE, optimize, relative_error, sample
from .test_batch_sprite_sampler import Bench
from .test_optimize_vae import optimize as optimize_vae


@pytest.fixture
def output(comfyui, tmp_path, monkeypatch) -> Callable[[Path], Path]:
    """A function that makes a folder ComfyUI's output folder."""
    import folder_paths

    def use(folder: Path) -> Path:
        folder.mkdir(exist_ok=True)
        monkeypatch.setattr(folder_paths, "output_directory", str(folder))
        return folder

    return use


@pytest.fixture
def disk(tmp_path, output) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", "64k") as mounted:
        output(mounted.path)
        yield mounted


def run_node(pack_nodes: dict[str, Any], name: str, **inputs: Any) -> Any:
    from comfy_api.latest import io

    hidden = {io.Hidden.unique_id: "9", io.Hidden.prompt: {}, io.Hidden.extra_pnginfo: {}}
    return pack_nodes[name].PREPARE_CLASS_CLONE({"hidden_inputs": hidden}).execute(**inputs)


def noise(count: int) -> torch.Tensor:
    return torch.rand(count, 48, 48, 3, generator=torch.Generator().manual_seed(3))  # 7 kB as a PNG


def is_whole(path: Path) -> bool:
    with Image.open(path) as picture:
        picture.load()
        return picture.size == (48, 48)


@pytest.mark.parametrize("file_format", ["png", "webp"])
def test_sprites_on_a_disk_that_fills_up(pack_nodes, disk, file_format):
    with pytest.raises(Exception, match=r"^Only \d+ of 40 sprites could be saved to .*No space left on device; make room"):
        run_node(pack_nodes, "SaveSprites", images=noise(40), filename="s%index%", format=file_format)
    kept = list(disk.path.iterdir())
    assert len(kept) >= 4
    assert all(path.suffix == f".{file_format}" and is_whole(path) for path in kept)
    disk.remount("size=4m")
    run_node(pack_nodes, "SaveSprites", images=noise(40), filename="s%index%", format=file_format)
    assert len(list(disk.path.iterdir())) == len(kept) + 40


@pytest.mark.parametrize("subfolder", ["", "new/"])
def test_sprites_on_a_read_only_disk(pack_nodes, disk, subfolder):
    disk.remount("ro")
    with pytest.raises(
        Exception, match=r"Read-only file system; (make room or )?change filename|Read-only file system: .*change filename"
    ) as caught:
        run_node(pack_nodes, "SaveSprites", images=noise(3), filename=f"{subfolder}s%index%", format="png")
    assert "\n" not in str(caught.value)
    assert list(disk.path.iterdir()) == []


@pytest.mark.parametrize("room", [0, 100, 5000])
def test_a_sprite_that_is_cut_short_has_no_name(pack_nodes, output, tmp_path, room):
    folder = output(tmp_path / "output")
    with files_no_longer_than(room), pytest.raises(Exception, match=r"^Only 0 of 2 sprites could be saved .*File too large"):
        run_node(pack_nodes, "SaveSprites", images=noise(2), filename="s", format="png")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("fault", ["full", "ro"])
def test_a_sheet_that_the_disk_refuses_is_one_sentence(pack_nodes, disk, fault):
    disk.remount("ro" if fault == "ro" else "size=12k")
    inputs = {i.id: getattr(i, "default", None) for i in pack_nodes["SpriteSheet"].GET_SCHEMA().inputs}
    with pytest.raises(Exception, match=r"^The sheet could not be saved to .*; make room or change filename_prefix\.$"):
        run_node(pack_nodes, "SpriteSheet", **{**inputs, "image": noise(9), "filename_prefix": "sheet"})
    assert [path for path in disk.path.iterdir() if path.suffix == ".part"] == []


@pytest.fixture(scope="module")
def bench(comfyui, pack_nodes, tiny_checkpoint) -> Bench:
    return Bench(comfyui, pack_nodes, tiny_checkpoint, torch.float32)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_latent_of_no_numbers_spoils_its_own_sprite_alone(bench, value):
    latent = {"samples": torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(5))}
    alone = bench.run(latent={"samples": latent["samples"][1:]}, count=1, seed=12, denoise=0.6, sampler_name="euler")[0][
        "samples"
    ]
    latent["samples"][0, 2, 3, 3] = value
    drawn = bench.run(latent=latent, count=2, seed=11, denoise=0.6, sampler_name="euler", micro_batch=2)[0]["samples"]
    assert not torch.isfinite(drawn[0]).all()
    assert torch.isfinite(drawn[1]).all()
    difference = (drawn[1:] - alone).abs().max() / alone.abs().max()
    assert difference < 2e-4


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_engine_leaves_a_latent_of_no_numbers_to_comfyui(comfyui, pack_nodes, tiny_sdxl, conds, caplog, value):
    latent = torch.zeros(1, 4, 8, 8)
    latent[0, 1, 2, 2] = value
    optimized = optimize(pack_nodes, tiny_sdxl.model)[0]
    before = sample(comfyui, tiny_sdxl.model, conds, width=64, height=64)
    with torch.inference_mode(), caplog.at_level("INFO", "fast_sprites"):
        arguments = (7, 2, 2.0, "euler", "karras", *conds, {"samples": latent}, 0.8)
        expected = comfyui.common_ksampler(tiny_sdxl.model, *arguments)[0]["samples"]
        got = comfyui.common_ksampler(optimized, *arguments)[0]["samples"]
    assert torch.equal(torch.isnan(got), torch.isnan(expected))
    assert "ComfyUI's own forward ran: the first step holds NaN or infinite values, which cannot be compared" in caplog.text
    assert relative_error(sample(comfyui, optimized, conds, width=64, height=64), before) < TOLERANCE
    assert torch.equal(sample(comfyui, tiny_sdxl.model, conds, width=64, height=64), before)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_decoding_no_numbers_spoils_its_own_picture_alone(pack_nodes, tiny_sdxl, value):
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        whole = tiny_sdxl.vae.decode(latents)
        latents[0, 0, 4, 4] = value
        stock, got = tiny_sdxl.vae.decode(latents), optimize_vae(pack_nodes, tiny_sdxl.vae, channels_last="on")[0].decode(latents)
    assert not torch.isfinite(stock[0]).all()
    assert torch.equal(torch.isfinite(got).all(dim=-1), torch.isfinite(stock).all(dim=-1))
    assert relative_error(got[1], whole[1]) < TOLERANCE


@pytest.mark.parametrize("file_format", ["png", "webp"])
def test_pictures_of_no_numbers_are_saved_as_core_does_and_named(pack_nodes, output, tmp_path, caplog, file_format):
    folder = output(tmp_path / "output")
    pictures = noise(3)
    pictures[1, :8] = float("nan")
    pictures[2, :8] = float("inf")
    with caplog.at_level(logging.WARNING, "fast_sprites"):
        report = run_node(pack_nodes, "SaveSprites", images=pictures, filename="s%index%", format=file_format, first_index=5).ui[
            "text"
        ][0]
    assert "NaN or infinite values in sprite 6, 7, black or white there: check the VAE" in report
    assert "NaN or infinite values in sprite 6, 7" in caplog.text
    for number, expected in ((6, 0), (7, 255)):
        with Image.open(folder / f"s{number:05}.{file_format}") as picture:
            saved = np.asarray(picture)
        assert (saved[:8] == expected).all()
        assert np.array_equal(saved[8:], (255 * pictures[number - 5, 8:].numpy()).astype(np.uint8))


NAMES = [
    "красный слизень 赤いスライム 🟢",
    "\u202egnp.exe\u2066\u200b\u200f",
    "a\x00b\nc\rd\te\x1b[31m",
    "../../etc/passwd",
    'CON.txt|<>:?*"',
    "e\u0301" * 300,
    "word " * 4000,
    "((((" * 200 + ":1.5)" * 20,
    "%seed%%index%%prompt%",
    "{a|b}{{{|}}}",
]


@pytest.mark.parametrize("text", NAMES, ids=lambda text: ascii(text[:12]))
def test_hostile_prompts_and_names(bench, pack_nodes, output, tmp_path, text):
    """As prompt, as file name and as both: drawn and saved inside the folder with the text kept, or refused in a sentence."""
    folder = output(tmp_path / "output")
    with torch.inference_mode():
        made = run_node(
            pack_nodes, "SpritePrompts",
            clip=bench.clip, prompts=text, prefix="", suffix="", negative=text, count=1, alternatives="pick", seed=1,
        )  # fmt: skip
        positive, negative, prompts, _ = made.args
        drawn = bench.run(positive=positive, negative=negative, count=1, steps=1, sampler_name="euler")[0]["samples"]
    assert torch.isfinite(drawn).all()
    for file_format, pattern in itertools.product(("png", "webp"), ("%prompt%", text)):
        refused = pytest.raises(ValueError, match="filename is ") if ".." in pattern else contextlib.nullcontext()
        with refused:
            run_node(pack_nodes, "SaveSprites", images=noise(1), prompts=prompts[:1], filename=pattern, format=file_format)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) >= 2
    for path in files:
        assert path.is_relative_to(folder)
        assert not any(unicodedata.category(character) == "Cc" or character in "\u202e\u2066\u200f" for character in path.name)
        assert is_whole(path)
        if path.suffix == ".png":
            with Image.open(path) as picture:
                kept = json.loads(picture.info["fast_sprites"])
            assert kept["prompt"] == prompts[0].text


def test_sd15_is_passed_through_with_the_reason(comfyui, pack_nodes, conds):
    """A UNet of SD 1.5's kind, as ComfyUI recognises and loads it."""
    import comfy.sd

    model: Any = comfy.sd.load_diffusion_model_state_dict(tiny_sd15())
    assert type(model.model).__name__ == "BaseModel"
    passed, report = optimize(pack_nodes, model)
    assert passed is model
    assert "not an SDXL UNet (it has no label embedding, as SD 1 and 2); passed through untouched" in report


@pytest.mark.parametrize("field", ["prompts", "prefix", "suffix", "negative"])
def test_half_a_character_is_refused_in_a_sentence(bench, pack_nodes, field):
    """Half an emoji, which a browser sends as it is and no tokenizer reads."""
    inputs = {"prompts": "slime", "prefix": "", "suffix": "", "negative": "", field: "half \ud83d of it"}
    with pytest.raises(ValueError, match=rf"^{field} holds half a character \(\\ud83d\) at position 6; type it anew\.$"):
        run_node(pack_nodes, "SpritePrompts", clip=bench.clip, count=1, alternatives="pick", seed=1, **inputs)
