"""The driver of a cluster, with a stand-in for Ray whose actors answer at once."""

import hashlib
import io
import json
import os
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fast_sprites.nodes.benchmark.documents import read_workflow
from fast_sprites.nodes.benchmark.generate import cluster as module
from fast_sprites.nodes.benchmark.generate.cluster import ClusterSpec, generate_on_cluster, mean_difference, open_cluster
from fast_sprites.nodes.benchmark.generate.manifest import Manifest
from fast_sprites.nodes.benchmark.generate.progress import Progress
from fast_sprites.nodes.benchmark.generate.request import GenerateRequest, Job
from fast_sprites.nodes.benchmark.generate.run import StoppedError
from fast_sprites.nodes.benchmark.generate.storage import folder_at
from fast_sprites.nodes.benchmark.generate.worker import DrawnJob, StoredJob, WorkerError, WorkerFacts, WorkerSpec
from fast_sprites.nodes.benchmark.generate.workflow import DEFAULT_WORKFLOW
from fast_sprites.nodes.engine.errors import BadInputError
from PIL import Image

from .fake_ray import ActorError, FakeRay, FakeWorker, TaskError, png

NUM_SPRITES = 20


@pytest.fixture
def workers() -> list[FakeWorker]:
    return [FakeWorker(name) for name in ("one", "two", "three")]


def draw(folder: Path | str, ray: FakeRay, gpus: float = 0.0, job_size: int = 4) -> None:
    if folder_at(folder).has_manifest():
        manifest = Manifest.resume(folder)
    else:
        workflow = read_workflow(DEFAULT_WORKFLOW)
        manifest = Manifest.create(folder, GenerateRequest(workflow=workflow, prompts="sword", count=NUM_SPRITES, seed=5))
    with manifest:
        spec = ClusterSpec("auto", WorkerSpec("http://127.0.0.1:8188"), gpus_per_worker=gpus)
        generate_on_cluster(ray, manifest, spec, job_size, Progress(NUM_SPRITES, manifest.num_finished))


def assert_complete(folder: Path) -> None:
    with Manifest.resume(folder) as manifest:
        assert list(manifest.jobs(1)) == []
        for index in range(NUM_SPRITES):
            sprite = manifest.request.sprite(index)
            assert (folder / f"{manifest.request.file_stem(sprite)}.png").read_bytes() == png(sprite.seed)


def drawn(workers: list[FakeWorker]) -> list[int]:
    return sorted(index for worker in workers for job in worker.jobs for index in job)


def test_every_sprite_is_drawn_once_beside_the_one_that_all_compare(workers, tmp_path, capsys):
    ray = FakeRay(workers)
    draw(tmp_path, ray)
    assert_complete(tmp_path)
    assert drawn(workers) == [0] * 3 + list(range(1, NUM_SPRITES))
    assert max(ray.num_waiting) <= 2 * 3
    assert ray.killed == workers
    assert "sprites, " in capsys.readouterr().out


@pytest.fixture(params=["file", "local"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A URL of `tmp_path / "batch"`, where workers write by themselves: by our own code, and by fsspec's."""
    if request.param == "local":
        pytest.importorskip("fsspec", reason="a batch at a URL needs fsspec: pip install fsspec")
    return f"{request.param}://{tmp_path}/batch"


def test_workers_write_to_a_url_themselves(workers, url, tmp_path, monkeypatch):
    written = []
    add = Manifest.add
    monkeypatch.setattr(
        Manifest, "add", lambda manifest, sprite, *data: written.append(sprite.index) or add(manifest, sprite, *data)
    )
    ray = FakeRay(workers)
    draw(url, ray)
    assert_complete(tmp_path / "batch")
    assert written == [0] * 3  # the one that all compare, by the driver
    assert sum(worker.num_written for worker in workers) == NUM_SPRITES - 1
    assert max(ray.num_waiting) <= 2 * 3
    assert not list((tmp_path / "batch").glob(".*"))


def test_a_path_is_the_drivers(workers, tmp_path):
    draw(tmp_path, FakeRay(workers))
    assert [worker.num_written for worker in workers] == [0] * 3


def test_what_two_workers_wrote_is_in_the_manifest_as_it_lies_there(workers, url, tmp_path):
    """A worker that looked before the other's file was there, and moved its own there after the driver heard of the other's."""
    original = workers[1].store

    def fall_silent(*asked: Any) -> StoredJob:
        workers[1].never_answers = True
        return original(*asked)

    def write_late() -> None:
        job, names, _ = workers[1].asked[-1]
        for sprite, name in zip(job.sprites, names, strict=True):
            assert (tmp_path / "batch" / name).read_bytes() == png(sprite.seed)
            (tmp_path / "batch" / name).write_bytes(png(sprite.seed, 1))

    class EndingRay(FakeRay):
        def kill(self, actor: Any) -> None:
            if actor.worker is workers[1]:
                write_late()
            super().kill(actor)

    workers[1].store = fall_silent
    draw(url, EndingRay(workers))
    assert_lines_agree(tmp_path / "batch")


def test_a_worker_that_was_started_anew_writes_nothing_unchecked(workers, url, tmp_path):
    original = workers[0].store

    def move(*asked: Any) -> StoredJob:
        if len(workers[0].jobs) == 1:
            workers[0].node, workers[0].shift = "another", 1
        return original(*asked)

    workers[0].store = move
    draw(url, FakeRay(workers))
    assert workers[0].jobs.count([0]) == 2
    assert_lines_agree(tmp_path / "batch")


def test_what_was_drawn_before_a_new_check_does_not_count_after_it_either(workers, url, tmp_path):
    """Ray runs both jobs of a lost worker again, and the second may end when the new one has been checked."""
    original = workers[0].store

    class SlowRay(FakeRay):
        def wait(self, refs: list[Any], num_returns: int = 1, timeout: float = 0) -> tuple[list[Any], list[Any]]:
            return super().wait(sorted(refs, key=lambda ref: ref.name == "store"), num_returns, timeout)

    def move(*asked: Any) -> StoredJob:
        workers[0].node = "another"
        return original(*asked)

    workers[0].store = move
    draw(url, SlowRay(workers, {"GPU": 1.0}), gpus=1.0)
    assert workers[0].jobs.count([0]) == 2
    assert_complete(tmp_path / "batch")


def assert_lines_agree(folder: Path) -> None:
    """Every sprite has one line, and that says what its file is."""
    records = [json.loads(line) for line in (folder / "manifest.jsonl").read_bytes().splitlines()]
    sprites = [record for record in records if record["kind"] == "sprite"]
    assert sorted(record["index"] for record in sprites) == list(range(NUM_SPRITES))
    for record in sprites:
        data = (folder / record["file"]).read_bytes()
        assert (record["bytes"], record["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())


def test_a_store_that_fails_stops_the_batch(workers, tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(5, "the store is gone")

    monkeypatch.setattr(Manifest, "set_facts", fail)
    with pytest.raises(StoppedError, match=r"cannot be written \(the store is gone\)\.$"):
        draw(tmp_path, FakeRay(workers))


def test_jobs_shrink_by_halves_towards_the_end(workers, tmp_path):
    draw(tmp_path, FakeRay(workers), job_size=8)
    sizes = Counter(len(job) for worker in workers for job in worker.jobs if job != [0])
    # Three workers queue six jobs, so of 20 sprites one may have 4: half of the first 7, whose other 3 follow; 8 are halved twice, or more.
    assert sizes == {4: 1, 3: 1, 2: 4, 1: 4}


def test_jobs_of_a_single_worker_do_not_shrink(workers, tmp_path):
    draw(tmp_path, FakeRay(workers, {"GPU": 1.0}), gpus=1.0, job_size=8)
    assert [len(job) for job in workers[0].jobs] == [1, 7, 8, 4]


def test_what_a_silent_worker_has_is_drawn_by_others(workers, tmp_path):
    original = workers[1].draw

    def fall_silent(job: Job) -> DrawnJob:
        workers[1].never_answers = len(workers[1].jobs) == 1
        return original(job)

    workers[1].draw = fall_silent
    draw(tmp_path, FakeRay(workers))
    assert_complete(tmp_path)


def test_a_worker_that_dies_too_often_loses_its_jobs_to_others(workers, tmp_path, capsys):
    original = workers[2].draw

    def die(job: Job) -> DrawnJob:
        if workers[2].jobs:
            raise ActorError("The actor died.\n\tpid: 1\nThe actor is dead because its owner has died.")
        return original(job)

    workers[2].draw = die
    draw(tmp_path, FakeRay(workers))
    assert_complete(tmp_path)
    assert "Worker 3 is lost, Ray says: The actor is dead because its owner has died.\n" in capsys.readouterr().err


def test_a_worker_that_was_started_anew_is_checked_anew(workers, tmp_path):
    asked = []
    facts, original = workers[0].facts, workers[0].draw

    def ask() -> WorkerFacts:
        asked.append(workers[0].node)
        return facts()

    def move(job: Job) -> DrawnJob:
        if len(workers[0].jobs) == 1:
            workers[0].node = "another"
        return original(job)

    workers[0].facts, workers[0].draw = ask, move
    draw(tmp_path, FakeRay(workers))
    assert_complete(tmp_path)
    assert asked == ["one", "another"]
    assert workers[0].jobs.count([0]) == 2


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"comfyui_version": "0.29.0"}, "two has ComfyUI 0.29.0, and the batch was begun with 0.30.0: make them the same."),
        ({"checkpoint_sha256": "def"}, "two has a checkpoint with SHA-256 def, and the batch was begun with abc"),
    ],
)
def test_another_version_is_left_out_by_name(workers, tmp_path, capsys, change, sentence):
    workers[1].known |= change
    ray = FakeRay(workers)
    draw(tmp_path, ray)
    assert_complete(tmp_path)
    assert sentence in capsys.readouterr().err
    assert workers[1].jobs == []
    assert workers[1] in ray.killed


def test_another_picture_is_left_out_by_name(workers, tmp_path, capsys):
    workers[1].shift = 20
    draw(tmp_path, FakeRay(workers))
    assert_complete(tmp_path)
    assert "two draws another first sprite than the batch's (by 20.0 of 255)" in capsys.readouterr().err


def test_facts_are_kept_for_the_resume(workers, tmp_path):
    draw(tmp_path, FakeRay(workers))
    next(tmp_path.glob("00007_*")).unlink()
    later = FakeWorker("later")
    later.known["comfyui_version"] = "0.31.0"
    with pytest.raises(StoppedError, match=r"No worker is left: later has ComfyUI 0\.31\.0"):
        draw(tmp_path, FakeRay([later], {"GPU": 1.0}), gpus=1.0)


def test_nodes_that_cannot_draw_are_named(workers, tmp_path):
    def refuse() -> WorkerFacts:
        raise TaskError(WorkerError("host1: ComfyUI has no checkpoint 'a'"))

    for worker in workers:
        worker.facts = refuse
    with pytest.raises(StoppedError, match="No worker is left: host1: ComfyUI has no checkpoint 'a'"):
        draw(tmp_path, FakeRay(workers))


def test_a_cluster_without_a_gpu_is_refused_with_its_nodes(workers, tmp_path):
    with pytest.raises(BadInputError, match=r"No node of the cluster \(host0, host1, host2\) has 1 GPU for a worker"):
        draw(tmp_path, FakeRay(workers), gpus=1.0)


def test_as_many_workers_as_there_are_gpus(workers, tmp_path):
    draw(tmp_path, FakeRay(workers, {"GPU": 2.0}), gpus=1.0)
    assert workers[2].jobs == []


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ImportError("ray"), "--cluster needs Ray, which is not installed: pip install ray numpy Pillow."),
        (
            ConnectionError("Could not find\nany running Ray instance"),
            "'auto' cannot be used (Could not find any running Ray instance)",
        ),
        (Exception("The current node timed out during startup."), "'auto' cannot be used (The current node timed out"),
        (RuntimeError("Version mismatch: Ray: 2.1 Python: 3.9"), "(Version mismatch: Ray: 2.1 Python: 3.9): start it"),
    ],
)
def test_clusters_that_cannot_be_used(monkeypatch, error, sentence):
    def refuse(*_: Any, **__: Any) -> None:
        raise error

    def find(_: str) -> Any:
        return refuse() if isinstance(error, ImportError) else SimpleNamespace(init=refuse)

    monkeypatch.setattr(module.importlib, "import_module", find)
    with pytest.raises(BadInputError) as refused:
        open_cluster(ClusterSpec("auto", WorkerSpec("http://127.0.0.1:8188")))
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("address", ["auto", "local", "ray://one:10001"])
def test_the_named_cluster_is_used(monkeypatch, address):
    """`local` by its name too: without an address Ray takes a cluster that happens to run on this machine."""
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    asked = {}
    ray = SimpleNamespace(init=lambda **options: asked.update(options, reports=os.environ.get("RAY_USAGE_STATS_ENABLED")))
    monkeypatch.setattr(module.importlib, "import_module", lambda _: ray)
    assert open_cluster(ClusterSpec(address, WorkerSpec("http://127.0.0.1:8188"))) is ray
    assert asked["address"] == address
    assert asked["reports"] == ("0" if address == "local" else None)
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)


def test_pictures_of_another_size_are_infinitely_far():
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG")
    assert mean_difference(png(1), buffer.getvalue()) == float("inf")
    assert mean_difference(png(1), png(1)) == 0
