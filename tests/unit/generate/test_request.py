"""The request, the workflow that it becomes, and the words of the command line."""

import asyncio
import copy
import json
from types import SimpleNamespace
from typing import Any

import pytest
from fast_sprites.nodes.benchmark.cli import main
from fast_sprites.nodes.benchmark.client import ClientError, Failed, base_url
from fast_sprites.nodes.benchmark.documents import read_workflow
from fast_sprites.nodes.benchmark.generate import cluster
from fast_sprites.nodes.benchmark.generate.progress import Progress, duration
from fast_sprites.nodes.benchmark.generate.request import GenerateRequest, Job, read_prompts
from fast_sprites.nodes.benchmark.generate.run import ServerWorker
from fast_sprites.nodes.benchmark.generate.workflow import (
    DEFAULT_WORKFLOW,
    check_server,
    configured,
    job_graph,
    sprite_nodes,
)
from fast_sprites.nodes.engine.errors import BadInputError

WORKFLOW = read_workflow(DEFAULT_WORKFLOW)


def request(**changes: Any) -> GenerateRequest:
    return GenerateRequest(**{"workflow": WORKFLOW, "prompts": "sword\n{red|blue} potion", "count": 5, "seed": 40, **changes})


def test_every_sprite_has_its_seed_and_prompt():
    sprites = [request().sprite(index) for index in range(5)]
    assert [sprite.seed for sprite in sprites] == [40, 41, 42, 43, 44]
    assert [sprite.prompt for sprite in sprites][::2] == ["sword"] * 3
    assert {sprite.prompt for sprite in sprites[1::2]} <= {"red potion", "blue potion"}
    # A larger batch begins with the same sprites.
    assert [request(count=50).sprite(index) for index in range(5)] == sprites


def test_counts_follow_the_lines():
    assert len(request(count=0)) == 2
    assert len(request(count=0, alternatives="every")) == 3
    assert request(count=3, seed_mode="list", seed_list="7,12 99", seed=0).seeds == (7, 12, 99)


def test_file_names_are_the_sprites_own():
    wanted = request()
    assert wanted.file_stem(wanted.sprite(2)) == "00003_sword_42"
    assert request(prompts="日本").file_stem(request(prompts="日本").sprite(0)) == "00001_日本_40"
    many = request(count=30_000)
    assert many.file_stem(many.sprite(29_998)) == "0002/29999_sword_30038"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"prompts": "\n# only this\n"}, "prompts holds no prompt"),
        ({"prompts": "{red|blue"}, "The braces in '{red|blue' do not pair"),
        ({"count": -1}, "The count is -1"),
        ({"seed": -1}, "The seed is -1"),
        ({"seed_mode": "list", "seed_list": "1 2"}, "seed_list holds 2 seeds for 5 sprites"),
        ({"seed_mode": "list", "seed_list": "1 x"}, "seed_list holds 'x'"),
    ],
)
def test_what_cannot_be_drawn_is_refused(changes, sentence):
    with pytest.raises(BadInputError) as refused:
        request(**changes)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_job_draws_its_own_sprites_alone():
    wanted = request(checkpoint="my.safetensors", suffix="pixel art")
    graph = configured(wanted)
    nodes = sprite_nodes(graph)
    before = copy.deepcopy(graph)
    job = job_graph(graph, nodes, Job((wanted.sprite(2), wanted.sprite(3))))
    assert graph == before
    assert read_workflow(DEFAULT_WORKFLOW) == WORKFLOW
    prompts, sampler, save = (job[node]["inputs"] for node in (nodes.prompts, nodes.sampler, nodes.save))
    assert prompts["prompts"].splitlines() == [wanted.sprite(2).prompt, wanted.sprite(3).prompt]
    assert (prompts["count"], prompts["suffix"]) == (2, "pixel art")
    assert (sampler["count"], sampler["seed_mode"], sampler["seed_list"]) == (2, "list", "42, 43")
    assert sampler["draw"] == "while saving"
    assert save["first_index"] == sampler["first_picture"] == 3
    assert [node["inputs"]["ckpt_name"] for node in job.values() if "ckpt_name" in node["inputs"]] == ["my.safetensors"]


@pytest.mark.parametrize(("first", "third"), [(0, 3), (9, 11), (["1", 0], 3)])
def test_a_job_goes_on_with_the_pictures_where_the_one_before_ended(first, third):
    graph = copy.deepcopy(WORKFLOW)
    nodes = sprite_nodes(graph)
    graph[nodes.sampler]["inputs"]["first_picture"] = first
    job = job_graph(graph, nodes, Job((request().sprite(2),)))
    assert job[nodes.sampler]["inputs"]["first_picture"] == third


def test_pictures_get_their_seeds_and_prompts_also_without_a_stream():
    graph = copy.deepcopy(WORKFLOW)
    nodes = sprite_nodes(graph)
    save = graph[nodes.save]["inputs"]
    for name in ("sprites", "vae", "prompts"):
        del save[name]
    save["images"] = ["99", 0]
    made = configured(request(workflow=graph))[nodes.save]["inputs"]
    assert (made["seeds"], made["prompts"]) == ([nodes.sampler, 1], [nodes.prompts, 2])


def test_workflows_that_a_job_could_not_set_are_refused():
    without = {node_id: node for node_id, node in WORKFLOW.items() if node["class_type"] != "SaveSprites"}
    with pytest.raises(BadInputError, match="has 0 SaveSprites nodes; generate sets one"):
        configured(request(workflow=without))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", r"is no JSON \("),
        ('{"nodes": [], "links": []}', r"is in the page's format: save it with File > Export \(API\) and name that file\.$"),
        ("[]", "is not in API format"),
        ('{"1": {"class_type": "A"}}', "is not in API format"),
        (None, "cannot be read"),
    ],
)
def test_files_that_are_no_workflow_are_refused(tmp_path, text, sentence):
    path = tmp_path / "workflow.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(BadInputError, match=sentence):
        read_workflow(path)


def test_prompts_files_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(BadInputError, match=r"missing\.txt cannot be read \(No such file"):
        read_prompts(tmp_path / "missing.txt")
    (tmp_path / "latin.txt").write_bytes("Schlüssel".encode("latin-1"))
    with pytest.raises(BadInputError, match="is no UTF-8 text"):
        read_prompts(tmp_path / "latin.txt")
    (tmp_path / "bom.txt").write_bytes(b"\xef\xbb\xbfsword\r\n")
    assert request(prompts=read_prompts(tmp_path / "bom.txt")).lines == ["sword"]


class FakeClient:
    """A server that declares what it is told to."""

    def __init__(self, checkpoint: Any = "sd_xl_base_1.0.safetensors", without: str = "", older: bool = False) -> None:
        self._checkpoint, self._without, self._older = checkpoint, without, older

    async def object_info(self, class_type: str) -> dict[str, Any]:
        if class_type == self._without:
            return {}
        required = {"ckpt_name": self._checkpoint} if class_type == "CheckpointLoaderSimple" else {}
        return {class_type: {"input": {"required": required, "optional": {} if self._older else {"first_picture": ["INT", {}]}}}}


@pytest.mark.parametrize(
    ("client", "sentence"),
    [
        (FakeClient([["a.safetensors", "b.safetensors"], {}]), "name one of a.safetensors, b.safetensors with --checkpoint"),
        (FakeClient(["COMBO", {"options": []}]), "has no checkpoint 'sd_xl_base_1.0.safetensors': name one of none"),
        (
            FakeClient([["sd_xl_base_1.0.safetensors"], {}], without="SaveSprites"),
            "has no node SaveSprites: install Fast Sprites",
        ),
        (FakeClient([["sd_xl_base_1.0.safetensors"], {}], older=True), "has an older Fast Sprites"),
    ],
)
def test_servers_that_cannot_draw_are_refused(client, sentence):
    import asyncio

    with pytest.raises(BadInputError) as refused:
        asyncio.run(check_server(client, "http://x:1", configured(request())))
    assert sentence in str(refused.value)


def test_addresses():
    assert base_url("127.0.0.1:8188") == "http://127.0.0.1:8188"
    assert base_url("https://studio:8443/") == "https://studio:8443"
    for wrong in ("", "http://", "http://[::1", "ftp://host", "host:port", "http://host/path", "host:99999"):
        with pytest.raises(BadInputError, match="name it as host:port"):
            base_url(wrong)


def test_progress_says_pace_and_time_left(capsys):
    progress = Progress(100, 40)
    began = progress._started_at
    progress.show(50)
    assert progress.text(began + 20, 2) == "50 of 100 sprites, 50 %, 36.0 a minute, 1 min 20 s left"
    assert progress.text(began + 1, 0) == "50 of 100 sprites, 50 %, 10.0 a second, 5 s left"
    progress.show(100)
    assert capsys.readouterr().out.startswith("100 of 100 sprites, 100 %, ")
    assert [duration(seconds) for seconds in (0.4, 59.4, 185, 7800)] == ["0 s", "59 s", "3 min 05 s", "2 h 10 min"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "No prompts are given"),
        (["--prompts", "missing.txt"], "The prompts file missing.txt cannot be read"),
        (["--prompts", "PROMPTS", "--count", "0"], "--count is 0"),
        (["--prompts", "PROMPTS", "--job-size", "0"], "--job-size is 0"),
        (["--prompts", "PROMPTS", "--server", "host:port"], "The server is 'host:port'"),
        (["--prompts", "PROMPTS", "--server", "127.0.0.1:9"], "No ComfyUI answers at http://127.0.0.1:9"),
        (["--resume"], "there is nothing to resume"),
    ],
)
def test_bad_arguments_get_one_sentence_and_leave_nothing(tmp_path, capsys, arguments, sentence):
    (tmp_path / "prompts.txt").write_text("sword\n")
    arguments = [str(tmp_path / "prompts.txt") if word == "PROMPTS" else word for word in arguments]
    output = tmp_path / "sprites"
    assert main(["generate", "--output", str(output), *arguments]) == 1
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert not output.exists()


def test_a_cluster_is_joined_once_also_where_a_resume_finds_nothing_yet(tmp_path, monkeypatch):
    joined = []
    monkeypatch.setattr(cluster, "open_cluster", joined.append)
    monkeypatch.setattr(cluster, "generate_on_cluster", lambda *_: None)
    (tmp_path / "prompts.txt").write_text("sword\n")
    arguments = ["--prompts", str(tmp_path / "prompts.txt"), "--resume", "--cluster", "local"]
    assert main(["generate", "--output", str(tmp_path / "sprites"), *arguments]) == 0
    assert len(joined) == 1


def test_a_failure_without_words_is_told_by_its_kind():
    async def follow(_: str):
        yield Failed("3", "KSampler", "AssertionError", "")

    worker = ServerWorker(SimpleNamespace(follow=follow), request().workflow)
    with pytest.raises(ClientError, match=r"KSampler \(node 3\) failed: AssertionError$"):
        asyncio.run(worker.wait(None, "1", lambda _: None))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--count", "6"], "its count is 5, not 6."),
        (["--seed", "1", "--checkpoint", "b"], "its seed is 40, not 1; its checkpoint is None, not 'b'."),
        (["--seeds", "1,2"], "its seed list is '', not '1,2'"),
        (["--random-seeds"], "its seeds are not random ones"),
        (["--prompts", "PROMPTS"], "its prompts are not those of"),
        (["--workflow", "WORKFLOW"], "its workflow is not"),
    ],
)
def test_a_manifest_of_another_request_is_refused(tmp_path, capsys, arguments, sentence):
    from fast_sprites.nodes.benchmark.generate.manifest import Manifest

    Manifest.create(tmp_path, request()).__exit__(None, None, None)
    (tmp_path / "prompts.txt").write_text("another\n")
    (tmp_path / "workflow.json").write_text(json.dumps({"1": {"class_type": "A", "inputs": {}}}))
    files = {"PROMPTS": "prompts.txt", "WORKFLOW": "workflow.json"}
    arguments = [str(tmp_path / files[word]) if word in files else word for word in arguments]
    assert main(["generate", "--output", str(tmp_path), "--resume", *arguments]) == 1
    error = capsys.readouterr().err
    assert "holds another request" in error
    assert sentence in error
