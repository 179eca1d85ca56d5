"""`fast-sprites generate` against a real server."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dev_tools.workspace import TINY_CHECKPOINT
from fast_sprites.nodes.benchmark.cli import main
from PIL import Image

from ..conftest import PACK_ROOT
from .conftest import Comfy, png_texts

PROMPTS = "iron sword\n{red|blue} potion\n# a comment\ngolden key\n"


@pytest.fixture
def arguments(comfy: Comfy, tmp_path: Path) -> list[str]:
    """Five small sprites; the output folder is `sprites`."""
    (tmp_path / "prompts.txt").write_text(PROMPTS, encoding="utf-8")
    graph = small_workflow()
    (tmp_path / "workflow.json").write_text(json.dumps(graph), encoding="utf-8")
    files = ["--prompts", str(tmp_path / "prompts.txt"), "--workflow", str(tmp_path / "workflow.json")]
    draw = ["--count", "5", "--seed", "70", "--checkpoint", TINY_CHECKPOINT, "--suffix", "pixel art", "--job-size", "2"]
    return ["generate", *files, *draw, "--server", comfy.server.address]


def small_workflow(**sampler: Any) -> dict[str, Any]:
    graph = json.loads((PACK_ROOT / "workflows" / "api" / "sprites_to_disk.json").read_text(encoding="utf-8"))
    for node in graph.values():
        if node["class_type"] == "BatchSpriteSampler":
            node["inputs"] |= {"width": 64, "height": 64, "steps": 2, "cfg": 4.0, **sampler}
    return graph


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()][1:]


def pixels(data: bytes) -> Any:
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture).astype(int)


def test_every_sprite_is_fetched_with_its_own_seed_and_prompt(comfy, arguments, tmp_path, capsys):
    output = tmp_path / "sprites"
    assert main([*arguments, "--output", str(output)]) == 0
    made = records(output)
    assert [(record["index"], record["seed"]) for record in made] == [(i, 70 + i) for i in range(5)]
    assert {path.name for path in output.iterdir()} == {"manifest.jsonl", *(record["file"] for record in made)}
    assert made[0]["file"] == "00001_iron-sword_70.png"
    for record in made:
        data = (output / record["file"]).read_bytes()
        texts = png_texts(data)
        expected = {"index": record["index"], "seed": record["seed"], "prompt": f"{record['prompt']}, pixel art"}
        assert texts["fast_sprites"] == expected
    said = capsys.readouterr().out
    assert "5 sprites, seeds 70 to 74, into" in said
    assert "5 of 5 sprites, 100 %" in said

    # The file's own graph draws that sprite.
    async def again(client: Any) -> bytes:
        _, history = await client.run(png_texts((output / made[3]["file"]).read_bytes())["prompt"])
        return await client.image(history.images[0])

    alone = comfy.ask(again)
    assert np.abs(pixels(alone) - pixels((output / made[3]["file"]).read_bytes())).max() <= 1


def test_each_sprite_begins_with_its_own_picture_whichever_job_draws_it(comfy, arguments, tmp_path):
    graph = small_workflow(latent=["encode", 0], denoise=0.1)
    for name, color in (("black", 0x000000), ("grey", 0x808080), ("white", 0xFFFFFF)):
        graph[name] = comfy.node("EmptyImage", width=64, height=64, color=color)
    graph["two"] = comfy.node("ImageBatch", image1=["black", 0], image2=["grey", 0])
    graph["three"] = comfy.node("ImageBatch", image1=["two", 0], image2=["white", 0])
    loader = next(node_id for node_id, node in graph.items() if node["class_type"] == "CheckpointLoaderSimple")
    graph["encode"] = comfy.node("VAEEncode", pixels=["three", 0], vae=[loader, 2])
    (tmp_path / "workflow.json").write_text(json.dumps(graph), encoding="utf-8")
    output = tmp_path / "sprites"
    assert main([*arguments, "--output", str(output)]) == 0
    black, grey, white, *others = [pixels((output / record["file"]).read_bytes()).mean() for record in records(output)]
    assert black + 20 < grey < white - 20
    assert others == pytest.approx([black, grey], abs=10)


@pytest.mark.parametrize("scheme", ["", "local://"], ids=["folder", "url"])
def test_resume_draws_what_is_missing_and_nothing_else(arguments, tmp_path, capsys, scheme):
    output = tmp_path / "sprites"
    named = f"{scheme}{output}"
    assert main([*arguments, "--output", named]) == 0
    before = {record["file"]: (output / record["file"]).read_bytes() for record in records(output)}
    for lost in ("00002", "00005"):
        next(output.glob(f"{lost}_*")).unlink()
    kept = {path.name: path.stat().st_mtime_ns for path in output.glob("*.png")}
    capsys.readouterr()
    assert main(["generate", "--output", named, "--resume", "--server", arguments[-1]]) == 0
    assert "5 sprites, 3 of them finished" in capsys.readouterr().out
    assert {path.name for path in output.glob("*.png")} == set(before)
    assert {name: (output / name).stat().st_mtime_ns for name in kept} == kept
    for name, data in before.items():
        # Drawn alone now, and in a job of two before: the same metadata, the same picture.
        assert np.abs(pixels((output / name).read_bytes()) - pixels(data)).max() <= 1
        assert png_texts((output / name).read_bytes()) == png_texts(data)
    assert main(["generate", "--output", named, "--resume", "--server", arguments[-1]]) == 0
    assert len({record["index"] for record in records(output)}) == 5
    assert scheme or len(records(output)) == 7  # a line that is the old one stands once at a URL
    assert {path.name for path in output.iterdir()} == {"manifest.jsonl", *before}


def test_a_batch_that_is_there_is_not_drawn_over(arguments, tmp_path, capsys):
    assert main([*arguments, "--output", str(tmp_path / "sprites")]) == 0
    assert main([*arguments, "--output", str(tmp_path / "sprites")]) == 1
    assert "already holds a batch: go on with it by --resume" in capsys.readouterr().err


def test_a_missing_checkpoint_is_named_before_anything_is_drawn(arguments, tmp_path, capsys):
    assert main([*arguments, "--checkpoint", "missing.safetensors", "--output", str(tmp_path / "sprites")]) == 1
    error = capsys.readouterr().err
    assert f"has no checkpoint 'missing.safetensors': name one of {TINY_CHECKPOINT} with --checkpoint." in error
    assert not (tmp_path / "sprites").exists()


def test_a_missing_node_is_named_before_anything_is_drawn(arguments, tmp_path, capsys):
    graph = small_workflow() | {"99": {"class_type": "NotInstalled", "inputs": {}}}
    (tmp_path / "workflow.json").write_text(json.dumps(graph), encoding="utf-8")
    assert main([*arguments, "--output", str(tmp_path / "sprites")]) == 1
    assert "has no node NotInstalled: install" in capsys.readouterr().err


def test_a_job_that_fails_says_why_and_how_to_go_on(arguments, tmp_path, capsys):
    (tmp_path / "workflow.json").write_text(json.dumps(small_workflow(width=100)), encoding="utf-8")
    output = tmp_path / "sprites"
    assert main([*arguments, "--output", str(output)]) == 1
    error = capsys.readouterr().err
    assert "100" in error
    assert f"0 of 5 sprites are finished; go on with: fast-sprites generate --output {output} --resume --server" in error
    assert error.count("\n") == 1


def test_webp_too(arguments, tmp_path):
    graph = small_workflow()
    for node in graph.values():
        if node["class_type"] == "SaveSprites":
            node["inputs"]["format"] = "webp"
    (tmp_path / "workflow.json").write_text(json.dumps(graph), encoding="utf-8")
    output = tmp_path / "sprites"
    assert main([*arguments, "--output", str(output), "--count", "1"]) == 0
    assert [path.suffix for path in output.glob("0*")] == [".webp"]
