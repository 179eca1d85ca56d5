"""Workflows, manifests and records that others have written: read whole or refused with one sentence, never half understood."""

import contextlib
import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("hypothesis", reason="the fuzz tests need hypothesis: pip install hypothesis")

from fast_sprites.nodes.benchmark.bench.compare import compare_records
from fast_sprites.nodes.benchmark.bench.graphs import (
    PASS_THROUGH,
    read_graph,
    resting_nodes,
    seed_nodes,
    sources_of,
    upstream,
    with_seed,
    without_pass_through,
)
from fast_sprites.nodes.benchmark.bench.markdown import markdown
from fast_sprites.nodes.benchmark.bench.record import RecordError, read_record
from fast_sprites.nodes.benchmark.bench.terminal import summary
from fast_sprites.nodes.benchmark.client import base_url
from fast_sprites.nodes.benchmark.documents import MAX_BYTES, fits, is_graph, parse_json, read_json, read_workflow
from fast_sprites.nodes.benchmark.generate.manifest import NAME, Manifest
from fast_sprites.nodes.benchmark.generate.request import GenerateRequest
from fast_sprites.nodes.benchmark.generate.workflow import configured, file_extension, job_graph, sprite_nodes
from fast_sprites.nodes.engine.errors import BadInputError, PackError
from fast_sprites.nodes.engine.sprites.restore import edit_prompt, edit_workflow, is_page_graph, single_sprite_edits
from hypothesis import example, given
from hypothesis import strategies as st

from ..benchmark.conftest import make_record
from .hostile import DEEP, changed, json_values, texts

ROOT = Path(__file__).resolve().parents[3]
GRAPH = json.loads((ROOT / "workflows" / "api" / "sprites_to_disk.json").read_text(encoding="utf-8"))
PAGE = json.loads((ROOT / "workflows" / "sprites_to_disk.json").read_text(encoding="utf-8"))
RECORD = json.loads(make_record(single={"stock": [4.0, 4.1, 4.2], "ours": [2.0, 2.1, 2.2]}).to_json())
REQUEST = GenerateRequest(workflow=GRAPH, prompts="sword\n{red|blue} potion", count=4, seed=40)
NOT_JSON = {
    "deep": DEEP.encode(),
    "deep object": b'{"a":' * 50_000,
    "not a number": b'{"a": NaN}',
    "infinite": b"[-Infinity]",
    "overflowing": b"[1e999]",
    "long number": b"1" * 100_000,
    "half a character": b'"\xff"',
    "empty": b"",
    "script": b"__import__('os').system('id')",
    "pickle": b"cos\nsystem\n(S'id'\ntR.",
}


@pytest.mark.parametrize("name", NOT_JSON)
def test_what_is_no_json_is_refused_by_every_reader(tmp_path: Path, name: str):
    path = tmp_path / "file.json"
    path.write_bytes(NOT_JSON[name])
    with pytest.raises(ValueError):  # noqa: PT011  # json's own, or ours
        read_json(path)
    for reader in (read_workflow, read_graph, read_record):
        with pytest.raises(PackError, match="is no JSON"):
            reader(path)
    (tmp_path / NAME).write_bytes(NOT_JSON[name] + b"\n")
    with pytest.raises(PackError, match="line 1 is damaged"):
        Manifest.resume(tmp_path)


def test_a_file_larger_than_any_document_is_not_read(tmp_path: Path):
    with (tmp_path / "file.json").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(ValueError, match=f"more than {MAX_BYTES} bytes"):
        read_json(tmp_path / "file.json")


@given(text=st.one_of(texts, json_values.map(json.dumps), st.binary(max_size=60)))
def test_json_is_read_as_python_reads_it_or_refused(text: str | bytes):
    with contextlib.suppress(ValueError):
        value = parse_json(text)
        assert value == json.loads(text)
        assert fits(value, Any)
        numbers = [value] if isinstance(value, float) else []
        assert all(map(math.isfinite, numbers))


@given(graph=st.one_of(changed(GRAPH), json_values))
@example(graph={**GRAPH, "7": {**GRAPH["7"], "inputs": {**GRAPH["7"]["inputs"], "format": "png/../../../x"}}})
@example(graph={**GRAPH, "7": {**GRAPH["7"], "inputs": {**GRAPH["7"]["inputs"], "format": ["5", 0]}}})
def test_generate_draws_a_workflow_or_refuses_it(tmp_path: Path, graph: Any):
    path = tmp_path / "workflow.json"
    path.write_text(json.dumps(graph), encoding="utf-8")
    try:
        request = dataclasses.replace(REQUEST, workflow=read_workflow(path))
        ready = configured(request)
    except BadInputError:
        return
    nodes = sprite_nodes(ready)
    assert file_extension(ready, nodes) in (".png", ".webp")
    drawn = job_graph(ready, nodes, next(iter_jobs(tmp_path, request)))
    assert drawn[nodes.sampler]["inputs"]["seed_list"] == "40, 41"


def iter_jobs(folder: Path, request: GenerateRequest) -> Any:
    shutil.rmtree(folder / "batch", ignore_errors=True)
    with Manifest.create(folder / "batch", request) as manifest:
        yield from manifest.jobs(2)


@given(graph=st.one_of(changed(GRAPH), json_values))
@example(graph={"1": {"class_type": "KSampler", "inputs": {"model": ["1", 0]}}})
@example(graph={"1": {"class_type": "KSampler", "inputs": {"model": ["gone", 0], "seed": 1}}})
@example(
    graph={
        "1": {"class_type": "KSampler", "inputs": {"model": ["2", -1], "seed": 1}},
        "2": {"class_type": "KSampler", "inputs": {}},
    }
)
def test_bench_takes_a_workflow_or_refuses_it(tmp_path: Path, graph: Any):
    path = tmp_path / "workflow.json"
    path.write_text(json.dumps(graph), encoding="utf-8")
    try:
        nodes = read_graph(path)
    except BadInputError:
        return
    assert upstream(with_seed(nodes, 7), seed_nodes(nodes)) <= set(nodes)
    assert resting_nodes(without_pass_through(nodes, PASS_THROUGH)).items() <= nodes.items() or PASS_THROUGH.keys() & class_types(
        nodes
    )
    sources_of(nodes, "MODEL", {"CheckpointLoaderSimple": ["MODEL", "CLIP", "VAE"]})


def class_types(nodes: dict[str, Any]) -> set[str]:
    return {node["class_type"] for node in nodes.values()}


@given(record=st.one_of(changed(RECORD), json_values))
def test_a_record_is_whole_or_damaged(tmp_path: Path, record: Any):
    path = tmp_path / "record.json"
    path.write_text(json.dumps(record), encoding="utf-8")
    try:
        read = read_record(path)
    except RecordError:
        return
    read.write(path)
    assert read_record(path) == read
    assert markdown(read)
    summary(read)
    with contextlib.suppress(RecordError):  # nothing in common
        compare_records(read, read, 0.05, relative=False)
        compare_records(read, read, 0.05, relative=True)


def lines_of(folder: Path) -> list[Any]:
    with Manifest.create(folder, REQUEST) as manifest:
        for index in range(3):
            manifest.add(REQUEST.sprite(index), b"\x89PNG" + bytes(index), ".png")
    return [json.loads(line) for line in (folder / NAME).read_text(encoding="utf-8").splitlines()]


@given(data=st.data())
def test_a_manifest_is_gone_on_with_or_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject):
    folder = tmp_path_factory.mktemp("batch")
    outside = folder.parent / "outside.png"
    outside.write_bytes(b"kept")
    lines = data.draw(changed(lines_of(folder)))
    (folder / NAME).write_text(
        "".join(json.dumps(line) + "\n" for line in (lines if isinstance(lines, list) else [lines])), encoding="utf-8"
    )
    try:
        with Manifest.resume(folder) as manifest:
            configured(manifest.request)
            assert 0 <= manifest.num_finished <= len(manifest.request)
            missing = [sprite.index for job in manifest.jobs(2) for sprite in job.sprites]
    except PackError:
        return
    finally:
        assert outside.read_bytes() == b"kept"
    assert len(missing) == len(manifest.request) - manifest.num_finished
    shutil.rmtree(folder)


@pytest.mark.parametrize("file", ["../outside.png", "/etc/hostname", "00001_sword_40.sh", "00001_sword_40", "\0.png"])
def test_a_manifest_that_names_a_foreign_file_is_refused(tmp_path: Path, file: str):
    lines = lines_of(tmp_path / "batch")
    (tmp_path / "outside.png").write_bytes(b"\x89PNG")
    lines[1] |= {"file": file, "bytes": 4}
    (tmp_path / "batch" / NAME).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    with pytest.raises(PackError, match="or another file, than its request"):
        Manifest.resume(tmp_path / "batch")


def test_resume_removes_its_own_unfinished_files_alone(tmp_path: Path):
    lines_of(tmp_path)
    (tmp_path / f".{'0' * 32}.tmp").touch()
    for foreign in (".notes.tmp", f"{'0' * 32}.tmp"):
        (tmp_path / foreign).touch()
    Manifest.resume(tmp_path).__exit__(None, None, None)
    assert {path.name for path in tmp_path.iterdir() if path.suffix == ".tmp"} == {".notes.tmp", f"{'0' * 32}.tmp"}


@given(workflow=st.one_of(changed(PAGE), json_values))
@example(workflow=None)
@example(workflow="text")
@example(workflow={"nodes": [{"id": 6}], "definitions": None})
def test_a_sprites_metadata_survives_any_workflow(workflow: Any):
    """Clients may put anything under extra_pnginfo.workflow: a sprite that is drawn is saved all the same."""
    edits = single_sprite_edits(GRAPH, "7", 2, 3, 99, "red potion")
    assert len(edits) == 3
    before = json.dumps(workflow)
    if is_page_graph(workflow):
        json.dumps(edit_workflow(workflow, edits))
    assert json.dumps(workflow) == before


@given(prompt=changed(GRAPH).filter(is_graph), node_id=texts)  # ComfyUI has checked its form by then
@example(prompt={"7": {"class_type": "SaveSprites", "inputs": {"seeds": [], "sprites": [["x"], 0]}}}, node_id="7")
def test_a_sprites_metadata_survives_any_prompt(prompt: Any, node_id: str):
    for save_node in ("7", node_id):
        edited = edit_prompt(prompt, single_sprite_edits(prompt, save_node, 2, 3, 99, "red potion"))
        json.dumps(edited)


@given(address=st.one_of(texts, texts.map("http://{}".format), texts.map("127.0.0.1:8188{}".format)))
@example(address="http://[::1")
@example(address="http://host:99999")
def test_an_address_is_a_url_or_refused(address: str):
    try:
        url = base_url(address)
    except BadInputError:
        return
    assert url.startswith(("http://", "https://"))
    assert not set(url) & set("\r\n\t ")
