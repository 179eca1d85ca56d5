"""The manifest: what counts as finished after a kill at any point."""

import json
import os
from pathlib import Path

import pytest
from fast_sprites.nodes.benchmark.files import write_durably
from fast_sprites.nodes.benchmark.generate import manifest as module
from fast_sprites.nodes.benchmark.generate.manifest import NAME, Manifest, ManifestError
from fast_sprites.nodes.benchmark.generate.request import GenerateRequest
from fast_sprites.nodes.engine.errors import BadInputError

REQUEST = GenerateRequest(workflow={"1": {}}, prompts="sword\n{red|blue} potion", count=10, seed=40)


def picture(index: int) -> bytes:
    return b"picture %d" % index


def missing(manifest: Manifest, size: int = 4) -> list[list[int]]:
    return [[sprite.index for sprite in job.sprites] for job in manifest.jobs(size)]


def add(manifest: Manifest, *indices: int) -> None:
    for index in indices:
        manifest.add(manifest.request.sprite(index), picture(index), ".png")


@pytest.fixture
def half(tmp_path: Path) -> Path:
    """A batch of ten, five of them finished."""
    with Manifest.create(tmp_path, REQUEST) as manifest:
        add(manifest, 0, 1, 2, 3, 7)
    return tmp_path


def test_a_new_batch_misses_all_in_jobs_of_the_asked_size(tmp_path):
    with Manifest.create(tmp_path / "new" / "folder", REQUEST) as manifest:
        assert missing(manifest) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_resume_knows_the_request_and_misses_the_rest(half):
    with Manifest.resume(half) as manifest:
        assert manifest.request == REQUEST
        assert manifest.num_finished == 5
        assert missing(manifest) == [[4, 5, 6], [8, 9]]


def test_a_job_never_reaches_over_a_finished_sprite(half):
    with Manifest.resume(half) as manifest:
        assert missing(manifest, 10) == [[4, 5, 6], [8, 9]]


def test_a_sprite_that_comes_twice_is_kept_once(half):
    with Manifest.resume(half) as manifest:
        assert not manifest.add(REQUEST.sprite(3), b"another", ".png")
        assert manifest.add(REQUEST.sprite(4), picture(4), ".png")
    lines = (half / NAME).read_text().splitlines()
    assert len(lines) == 1 + 6
    assert [path.read_bytes() for path in half.glob("00004_*")] == [picture(3)]


def test_killed_in_every_record_of_the_manifest(half, monkeypatch):
    """Whatever of the manifest reached the disk, the batch is completed, with one line for each sprite."""
    monkeypatch.setattr(os, "fsync", lambda _: None)  # hundreds of batches: the disk's own pace is not what is tested
    whole = (half / NAME).read_bytes()
    header = whole.index(b"\n") + 1
    ends = [place for place, byte in enumerate(whole) if byte == ord("\n")]
    cuts = {place + shift for place in ends for shift in (0, 1, 2)} | set(range(header, len(whole), 11))
    for cut in sorted(cut for cut in cuts if header <= cut <= len(whole)):
        (half / NAME).write_bytes(whole[:cut])
        with Manifest.resume(half) as manifest:
            assert manifest.num_finished == whole[header:cut].count(b"\n")
            for job in manifest.jobs(4):
                add(manifest, *(sprite.index for sprite in job.sprites))
            assert missing(manifest) == []
        records = [json.loads(line) for line in (half / NAME).read_text().splitlines()][1:]
        assert sorted(record["index"] for record in records) == list(range(10))
        files = {path.name: path.read_bytes() for path in half.iterdir() if path.name != NAME}
        assert files == {record["file"]: picture(record["index"]) for record in records}


@pytest.mark.parametrize("step", ["open", "fsync", "replace"])
def test_killed_at_every_step_of_writing_a_file(tmp_path, monkeypatch, step):
    """A file that is not whole has no name, or no line, and what a kill leaves over is removed."""

    class KilledError(BaseException):
        pass

    def kill(*_: object, **__: object) -> None:
        raise KilledError

    with Manifest.create(tmp_path, REQUEST) as manifest:
        add(manifest, 0)
        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", kill)  # a killed process tidies nothing up
            patch.setattr(Path if step == "open" else os, step, kill)
            with pytest.raises(KilledError):
                add(manifest, 1)
    with Manifest.resume(tmp_path) as manifest:
        assert manifest.num_finished == 1
        add(manifest, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        manifest.request.file_stem(REQUEST.sprite(index)) + ".png" for index in (0, 1)
    ] + [NAME]


@pytest.mark.parametrize("change", [lambda path: path.unlink(), lambda path: path.write_bytes(b"pic")], ids=["gone", "cut short"])
def test_a_sprite_whose_file_is_not_there_whole_is_missing(half, change):
    change(next(half.glob("00003_*")))
    with Manifest.resume(half) as manifest:
        assert missing(manifest) == [[2], [4, 5, 6], [8, 9]]


def test_a_file_that_somebody_has_worked_on_is_put_aside(half):
    touched_up = next(half.glob("00003_*"))
    for work in (b"an outline by hand", b"and another colour"):
        touched_up.write_bytes(work)
        with Manifest.resume(half) as manifest:
            add(manifest, 2)
    assert touched_up.read_bytes() == picture(2)
    aside = half.glob(f"{touched_up.stem}.changed-*.png")
    assert sorted(path.read_bytes() for path in aside) == [b"an outline by hand", b"and another colour"]


def test_a_second_writer_is_refused(half):
    # Locks belong to open files, so that another one in the same process is as foreign as one in another.
    with Manifest.resume(half), pytest.raises(ManifestError, match="is being written by another generate"):
        Manifest.resume(half)
    Manifest.resume(half).__exit__(None, None, None)


def test_a_folder_with_a_batch_is_not_begun_anew(half):
    with pytest.raises(ManifestError, match="already holds a batch: go on with it by --resume"):
        Manifest.create(half, REQUEST)


def test_nothing_to_resume(tmp_path):
    with pytest.raises(ManifestError, match="nothing to resume"):
        Manifest.resume(tmp_path)


@pytest.mark.parametrize("line", [b"{", b"[]", b"{}", b'{"kind": "sprite", "index": 99}', b"\0\0\0"])
def test_a_damaged_line_is_named(half, line):
    lines = (half / NAME).read_bytes().splitlines()
    lines[2] = line
    (half / NAME).write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(ManifestError, match=r"line 3 is damaged: remove that line"):
        Manifest.resume(half)


def test_an_edited_line_is_named(half):
    text = (half / NAME).read_text()
    (half / NAME).write_text(text.replace('"seed": 42', '"seed": 43'))
    with pytest.raises(ManifestError, match=r"line 4: sprite 3 has another seed or prompt"):
        Manifest.resume(half)


def test_a_header_that_is_cut_short_is_damaged(half):
    (half / NAME).write_bytes((half / NAME).read_bytes()[:20])
    with pytest.raises(ManifestError, match="line 1 is damaged"):
        Manifest.resume(half)


def test_another_version_is_refused(half, monkeypatch):
    monkeypatch.setattr(module, "pack_version", lambda: "9.0")
    with pytest.raises(ManifestError, match=r"begun with fast-sprites .* and this is 9\.0"):
        Manifest.resume(half)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInputError, match=r"file/sprites cannot be written \(.+\): choose another --output\.$"):
        Manifest.create(tmp_path / "file" / "sprites", REQUEST)


def test_header_says_what_was_asked(half):
    header = json.loads((half / NAME).read_text().splitlines()[0])
    assert header["num_sprites"] == 10
    assert header["workflow_sha256"] == REQUEST.workflow_sha256
    assert header["pack_version"] == module.pack_version()


def test_written_files_replace_old_ones_whole(tmp_path):
    write_durably(tmp_path / "a", b"old")
    write_durably(tmp_path / "a", b"new")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"new"]
