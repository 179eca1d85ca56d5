"""SaveSprites in a real ComfyUI: files, names, metadata and what the metadata draws."""

import json
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.comfy.optimized import package
from tests.comfy.test_batch_sprite_sampler import Bench, assert_same_pictures

SAMPLER_INPUTS = {
    "count": 4, "width": 64, "height": 64, "seed": 11, "seed_mode": "random", "steps": 4, "cfg": 5.0, "sampler_name": "euler_ancestral",
    "scheduler": "karras", "denoise": 1.0, "micro_batch": 0,
}  # fmt: skip
PROMPT_INPUTS = {
    "prompts": "sword\n{red|blue} potion", "prefix": "pixel art", "suffix": "", "negative": "blurry", "count": 4, "alternatives": "pick",
    "seed": 3,
}  # fmt: skip
GRAPH = {
    "2": {"class_type": "SpritePrompts", "inputs": {**PROMPT_INPUTS, "clip": ["1", 1]}},
    "3": {
        "class_type": "BatchSpriteSampler",
        "inputs": {**SAMPLER_INPUTS, "model": ["1", 0], "positive": ["2", 0], "negative": ["2", 1]},
    },
    "9": {"class_type": "SaveSprites", "inputs": {"images": ["8", 0], "seeds": ["3", 1], "prompts": ["2", 2]}},
}


@pytest.fixture
def save(pack_nodes, output):
    from comfy_api.latest import io

    hidden = {io.Hidden.unique_id: "9", io.Hidden.prompt: GRAPH, io.Hidden.extra_pnginfo: {"workflow": {"nodes": []}}}
    node = pack_nodes["SaveSprites"].PREPARE_CLASS_CLONE({"hidden_inputs": hidden})

    def run(images: torch.Tensor, filename: str = "sprites/%prompt%_%seed%_%index%", format: str = "png", **inputs: Any) -> Any:
        return node.execute(images=images, filename=filename, format=format, **inputs)

    return run


def pictures(count: int = 3, channels: int = 3) -> torch.Tensor:
    return torch.rand(count, 24, 40, channels, generator=torch.Generator().manual_seed(4)) * 1.2 - 0.1


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("format", ["png", "webp"])
def test_pixels_are_those_of_saveimage(save, output, channels, format):
    images = pictures(channels=channels)
    ui = save(images, format=format, seeds=(5, 6, 7)).ui["images"]
    expected = np.clip(255.0 * images.numpy(), 0, 255).astype(np.uint8)
    for entry, pixels in zip(ui, expected, strict=True):
        decoded = np.asarray(Image.open(output / entry["subfolder"] / entry["filename"]))
        if channels == 1:
            decoded = decoded[..., :1] if decoded.ndim == 3 else decoded[..., None]
        assert np.array_equal(decoded, pixels)


def test_png_equals_what_core_saves(comfyui, save, output):
    images = pictures(1)
    comfyui.SaveImage().save_images(images, "core", prompt=None)
    save(images, "ours")
    assert np.array_equal(np.asarray(Image.open(output / "core_00001_.png")), np.asarray(Image.open(output / "ours.png")))


def test_names_never_overwrite_and_the_frontend_gets_them(save, output):
    for expected in ("a.png", "a_2.png", "a_3.png"):
        result = save(pictures(1), "a")
        assert result.ui["images"] == [{"filename": expected, "subfolder": "", "type": "output"}]
    assert {entry["filename"] for entry in save(pictures(2), "a").ui["images"]} == {"a_4.png", "a_5.png"}
    assert sorted(path.name for path in output.iterdir()) == [f"a{n}.png" for n in ("", "_2", "_3", "_4", "_5")]


def test_comfyuis_tokens_work(save, output):
    save(pictures(1), "%width%x%height%/s", format="webp")
    assert (output / "40x24" / "s.webp").is_file()


@pytest.mark.parametrize("filename", ["../out", "/tmp/out", "a/../../out"])
def test_pattern_cannot_leave_the_output_folder(save, output, filename):
    with pytest.raises(ValueError, match="leaves ComfyUI's output folder"):
        save(pictures(1), filename)
    assert not list(output.parent.glob("out*.png"))


def test_link_cannot_lead_out_of_the_output_folder(save, output, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (output / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="outside ComfyUI's output folder"):
        save(pictures(1), "link/a")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_folder_that_is_a_file_is_one_sentence(save, output):
    (output / "taken").write_text("")
    with pytest.raises(Exception, match=r"taken cannot be made: .*; change filename or the rights of that folder\.$"):
        save(pictures(1), "taken/a")


def test_full_disk_is_one_sentence_and_keeps_what_is_finished(save, output, monkeypatch):
    write = Path.write_bytes

    def fill_up(path: Path, data: bytes) -> int:
        if len(list(output.glob("s*.png"))) >= 2:
            raise OSError(28, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", fill_up)
    with pytest.raises(
        Exception, match=r"^Only \d of 8 sprites could be saved to .*No space left on device; make room or change filename\.$"
    ):
        save(pictures(8), "s%index%")
    kept = list(output.iterdir())
    assert 2 <= len(kept) < 8
    assert all(path.suffix == ".png" and Image.open(path).size == (40, 24) for path in kept)


@pytest.mark.parametrize(
    ("images", "inputs", "sentence"),
    [
        (
            pictures(3),
            {"seeds": (1, 2)},
            "There are 3 pictures and 2 seeds; connect seeds of the BatchSpriteSampler that drew these",
        ),
        (pictures(3), {"prompts": ()}, "There are 3 pictures and 0 prompts"),
        (pictures(1, 2), {}, "The pictures have 2 channels; 1"),
        (
            torch.zeros(1, 1, 16384, 3),
            {"format": "webp"},
            "The pictures are 16384x1 pixels, WebP ends at 16383; set format to png.",
        ),
        (pictures(1), {"format": "gif"}, "format is 'gif'; allowed are png, webp."),
    ],
)
def test_bad_input_gets_one_sentence_before_anything_is_written(save, output, images, inputs, sentence):
    with pytest.raises(ValueError, match=sentence):
        save(images, **inputs)
    assert not list(output.rglob("*.*"))


def webp_texts(path: Path) -> dict[str, str]:
    return dict(text.split(":", 1) for text in Image.open(path).getexif().values())


@pytest.fixture(scope="module")
def bench(comfyui, pack_nodes, tiny_checkpoint) -> Bench:
    return Bench(comfyui, pack_nodes, tiny_checkpoint)


@pytest.mark.parametrize("format", ["png", "webp"])
def test_each_file_carries_the_graph_that_draws_it_alone(save, output, bench, pack_nodes, format):
    def draw(graph: Any) -> Any:
        """Run SpritePrompts and BatchSpriteSampler with the constants of an API graph."""
        constants = [{key: value for key, value in graph[node]["inputs"].items() if not isinstance(value, list)} for node in "23"]
        with torch.inference_mode():
            positive, negative, prompts, _ = pack_nodes["SpritePrompts"].execute(clip=bench.clip, **constants[0]).result
        latent, seeds, *_ = bench.run(positive=positive, negative=negative, **constants[1])
        return latent["samples"], seeds, prompts

    samples, seeds, prompts = draw(GRAPH)
    ui = save(torch.rand(4, 64, 64, 3), format=format, seeds=seeds, prompts=prompts).ui["images"]
    assert ui[0]["filename"] == f"sword_{seeds[0]}_00001.{format}"
    for i, entry in enumerate(ui):
        path = output / entry["subfolder"] / entry["filename"]
        texts = Image.open(path).info if format == "png" else webp_texts(path)
        assert json.loads(texts["fast_sprites"]) == {"index": i, "seed": seeds[i], "prompt": prompts[i].text}
        assert json.loads(texts["workflow"]) == {"nodes": []}
        alone, (seed,), (prompt,) = draw(json.loads(texts["prompt"]))
        assert (seed, prompt.text) == (seeds[i], prompts[i].text)
        assert_same_pictures(alone, samples[i : i + 1])


class CountedVae:
    """Passes decoding on and notes how many files lay in `output` before each pass, and how many pictures it made."""

    def __init__(self, vae: Any, output: Path) -> None:
        self._vae, self._output = vae, output
        self.files_before: list[int] = []
        self.pictures: list[int] = []

    def decode(self, samples: torch.Tensor, vae_options: dict[str, Any]) -> torch.Tensor:
        self.files_before.append(len(list(self._output.glob("*.png"))))
        self.pictures.append(len(samples))
        return self._vae.decode(samples, vae_options=vae_options)


@pytest.fixture(scope="module")
def vae(comfyui, tiny_checkpoint) -> Any:
    import comfy.sd

    return comfy.sd.load_checkpoint_guess_config(str(tiny_checkpoint))[2]


def test_stream_saves_what_was_drawn_before_the_rest_is_drawn(save, output, bench, vae):
    counted = CountedVae(vae, output)
    latent, _, report, stream = bench.run(count=6, micro_batch=2, draw="while saving")
    assert "draw is 'while saving'" in latent.message
    assert report.endswith("drawn while Save Sprites saves them")
    assert not list(output.iterdir())
    with torch.inference_mode():
        result = save(None, "s%index%_%seed%", sprites=stream, vae=counted, first_index=11)
        drawn = vae.decode(bench.batch(count=6, micro_batch=2))
    assert counted.pictures == [2, 2, 2]
    # Sampling takes far longer than writing two small files.
    assert counted.files_before == [0, 2, 4]
    assert [entry["filename"] for entry in result.ui["images"]] == [f"s{11 + i:05}_{11 + i}.png" for i in range(6)]
    for picture, entry in zip(drawn.numpy(), result.ui["images"], strict=True):
        expected = np.clip(255.0 * picture, 0, 255).astype(np.uint8)
        assert np.array_equal(np.asarray(Image.open(output / entry["filename"])), expected)
    assert json.loads(Image.open(output / "s00013_13.png").info["fast_sprites"])["index"] == 12
    assert "saves them while they are drawn" in result.args[0].message


def test_an_optimized_vae_decodes_the_stream(save, pack_nodes, bench, vae, monkeypatch):
    decoders = package(pack_nodes, "engine.vae.run_decode").SpriteDecoder
    each, decoded = decoders.each, []
    monkeypatch.setattr(decoders, "each", lambda *args: decoded.append(len(args[2])) or each(*args))
    node = pack_nodes["OptimizeVAE"].PREPARE_CLASS_CLONE({"hidden_inputs": {}})
    optimized = node.execute(vae, precision="auto", channels_last="on", pictures_per_pass=0).args[0]
    stream = bench.run(count=3, micro_batch=2, steps=1, sampler_name="euler", draw="while saving")[3]
    with torch.inference_mode():
        save(None, sprites=stream, vae=optimized)
    assert decoded == [2, 1]


def test_stream_never_holds_all_pictures(save, output, bench, vae):
    counted = CountedVae(vae, output)
    stream = bench.run(count=20, micro_batch=20, steps=1, sampler_name="euler", draw="while saving")[3]
    with torch.inference_mode():
        save(None, sprites=stream, vae=counted)
    assert counted.pictures == [8, 8, 4]


def test_a_slow_disk_holds_the_decoding_back(save, output, bench, vae, monkeypatch):
    write = Path.write_bytes
    held: list[weakref.ref[Any]] = []
    alive = []

    class HeldVae:
        def decode(self, samples: torch.Tensor, vae_options: dict[str, Any]) -> torch.Tensor:
            pictures = np.zeros((len(samples), 64, 64, 3), dtype=np.float32)
            held.append(weakref.ref(pictures))
            alive.append(sum(reference() is not None for reference in held))
            return torch.from_numpy(pictures)

    def write_slowly(path: Path, data: bytes) -> int:
        time.sleep(0.05)
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", write_slowly)
    stream = bench.run(count=80, micro_batch=80, steps=1, sampler_name="euler", draw="while saving")[3]
    with torch.inference_mode():
        save(None, sprites=stream, vae=HeldVae())
    assert len(alive) == 10
    # The one that is being made, the one that is given to the threads, and what 16 waiting pictures (eight threads) come from.
    assert max(alive) <= 5


def test_finished_sprites_stay_when_the_drawing_breaks_off(save, output, bench, vae):
    calls = []

    def fail_in_the_third_micro_batch(apply_model: Any, arguments: dict[str, Any]) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 2 * bench.steps + 2:
            raise ValueError("broken")
        return apply_model(arguments["input"], arguments["timestep"], **arguments["c"])

    model = bench.model.clone()
    model.set_model_unet_function_wrapper(fail_in_the_third_micro_batch)
    stream = bench.run(model=model, count=6, micro_batch=2, draw="while saving")[3]
    counted = CountedVae(vae, output)
    with torch.inference_mode():
        with pytest.raises(ValueError, match="broken"):
            save(None, "s%index%", sprites=stream, vae=counted)
        assert sorted(path.name for path in output.iterdir()) == [f"s0000{n}.png" for n in (1, 2, 3, 4)]
        (output / "s00002.png").unlink()
        before = {path.name: path.stat().st_mtime_ns for path in output.iterdir()}
        again = save(None, "s%index%", sprites=stream, vae=counted)
        # The finished ones are not drawn again, and those on disk neither decoded nor saved.
        assert len(calls) == 2 * bench.steps + 2 + bench.steps
        assert counted.pictures == [2, 2, 1, 2]
        assert [entry["filename"] for entry in again.ui["images"]] == [f"s0000{n}.png" for n in range(1, 7)]
        assert {path.name: path.stat().st_mtime_ns for path in output.iterdir()}.items() > before.items()
        assert "6 sprites saved in " in again.args[1]
        assert ", 3 of them before the last run was broken off\n" in again.args[1]
        # Another name, and a batch that came to its end, are saved whole.
        for filename in ("other%index%", "s%index%"):
            save(None, filename, sprites=stream, vae=counted)
    assert len(list(output.glob("other*.png"))) == 6
    assert len(list(output.glob("s*_2.png"))) == 6


@pytest.mark.parametrize(
    ("error", "sentence"),
    [(OSError(28, "No space left on device"), "^Only 0 of 40 sprites could be saved"), (MemoryError("planted"), "^planted")],
)
def test_a_picture_that_cannot_be_saved_stops_the_drawing(save, output, bench, vae, monkeypatch, error, sentence):
    def refuse(path: Path, data: bytes) -> int:
        raise error

    monkeypatch.setattr(Path, "write_bytes", refuse)
    counted = CountedVae(vae, output)
    stream = bench.run(count=40, micro_batch=2, steps=1, sampler_name="euler", draw="while saving")[3]
    with torch.inference_mode(), pytest.raises(Exception, match=sentence):
        save(None, sprites=stream, vae=counted)
    assert sum(counted.pictures) < 40


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({}, "Neither images nor sprites is connected"),
        ({"images": pictures(), "sprites": "stream", "vae": "vae"}, "Both images and sprites are connected"),
        ({"sprites": "stream"}, "without a vae"),
        ({"sprites": "stream", "vae": "vae", "filename": "../a"}, "leaves ComfyUI's output folder"),
        ({"sprites": "stream", "vae": "vae", "first_index": 0}, "first_index is 0"),
    ],
)
def test_bad_input_is_refused_before_anything_is_drawn(save, output, bench, inputs, sentence):
    stream = bench.run(draw="while saving")[3]
    inputs = {key: stream if value == "stream" else value for key, value in inputs.items()}
    with pytest.raises(ValueError, match=sentence):
        save(**{"images": None, **inputs})
    assert not list(output.rglob("*.png"))


FOREIGN = "is no graph of ComfyUI's page and was saved as it came"


def test_a_workflow_that_is_no_graph_is_named(pack_nodes, output):
    from comfy_api.latest import io

    hidden = {io.Hidden.unique_id: "9", io.Hidden.prompt: GRAPH, io.Hidden.extra_pnginfo: {"workflow": "none"}}
    node = pack_nodes["SaveSprites"].PREPARE_CLASS_CLONE({"hidden_inputs": hidden})
    report = node.execute(images=pictures(1), filename="a", format="png", seeds=(4,)).args[1]
    assert FOREIGN in report
    assert json.loads(Image.open(output / "a.png").info["workflow"]) == "none"


def test_disabled_metadata_is_left_out(save, output, monkeypatch):
    from comfy.cli_args import args

    monkeypatch.setattr(args, "disable_metadata", True)
    report = save(pictures(1), "a", seeds=(4,)).args[1]
    assert Image.open(output / "a.png").info == {}
    assert FOREIGN not in report


@pytest.mark.parametrize(
    ("node_id", "constant"), [("BatchSpriteSampler", "SAMPLER_WIDGETS"), ("SpritePrompts", "PROMPT_WIDGETS")]
)
def test_widget_order_is_the_schemas(pack_nodes, node_id, constant):
    """The order in which the browser stores widget values: required ones first, a control after each seed."""
    from comfy_api.latest import io
    from fast_sprites.nodes.engine.sprites import restore

    widgets = [socket for socket in pack_nodes[node_id].GET_SCHEMA().inputs if isinstance(socket, io.WidgetInput)]
    order = []
    for socket in sorted(widgets, key=lambda socket: bool(socket.optional)):
        order += [socket.id] + ["control_after_generate"] * bool(socket.as_dict().get("control_after_generate"))
    assert tuple(order) == getattr(restore, constant)
