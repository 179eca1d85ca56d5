"""What a cluster's workers do by themselves at a URL: see that it is the driver's place, write, and leave what is there."""

import asyncio
import hashlib
import sys
import threading
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from fast_sprites.nodes.benchmark.generate import storage
from fast_sprites.nodes.benchmark.generate.manifest import Manifest, ManifestError
from fast_sprites.nodes.benchmark.generate.request import GenerateRequest, Job, Sprite
from fast_sprites.nodes.benchmark.generate.shared import SharedOutput, shared_output
from fast_sprites.nodes.benchmark.generate.storage import StoredFile, folder_at, write_new
from fast_sprites.nodes.benchmark.generate.worker import SpriteWorker, WorkerError, WorkerSpec

JOB = Job(tuple(Sprite(index, 40 + index, "sword") for index in range(3)))
NAMES = ["0000/00001_sword_40.png", "0000/00002_sword_41.png", "0000/00003_sword_42.png"]
PICTURES = [b"one", b"two", b"three"]
SECRET = "hunter2"  # noqa: S105 - the one that is looked for


@pytest.fixture(params=["file", "local", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A URL that is there: by our own code, and by fsspec's."""
    if request.param != "file":
        pytest.importorskip("fsspec", reason="a batch at a URL needs fsspec: pip install fsspec")
    url = f"{request.param}://{tmp_path}"
    folder_at(url).write("there", b"")
    return url


@pytest.fixture
def output(url: str) -> Any:
    with shared_output(folder_at(url)) as output:
        yield output


class Worker(SpriteWorker):
    """A worker whose ComfyUI draws at once."""

    def __init__(self, output: SharedOutput, pictures: list[bytes] = PICTURES) -> None:
        super().__init__(WorkerSpec("http://127.0.0.1:8188"), {}, output)
        self._drawn = pictures
        self._folder = output.open()

    async def _pictures(self, job: Job) -> list[bytes]:
        return self._drawn


def store(worker: SpriteWorker, checked: str | None = None) -> list[StoredFile]:
    return asyncio.run(worker.store(JOB, NAMES, checked or worker.node)).files


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_worker_writes_and_says_what(output: SharedOutput, url: str):
    told = store(Worker(output))
    assert told == [StoredFile(name, len(data), sha256(data)) for name, data in zip(NAMES, PICTURES, strict=True)]
    assert [folder_at(url).read(name) for name in NAMES] == PICTURES


def test_what_is_there_stays_and_is_told(output: SharedOutput, url: str):
    store(Worker(output, [b"one", b"two", b"drei"]))
    assert store(Worker(output))[2] == StoredFile(NAMES[2], 4, sha256(b"drei"))
    assert folder_at(url).read(NAMES[2]) == b"drei"


def test_another_machines_file_is_seen_at_once(output: SharedOutput, url: str):
    """Where fsspec remembers a listing of what another machine changed since."""
    folder = folder_at(url)
    folder.write(NAMES[0], b"old")
    if isinstance(folder, storage.UrlFolder):
        forgotten = []
        folder._system.invalidate_cache = lambda: forgotten.append(True)
        try:
            assert folder.has(NAMES[0])
        finally:
            del folder._system.invalidate_cache
        assert forgotten
    assert write_new(folder, NAMES[0], b"new").sha256 == sha256(b"old")


def test_a_worker_that_the_driver_has_not_checked_writes_nothing(output: SharedOutput, url: str):
    assert store(Worker(output), "before the restart (process 1)") == []
    assert not folder_at(url).has(NAMES[0])


def test_a_stopped_worker_writes_no_more(output: SharedOutput, url: str):
    worker = Worker(output)
    worker.stop()
    with pytest.raises(WorkerError, match=r"\(process \d+\): stopped\.$"):
        store(worker)
    assert not folder_at(url).has(NAMES[0])


def test_two_jobs_of_a_worker_are_written_one_after_the_other(output: SharedOutput, monkeypatch: pytest.MonkeyPatch):
    """File systems of SFTP and FTP hang if two threads ask."""
    writing = threading.Lock()

    def write(*_: Any) -> StoredFile:
        assert writing.acquire(blocking=False)
        threading.Event().wait(0.005)
        writing.release()
        return StoredFile("a", 0, "")

    monkeypatch.setattr("fast_sprites.nodes.benchmark.generate.worker.write_new", write)

    async def both(worker: SpriteWorker) -> None:
        await asyncio.gather(worker.store(JOB, NAMES, worker.node), worker.store(JOB, NAMES, worker.node))

    asyncio.run(both(Worker(output)))


def test_a_store_that_fails_is_told_with_the_node(output: SharedOutput, url: str, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> None:
        raise OSError(5, "the store is gone")

    worker = Worker(output)
    monkeypatch.setattr(type(worker._folder), "write", fail)
    with pytest.raises(WorkerError) as error:
        store(worker)
    assert str(error.value) == f"{worker.node}: {url} cannot be written (the store is gone)."


def facts(url: str, output: SharedOutput) -> str:
    """What a worker says of the output before it starts or looks for a ComfyUI."""
    worker = SpriteWorker(WorkerSpec("http://127.0.0.1:9"), {}, output)
    with pytest.raises(WorkerError) as error:
        asyncio.run(worker.facts())
    said = str(error.value)
    assert said.startswith(f"{worker.node}: The output {url} ")
    assert "\n" not in said
    return said


def test_another_place_is_refused_and_left_as_it_is(url: str, tmp_path: Path):
    """As a node that has no share at the path: the folder may be there, or even hold the same request's manifest."""
    before = sorted(tmp_path.iterdir())
    for other in (url, f"{url}/nowhere"):
        said = facts(other, SharedOutput(other, ".0.tmp"))
        assert "is not the driver's here, or cannot be read (" in said
        assert "mount it on every node" in said
    assert sorted(tmp_path.iterdir()) == before


def test_a_node_without_the_right_to_write_is_refused(output: SharedOutput, url: str, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(folder_at(url)), "write", refuse)
    assert "cannot be written from here (Permission denied): give this node the right" in facts(url, output)


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        ("s3fs", "cannot be used (Install s3fs to access S3): see to that"),
        ("fsspec.core", "needs fsspec, which is not installed: pip install fsspec."),
    ],
)
def test_a_node_without_the_package_is_refused(missing: str, sentence: str, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("fsspec", reason="a batch at a URL needs fsspec: pip install fsspec")
    monkeypatch.setitem(sys.modules, missing, None)
    assert sentence in facts("s3://bucket/items", SharedOutput("s3://bucket/items", ".0.tmp"))


@pytest.mark.parametrize("reason", ["cannot connect to ", ""])
def test_a_password_is_in_no_message_of_a_worker(reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fsspec = pytest.importorskip("fsspec", reason="a batch at a URL needs fsspec: pip install fsspec")

    def fail(*_: object) -> None:
        raise ValueError(f"{reason}memory://user:{SECRET}@store{tmp_path}")

    output = SharedOutput(f"memory://user:{SECRET}@store{tmp_path}", ".0.tmp")
    if reason:
        monkeypatch.setattr(fsspec.get_filesystem_class("memory"), "cat_file", fail)
    worker = SpriteWorker(WorkerSpec("http://127.0.0.1:9"), {}, output)
    with pytest.raises(WorkerError) as error:
        asyncio.run(worker.facts())
    shown = "".join(traceback.format_exception(error.value)) + repr(output) + repr(worker)  # all that Ray could show
    assert SECRET not in shown
    assert (f"({reason}memory://user:***@" if reason else "(/user:***@") + f"store{tmp_path}" in shown


def test_the_mark_goes_with_the_batch_and_a_killed_ones_with_the_resume(url: str):
    batch = f"{url}/batch"
    request = GenerateRequest(workflow={"1": {}}, prompts="sword", count=3, seed=40)
    with Manifest.create(batch, request) as manifest:
        with shared_output(manifest.folder) as output:
            assert output is not None
            output.open()
            assert sorted(manifest.folder.names()) == [output.mark, storage.NAME]
        assert list(manifest.folder.names()) == [storage.NAME]
        manifest.folder.write(output.mark, b"left by a kill")
    with Manifest.resume(batch) as manifest:
        assert list(manifest.folder.names()) == [storage.NAME]


def test_a_path_is_not_shared(tmp_path: Path):
    with shared_output(folder_at(tmp_path)) as output:
        assert output is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("count", [3, 10_001])
def test_a_batch_does_not_begin_among_anothers_files(url: str, count: int, tmp_path: Path):
    """A worker would take them for those of the other workers."""
    batch = f"{url}/batch"
    request = GenerateRequest(workflow={"1": {}}, prompts="sword", count=count, seed=40)
    name = request.file_stem(request.sprite(1)) + ".png"
    (tmp_path / "batch").mkdir()
    for other in (name, "00002_sword_7.png", "00009_sword_48.png" if count == 3 else "00003_sword_42.png", "notes.png"):
        folder_at(batch).write(other.rpartition("/")[2] if other != name else other, b"old")
    with pytest.raises(ManifestError, match=rf"{batch} already holds {name} of another batch: remove it, or choose another"):
        Manifest.create(batch, request)
    folder_at(batch).remove(name)
    with Manifest.create(batch, request):
        pass


def test_a_changed_file_is_put_aside_before_workers_find_it(url: str):
    batch = f"{url}/batch"
    request = GenerateRequest(workflow={"1": {}}, prompts="sword", count=3, seed=40)
    with Manifest.create(batch, request) as manifest:
        for index, data in enumerate(PICTURES):
            manifest.add(request.sprite(index), data, ".png")
    folder_at(batch).write("00002_sword_41.png", b"half a picture")
    with Manifest.resume(batch) as manifest:
        assert [sprite.index for job in manifest.jobs(4) for sprite in job.sprites] == [1]
        assert [manifest.folder.has(f"0000{index + 1}_sword_{40 + index}.png") for index in range(3)] == [True, False, True]
        (aside,) = [name for name in manifest.folder.names() if ".changed-" in name]
        assert manifest.folder.read(aside) == b"half a picture"


def test_a_file_that_only_one_of_two_lines_names_stays(url: str):
    """As after a second generate at the same URL."""
    batch = f"{url}/batch"
    request = GenerateRequest(workflow={"1": {}}, prompts="sword", count=3, seed=40)
    manifest = Manifest.create(batch, request)
    name = "00001_sword_40.png"
    manifest.folder.write(name, b"one")
    with manifest:
        for data in (b"another", b"one", b"the third"):
            manifest._finished[0] = 0
            manifest.record(request.sprite(0), StoredFile.of(name, data))
    with Manifest.resume(batch) as manifest:
        assert manifest.num_finished == 1
        assert manifest.folder.read(name) == b"one"


def test_requests_of_a_file_at_an_object_store():
    """The figures of docs/cluster.md and docs/generate.md."""
    fsspec = pytest.importorskip("fsspec", reason="a batch at a URL needs fsspec: pip install fsspec")
    from fsspec.asyn import AsyncFileSystem

    objects: dict[str, bytes] = {}
    asked: Counter[str] = Counter()

    class ObjectStore(AsyncFileSystem):
        """One request for each method, as of S3."""

        protocol = "counted"

        async def _info(self, path: str, **_: Any) -> dict[str, Any]:
            asked["head"] += 1
            if path in objects:
                return {"name": path, "size": len(objects[path]), "type": "file"}
            asked["list"] += 1  # a folder is a prefix
            raise FileNotFoundError(path)

        async def _pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
            asked["put"] += 1
            objects[path] = value

        async def _cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
            asked["get"] += 1
            return objects[path]

        async def _cp_file(self, path1: str, path2: str, **_: Any) -> None:
            asked["copy"] += 1
            objects[path2] = objects[path1]

        async def _rm_file(self, path: str, **_: Any) -> None:
            asked["delete"] += 1
            del objects[path]

        async def _makedirs(self, path: str, exist_ok: bool = False) -> None:
            """Object stores have no folders."""

    fsspec.register_implementation("counted", ObjectStore, clobber=True)
    folder = folder_at("counted://bucket/items")
    folder.write(NAMES[0], b"one")
    assert asked == {"put": 1, "head": 2, "list": 1, "copy": 1, "delete": 1}
    asked.clear()
    write_new(folder, NAMES[1], b"two")
    assert asked == {"put": 1, "head": 3, "list": 2, "copy": 1, "delete": 1}
    asked.clear()
    write_new(folder, NAMES[1], b"zwei")
    assert asked == {"head": 1, "get": 1}
    assert list(objects.values()) == [b"one", b"two"]
