"""A batch at a URL: the same files and lines as in a folder, on file systems that can neither append nor lock."""

import errno
import json
import re
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from fast_sprites.nodes.benchmark.cli import main
from fast_sprites.nodes.benchmark.commands.generate import _output
from fast_sprites.nodes.benchmark.generate import storage
from fast_sprites.nodes.benchmark.generate.manifest import Manifest, ManifestError
from fast_sprites.nodes.benchmark.generate.request import GenerateRequest
from fast_sprites.nodes.benchmark.generate.storage import NAME
from fast_sprites.nodes.engine.errors import BadInputError

fsspec: Any = pytest.importorskip("fsspec", reason="a batch at a URL needs fsspec: pip install fsspec")

REQUEST = GenerateRequest(workflow={"1": {}}, prompts="sword\n{red|blue} potion", count=10, seed=40)


@pytest.fixture(params=["memory", "local"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A URL of a new folder: in memory, and on this machine's disk past everything that `file://` has of ours."""
    return f"{request.param}://{tmp_path}/batch"


def picture(index: int) -> bytes:
    return b"picture %d" % index


def add(manifest: Manifest, *indices: int) -> None:
    for index in indices:
        manifest.add(manifest.request.sprite(index), picture(index), ".png")


def missing(manifest: Manifest) -> list[int]:
    return [sprite.index for job in manifest.jobs(4) for sprite in job.sprites]


def files(url: str) -> dict[str, bytes]:
    """Everything at the URL, by its name there."""
    system, root = fsspec.core.url_to_fs(url)
    return {path[len(root) + 1 :]: data for path, data in system.cat(system.find(root)).items()} if system.exists(root) else {}


def kill(manifest: Manifest) -> None:
    """End without a word: what waits is lost."""
    del manifest


def test_a_finished_batch_is_that_of_a_folder(url: str, tmp_path: Path):
    for output in (url, tmp_path / "alone"):
        with Manifest.create(output, REQUEST) as manifest:
            add(manifest, *range(10))
    assert files(url) == {path.name: path.read_bytes() for path in (tmp_path / "alone").iterdir()}
    with Manifest.resume(url) as manifest:
        assert manifest.num_finished == 10


def test_a_stop_keeps_every_line(url: str):
    with Manifest.create(url, REQUEST) as manifest:
        add(manifest, 0, 1, 2)
    assert [name for name in files(url) if re.fullmatch(r"manifest/00000001-[0-9a-f]{8}\.jsonl", name)]
    with Manifest.resume(url) as manifest:
        assert manifest.request == REQUEST
        assert missing(manifest) == [3, 4, 5, 6, 7, 8, 9]
        add(manifest, 3)
    with Manifest.resume(url) as manifest:
        add(manifest, *missing(manifest))
    records = [json.loads(line) for line in files(url)[NAME].splitlines()]
    assert [record["index"] for record in records[1:]] == list(range(10))
    assert sorted(files(url)) == sorted([NAME, *(record["file"] for record in records[1:])])


def test_a_kill_loses_the_lines_that_wait_and_no_more(url: str, monkeypatch: pytest.MonkeyPatch):
    manifest = Manifest.create(url, REQUEST)
    add(manifest, 0, 1, 2, 3, 4)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + storage.PART_EVERY_S)
    add(manifest, 5, 6, 7)
    kill(manifest)
    with Manifest.resume(url) as manifest:
        assert missing(manifest) == [6, 7, 8, 9]
        add(manifest, *missing(manifest))
    assert {data for name, data in files(url).items() if name != NAME} == {picture(index) for index in range(10)}


def test_a_kill_while_the_parts_become_one_leaves_each_line_once(url: str, monkeypatch: pytest.MonkeyPatch):
    class KilledError(BaseException):
        pass

    def die(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(storage.UrlFolder, "remove", die)
        with pytest.raises(KilledError), Manifest.create(url, REQUEST) as manifest:
            add(manifest, *range(10))
    assert len(files(url)) == 12
    with Manifest.resume(url) as manifest:
        assert missing(manifest) == []
    assert len(files(url)) == 11
    assert len(files(url)[NAME].splitlines()) == 11


def test_what_a_kill_left_of_a_file_is_removed(url: str):
    class KilledError(BaseException):
        pass

    manifest = Manifest.create(url, REQUEST)

    def die(*_: object) -> None:
        raise KilledError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest.folder._system, "mv", die)  # type: ignore[union-attr] - a UrlFolder
        with pytest.raises(KilledError):
            add(manifest, 0)
    assert any(storage.TEMPORARY.fullmatch(name) for name in files(url))
    with Manifest.resume(url) as manifest:
        assert missing(manifest) == list(range(10))
    assert list(files(url)) == [NAME]


def test_a_file_that_is_gone_is_drawn_again(url: str):
    with Manifest.create(url, REQUEST) as manifest:
        add(manifest, 0, 1)
    system, root = fsspec.core.url_to_fs(url)
    system.rm(next(path for path in system.find(root) if "00002_" in path))
    with Manifest.resume(url) as manifest:
        assert missing(manifest)[0] == 1


def test_folders_of_a_large_batch(url: str):
    request = GenerateRequest(workflow={"1": {}}, prompts="sword", count=10_001, seed=40)
    with Manifest.create(url, request) as manifest:
        add(manifest, 0, 10_000)
    assert [name.split("/")[0] for name in sorted(files(url)) if name.endswith(".png")] == ["0000", "0001"]
    with Manifest.resume(url) as manifest:
        assert manifest.num_finished == 2


def test_a_url_with_a_batch_is_not_begun_anew_and_one_without_not_resumed(url: str):
    with pytest.raises(ManifestError, match=f"{url} holds no {NAME}: there is nothing to resume"):
        Manifest.resume(url)
    with Manifest.create(url, REQUEST):
        pass
    with pytest.raises(ManifestError, match=f"{url} already holds a batch"):
        Manifest.create(url, REQUEST)


def test_a_damaged_part_is_named(url: str):
    with Manifest.create(url, REQUEST) as manifest:
        add(manifest, 0, 1)
    system, root = fsspec.core.url_to_fs(url)
    (path,) = system.find(f"{root}/{storage.PARTS}")
    system.pipe_file(path, system.cat_file(path).splitlines(keepends=True)[0] + b"{\n")
    with pytest.raises(ManifestError, match=rf"{url}/{storage.PARTS}/00000001-\w+\.jsonl, line 2 is damaged"):
        Manifest.resume(url)


def test_only_one_thread_asks_the_store(url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(storage, "PART_EVERY_S", 0.0)
    with Manifest.create(url, REQUEST) as manifest:
        add(manifest, *range(9))
    system: Any = manifest.folder._system  # type: ignore[union-attr] - a UrlFolder
    cat_file, threads = system.cat_file, set[int]()

    def note(*given: Any, **named: Any) -> bytes:
        threads.add(threading.get_ident())
        return cat_file(*given, **named)

    monkeypatch.setattr(system, "cat_file", note)  # fsspec has one file system for each address
    with Manifest.resume(url) as manifest:
        assert missing(manifest) == [9]
    assert threads == {threading.get_ident()}  # SFTP and FTP hang otherwise


@pytest.mark.parametrize("error", [None, FileExistsError("it is there"), OSError(errno.EEXIST, "it is there")])
def test_a_store_that_does_not_replace_files_keeps_the_parts(url: str, error: OSError | None, monkeypatch: pytest.MonkeyPatch):
    manifest = Manifest.create(url, REQUEST)
    system: Any = manifest.folder._system  # type: ignore[union-attr] - a UrlFolder
    mv = system.mv

    def keep(source: str, target: str) -> None:
        if not system.exists(target):
            mv(source, target)
        elif error is not None:
            raise error

    monkeypatch.setattr(system, "mv", keep)
    manifest.folder.write("00001_sword_40.png", b"half a pict")
    with manifest:
        add(manifest, *range(10))
    assert len(files(url)[NAME].splitlines()) == 1
    assert any(storage.PART.fullmatch(name) for name in files(url))
    with Manifest.resume(url) as manifest:
        assert missing(manifest) == ([0] if error is None else [])


def test_a_second_writer_loses_no_lines(url: str):
    with Manifest.create(url, REQUEST) as first, Manifest.resume(url) as second:
        add(first, 0, 1)
        add(second, 2, 3)
    with Manifest.resume(url) as first:
        assert missing(first) == [4, 5, 6, 7, 8, 9]
        second = Manifest.resume(url)
        add(second, 4)
        second._lines.close(is_finished=False)
        add(first, *range(4, 10))
    assert [name for name in files(url) if storage.PART.fullmatch(name)] == [f"manifest/00000002-{second._lines._writer}.jsonl"]  # type: ignore[union-attr]
    with Manifest.resume(url) as manifest:
        assert missing(manifest) == []
    assert len(files(url)) == 11


def test_other_files_among_the_parts_are_left_alone(url: str):
    with Manifest.create(url, REQUEST) as manifest:
        add(manifest, 0)
    system, root = fsspec.core.url_to_fs(url)
    system.pipe_file(f"{root}/{storage.PARTS}/notes.jsonl", b"mine")
    with Manifest.resume(url) as manifest:
        add(manifest, *missing(manifest))
    assert [name for name in files(url) if name.startswith(f"{storage.PARTS}/")] == [f"{storage.PARTS}/notes.jsonl"]
    assert len(files(url)[NAME].splitlines()) == 11


@pytest.mark.parametrize(("size", "first"), [(None, 0), ("9", 1), ("8", 0)])
def test_a_file_of_another_or_unknown_size_is_drawn_again(
    url: str, size: str | None, first: int, monkeypatch: pytest.MonkeyPatch
):
    with Manifest.create(url, REQUEST) as manifest:
        add(manifest, 0)
    system: Any = manifest.folder._system  # type: ignore[union-attr] - a UrlFolder
    find = system.find
    monkeypatch.setattr(system, "find", lambda path, **how: {name: {"size": size} for name in find(path, **how)})
    assert missing(Manifest.resume(url)) == list(range(first, 10))


def test_a_store_that_fails_is_one_sentence(url: str, monkeypatch: pytest.MonkeyPatch):
    class StoreError(Exception):
        """As botocore's and aiohttp's: no OSError."""

    def fail(*_: object, **__: object) -> None:
        raise StoreError("the store\nis gone")

    manifest = Manifest.create(url, REQUEST)
    monkeypatch.setattr(manifest.folder._system, "pipe_file", fail)  # type: ignore[union-attr] - a UrlFolder
    with pytest.raises(OSError, match="the store is gone"):
        add(manifest, 0)
    assert manifest.num_finished == 0
    monkeypatch.undo()
    add(manifest, 0)
    monkeypatch.setattr(manifest.folder._system, "pipe_file", fail)  # type: ignore[union-attr]
    with pytest.raises(ManifestError, match=rf"{url} cannot be written \(the store is gone\): go on with the batch by --resume"):
        manifest.__exit__(None, None, None)
    manifest.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)  # which is told instead
    monkeypatch.undo()
    monkeypatch.setattr(manifest.folder._system, "find", fail)  # type: ignore[union-attr]
    with pytest.raises(ManifestError, match=r"cannot be read \(the store is gone\)"):
        Manifest.resume(url)


def test_a_line_that_could_not_be_written_is_not_there(url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(storage, "PART_EVERY_S", 0.0)
    manifest = Manifest.create(url, REQUEST)
    write = storage.UrlFolder.write

    def fail(folder: storage.UrlFolder, name: str, data: bytes) -> None:
        if name.startswith(storage.PARTS):
            raise OSError(5, "the store is gone")
        write(folder, name, data)

    with monkeypatch.context() as patch:
        patch.setattr(storage.UrlFolder, "write", fail)
        with pytest.raises(OSError, match="the store is gone"):
            add(manifest, 0)
    add(manifest, 1)
    with Manifest.resume(url) as resumed:
        assert missing(resumed) == [0, *range(2, 10)]


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("nope://bucket/sprites", "The output nope://bucket/sprites cannot be used (Protocol not known: nope): see to that"),
        ("s3://bucket/sprites", "The output s3://bucket/sprites cannot be used (Install s3fs to access S3): see to that"),
    ],
)
def test_urls_that_cannot_be_used(url: str, sentence: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)  # also where it is installed
    assert main(["generate", "--output", url, "--resume"]) == 1
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


def test_fsspec_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(
        BadInputError, match=r"The output s3://bucket/a needs fsspec, which is not installed: pip install fsspec\."
    ):
        Manifest.resume("s3://bucket/a")


def test_file_urls_are_paths():
    for url, path in (("file:///tmp/two%20words", "/tmp/two words"), ("file:///C:/items", "C:/items")):
        folder = storage.folder_at(_output(url))
        assert isinstance(folder, storage.LocalFolder)
        assert (folder._path, str(folder), folder.url) == (Path(path), url, url)
    assert _output("items") == Path("items")
    assert _output("s3://bucket/items") == "s3://bucket/items"


@pytest.mark.parametrize("url", ["file://items", "file://items/today", "file://C:/items"])
def test_a_file_url_with_two_slashes_is_refused(url: str):
    """The first folder would be taken for a machine, and the batch would lie in the current folder or the disk's first."""
    with pytest.raises(BadInputError, match=r"names the machine '(items|C:)': write file:///folder or a path"):
        storage.folder_at(url)
    assert storage.folder_at("file://localhost/items").has("none") is False
