"""Prompts over the HTTP API: pictures, metadata, cache, cancel, and what bad input gets."""

import io
import json
import re
from typing import Any

import pytest
from dev_tools.workflow_files import fitted, load_workflows
from dev_tools.workspace import TINY_CHECKPOINT
from fast_sprites.nodes.benchmark.client import (
    Cached,
    Cancelled,
    ComfyClient,
    Event,
    Failed,
    History,
    NodeStarted,
    PromptRefusedError,
    Step,
    Succeeded,
)
from PIL import Image

from ..conftest import PACK_ROOT
from .conftest import Comfy, png_texts

API_WORKFLOWS = sorted(path.stem for path in (PACK_ROOT / "workflows" / "api").glob("*.json"))
NUM_PICTURES = {"sprite_optimized": 1, "baseline_single": 1, "batch_optimized": 8, "baseline_batch": 8, "sprites_to_disk": 8}
ONE_GRAPH_A_SPRITE = {"sprites_to_disk"}  # SaveSprites writes into each file the graph that draws it alone


def run(comfy: Comfy, prompt: dict[str, Any]) -> tuple[list[Event], History]:
    return comfy.ask(lambda client: client.run(prompt))


@pytest.mark.slow
@pytest.mark.parametrize("name", API_WORKFLOWS)
def test_bundled_workflow_draws(comfy: Comfy, name: str):
    (workflow,) = [fitted(found, TINY_CHECKPOINT, 128) for found in load_workflows(PACK_ROOT / "workflows", [name])]

    async def draw(client: ComfyClient) -> tuple[History, list[bytes]]:
        _, history = await client.run(workflow.prompt, workflow.ui)
        return history, [await client.image(ref) for ref in history.images]

    history, pictures = comfy.ask(draw)
    assert history.succeeded
    assert len(pictures) == NUM_PICTURES.get(name, len(pictures)) > 0
    for picture in pictures:
        texts = png_texts(picture)
        for node in texts["prompt"].values():
            node.pop("is_changed", None)  # ComfyUI's note of a node that runs every time
        if name in ONE_GRAPH_A_SPRITE:
            assert {node["class_type"] for node in texts["prompt"].values()} == {
                n["class_type"] for n in workflow.prompt.values()
            }
            assert [node["inputs"]["count"] for node in texts["prompt"].values() if "count" in node["inputs"]] == [1, 1]
            continue
        assert texts["prompt"] == workflow.prompt
        assert texts["workflow"] == workflow.ui


def test_pictures_have_the_asked_size_and_prompt(comfy: Comfy):
    prompt = comfy.sprites(count=3, width=64, height=96)

    async def draw(client: ComfyClient) -> list[bytes]:
        _, history = await client.run(prompt)
        return [await client.image(ref) for ref in history.images]

    pictures = comfy.ask(draw)
    assert len(pictures) == 3
    for picture in pictures:
        with Image.open(io.BytesIO(picture)) as opened:
            assert opened.size == (64, 96)
        assert png_texts(picture) == {"prompt": prompt}


def test_second_run_is_cached(comfy: Comfy):
    prompt = comfy.sprites(seed=11)
    first, _ = run(comfy, prompt)
    assert NodeStarted("sample") in first
    second, history = run(comfy, prompt)
    cached = {node for event in second if isinstance(event, Cached) for node in event.node_ids}
    assert {"load", "model", "sample", "save"} <= cached
    assert not any(isinstance(event, NodeStarted) for event in second)
    assert history.succeeded


def test_reports_come_also_from_the_cache(comfy: Comfy):
    prompt = comfy.sprites(seed=12)
    _, first = run(comfy, prompt)
    _, second = run(comfy, prompt)
    for node in ("model", "vae", "sample"):
        assert first.outputs[node]["text"] == second.outputs[node]["text"]
        assert first.outputs[node]["text"][0]


@pytest.mark.usefixtures("goes_on")
def test_cancel_stops_within_a_step(comfy: Comfy):
    prompt = comfy.sprites(count=1, width=256, height=256, steps=500, seed=13)

    async def cancel(client: ComfyClient) -> tuple[list[Event], dict[str, Any]]:
        prompt_id = await client.queue(prompt)
        after: list[Event] = []
        asked = False
        async for event in client.follow(prompt_id):
            if asked:
                after.append(event)
            elif isinstance(event, Step):
                await client.cancel(prompt_id)
                asked = True
        return after, await client.job(prompt_id)

    after, job = comfy.ask(cancel)
    assert isinstance(after[-1], Cancelled)
    # One step may have ended while the request was on its way, and one more was being worked on.
    assert len([event for event in after if isinstance(event, Step)]) <= 3
    assert job["status"] == "cancelled"


@pytest.mark.usefixtures("goes_on")
def test_a_prompt_that_is_cleared_out_of_the_queue_ends_as_cancelled(comfy: Comfy):
    slow, waiting = (comfy.sprites(count=1, width=256, height=256, steps=500, seed=seed) for seed in (17, 18))

    async def clear(client: ComfyClient) -> list[Event]:
        first = await client.queue(slow)
        second = await client.queue(waiting)
        async with client._request("POST", "/queue", json={"clear": True}) as response:
            assert response.status == 200
        try:
            return [event async for event in client.follow(second)]
        finally:
            await client.cancel(first)

    assert comfy.ask(clear) == [Cancelled()]


@pytest.mark.usefixtures("goes_on")
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"load": {"ckpt_name": "missing.safetensors"}}, r"ckpt_name.*missing\.safetensors"),
        ({"model": {"model": ["load", 2]}}, r"VAE.*MODEL"),
        ({"vae": {"vae": ["load", 0]}}, r"MODEL.*VAE"),
        ({"sample": {"count": 0}}, r"count.*1|1.*count"),
        ({"sample": {"steps": 0}}, r"steps.*1|1.*steps"),
        ({"sample": {"sampler_name": "nonsense"}}, r"sampler_name.*nonsense"),
    ],
    ids=["missing checkpoint", "VAE as model", "model as VAE", "count 0", "steps 0", "unknown sampler"],
)
def test_bad_input_is_refused_at_validation(comfy: Comfy, change: dict[str, dict[str, Any]], says: str):
    prompt = comfy.sprites()
    for node_id, inputs in change.items():
        prompt[node_id]["inputs"].update(inputs)
    with pytest.raises(PromptRefusedError) as refused:
        run(comfy, prompt)
    (reason,) = refused.value.reasons
    assert re.search(says, reason), reason
    assert "\n" not in reason


def failure(comfy: Comfy, prompt: dict[str, Any]) -> Failed:
    """How a prompt fails that passes ComfyUI's own validation."""

    async def follow(client: ComfyClient) -> Event:
        prompt_id = await client.queue(prompt)
        return [event async for event in client.follow(prompt_id)][-1]

    outcome = comfy.ask(follow)
    assert isinstance(outcome, Failed), outcome
    return outcome


@pytest.mark.usefixtures("goes_on")
@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({"width": 100}, "width is 100 pixels"),
        ({"height": 68}, "height is 68 pixels"),
        ({"seed_mode": "list", "seed_list": "1, two"}, "two"),
    ],
    ids=["width", "height", "seed list"],
)
def test_bad_input_is_refused_in_one_sentence(comfy: Comfy, inputs: dict[str, Any], says: str):
    prompt = comfy.sprites(**inputs)
    try:
        failed = failure(comfy, prompt)
    except PromptRefusedError as refused:
        (message,) = refused.reasons
    else:
        assert failed.node_id == "sample"
        message = failed.message
    assert says in message
    assert "\n" not in message


@pytest.mark.usefixtures("goes_on")
def test_numbers_over_a_link_are_checked_too(comfy: Comfy):
    prompt = comfy.sprites()
    prompt["number"] = comfy.node("PrimitiveInt", value=0)
    prompt["sample"]["inputs"]["count"] = ["number", 0]
    failed = failure(comfy, prompt)
    assert failed.node_id == "sample"
    assert "count is 0" in failed.message


@pytest.mark.usefixtures("goes_on")
def test_other_model_families_are_named_and_left_alone(comfy: Comfy):
    prompt = {
        "load": comfy.node("UNETLoader", unet_name="tiny_flux.safetensors"),
        "model": comfy.node("OptimizeModel", model=["load", 0]),
        "probe": comfy.node("MemoryProbe", value=["model", 0]),
    }
    _, history = run(comfy, prompt)
    (report,) = history.outputs["model"]["text"]
    assert "Flux is not an SDXL UNet" in report
    assert "applied:" not in report


@pytest.mark.usefixtures("goes_on")
def test_a_vae_through_a_probe_is_not_taken_for_a_model(comfy: Comfy):
    prompt = comfy.sprites()
    prompt["probe"] = comfy.node("MemoryProbe", value=["load", 2])
    prompt["model"]["inputs"]["model"] = ["probe", 0]
    try:
        message = failure(comfy, prompt).message
    except PromptRefusedError as refused:
        (message,) = refused.reasons
    assert message.strip() == "Optimize Model was given a VAE: connect a MODEL, from a checkpoint loader."


@pytest.mark.usefixtures("goes_on")
def test_a_model_through_a_probe_is_not_taken_for_a_vae(comfy: Comfy):
    prompt = comfy.sprites()
    prompt["probe"] = comfy.node("MemoryProbe", value=["load", 0])
    prompt["vae"]["inputs"]["vae"] = ["probe", 0]
    message = failure(comfy, prompt).message
    assert message.strip() == "Optimize VAE was given a ModelPatcher: connect a VAE, from a checkpoint or VAE loader."


def test_the_probe_reads_without_a_gpu(comfy: Comfy):
    prompt = {
        "number": comfy.node("PrimitiveInt", value=5),
        "probe": comfy.node("MemoryProbe", value=["number", 0], label="before"),
        "text": comfy.node("PreviewAny", source=["probe", 2]),
    }
    events, history = run(comfy, prompt)
    assert isinstance(events[-1], Succeeded)
    assert "before" in history.outputs["probe"]["text"][0]
    assert json.loads(history.outputs["text"]["text"][0])
