"""Manifest and benchmark record on disks that are full or read-only."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fast_sprites.nodes.benchmark.bench.record import Record, read_record
from fast_sprites.nodes.benchmark.files import write_durably
from fast_sprites.nodes.benchmark.generate.manifest import NAME, Manifest
from fast_sprites.nodes.benchmark.generate.request import GenerateRequest
from fast_sprites.nodes.engine.errors import BadInputError

from ..disks import SmallDisk, files_no_longer_than, small_disk
from .benchmark.conftest import full_record as full_record

REQUEST = GenerateRequest(workflow={"1": {}}, prompts="sword\n{red|blue} potion", count=10, seed=40)
PICTURE = b"picture" * 4


def add(manifest: Manifest, *indices: int) -> None:
    for index in indices:
        manifest.add(manifest.request.sprite(index), PICTURE, ".png")


def complete(folder: Path) -> None:
    """Resume the batch in `folder`, and see that every sprite is there once and nothing else."""
    with Manifest.resume(folder) as manifest:
        add(manifest, *(sprite.index for job in manifest.jobs(4) for sprite in job.sprites))
    records = [json.loads(line) for line in (folder / NAME).read_text().splitlines()][1:]
    assert sorted(record["index"] for record in records) == list(range(10))
    assert {path.name for path in folder.iterdir()} == {NAME, *(record["file"] for record in records)}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", "1m") as mounted:
        yield mounted


def test_a_line_of_the_manifest_that_is_cut_short_anywhere(tmp_path):
    """The disk fills up within the third sprite's line: two are finished, on the spot and after a resume."""
    with Manifest.create(tmp_path / "whole", REQUEST) as manifest:
        add(manifest, 0, 1, 2)
    lines = (tmp_path / "whole" / NAME).read_bytes().splitlines(keepends=True)
    start = sum(map(len, lines[:3]))
    for room in range(0, len(lines[3]), 9):
        folder = tmp_path / str(room)
        with Manifest.create(folder, REQUEST) as manifest:
            add(manifest, 0, 1)
            with files_no_longer_than(start + room), pytest.raises(OSError, match="File too large"):
                add(manifest, 2)
            assert (folder / NAME).read_bytes() == b"".join(lines[:3])
            add(manifest, 2, 3)  # there is room again
        assert manifest.num_finished == 4
        complete(folder)


def test_a_full_disk_loses_nothing_that_was_finished(disk):
    folder = disk.path / "batch"
    with Manifest.create(folder, REQUEST) as manifest:
        add(manifest, 0, 1, 2)
        disk.remount("size=24k")
        with pytest.raises(OSError, match="No space left"):
            add(manifest, *range(3, 10))
    finished = manifest.num_finished
    assert 3 <= finished < 10
    disk.remount("size=1m")
    with Manifest.resume(folder) as resumed:
        assert resumed.num_finished == finished
    complete(folder)


def test_a_read_only_disk_is_one_sentence(disk):
    with Manifest.create(disk.path / "batch", REQUEST) as manifest:
        add(manifest, 0)
    disk.remount("ro")
    with pytest.raises(BadInputError, match=r"cannot be written \(Read-only file system\): choose another --output\.$"):
        Manifest.create(disk.path / "other", REQUEST)
    with pytest.raises(Exception, match=r"cannot be written \(Read-only file system\): change its rights\.$"):
        Manifest.resume(disk.path / "batch")
    disk.remount("rw")
    complete(disk.path / "batch")


def test_a_record_that_cannot_be_written_leaves_the_old_one_alone(full_record: Record, disk):
    path = disk.path / "record.json"
    full_record.partial = "old"
    full_record.write(path)
    full_record.partial = "new" * 30_000
    disk.remount("size=32k")
    with pytest.raises(OSError, match="No space left"):
        full_record.write(path)
    disk.remount("ro")
    with pytest.raises(OSError, match="Read-only file system"):
        full_record.write(path)
    assert read_record(path).partial == "old"
    assert [entry.name for entry in disk.path.iterdir()] == ["record.json"]


@pytest.mark.parametrize("room", [0, 1, 4095, 4096, 9_999])
def test_a_file_that_is_cut_short_has_no_name(tmp_path, room):
    write_durably(tmp_path / "a", b"old")
    with files_no_longer_than(room), pytest.raises(OSError, match="File too large"):
        write_durably(tmp_path / "a", b"new" * 5000)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"old")]
