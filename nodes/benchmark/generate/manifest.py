"""The manifest of a batch: the request, and one line for each sprite that is finished and on disk."""

import contextlib
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, get_type_hints

from ...engine.errors import BadInputError, PackError
from ...engine.sprites.file_names import FORMATS
from ..documents import fits, parse_json
from ..files import write_durably
from ..pack import pack_version
from .request import GenerateRequest, Job, Sprite

NAME = "manifest.jsonl"
TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.tmp")
FORMAT = 1


class ManifestError(PackError):
    """The manifest is missing, damaged, in use or another request's."""


class Manifest:
    """An open manifest, locked against a second writer until it is closed.

    A sprite counts as finished once its line is on disk, which is written after its file. A line that a kill cut short is dropped when the
    manifest is opened again.
    """

    def __init__(self, folder: Path, request: GenerateRequest, lines: "_Lines") -> None:
        """Use `create` or `resume`."""
        self.folder = folder
        self.request = request
        self._lines = lines
        self._finished = bytearray(len(request))
        self.num_finished = 0
        self.facts: dict[str, Any] = {}
        """Versions and checkpoint that the batch was begun with on a cluster; empty elsewhere."""

    @classmethod
    def create(cls, folder: Path, request: GenerateRequest) -> "Manifest":
        """Begin a batch; raises ManifestError if the folder holds one already, BadInputError if it cannot be written."""
        path = folder / NAME
        if path.exists():
            raise ManifestError(f"{folder} already holds a batch: go on with it by --resume, or choose another --output.")
        header = {
            "kind": "request",
            "format": FORMAT,
            "pack_version": pack_version(),
            "workflow_sha256": request.workflow_sha256,
            "num_sprites": len(request),
            "request": request.to_json(),
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_durably(path, _line(header))
        except OSError as error:
            raise BadInputError(
                f"The output folder {folder} cannot be written ({error.strerror}): choose another --output."
            ) from error
        return cls(folder, request, _Lines(path))

    @classmethod
    def resume(cls, folder: Path) -> "Manifest":
        """Go on with the batch in `folder`; raises ManifestError if there is none, it is damaged or another version's."""
        path = folder / NAME
        if not path.is_file():
            raise ManifestError(f"{folder} holds no {NAME}: there is nothing to resume, so start without --resume.")
        lines = _Lines(path)
        try:
            records = lines.read()
            manifest = cls(folder, _request_of(next(records, None), path), lines)
            for number, record in enumerate(records, start=2):
                manifest._take(record, number)
            for temporary in folder.rglob(".*.tmp"):
                if TEMPORARY.fullmatch(temporary.name):  # left by a kill in the middle of a file
                    temporary.unlink()
        except BaseException:
            lines.close()
            raise
        return manifest

    def _take(self, record: dict[str, Any], number: int) -> None:
        """Count a sprite as finished if its file is there, whole; keep the facts."""
        if record["kind"] == "facts":
            self.facts |= record
            return
        try:
            index, name, size = int(record["index"]), str(record["file"]), int(record["bytes"])
            if index < 0:
                raise IndexError(index)
            expected = self.request.sprite(index)
        except (TypeError, KeyError, ValueError, IndexError) as error:
            raise _damaged(self.folder / NAME, number) from error
        stem, _, extension = name.rpartition(".")
        found = (record.get("seed"), record.get("prompt"), stem, extension in FORMATS)
        if found != (expected.seed, expected.prompt, self.request.file_stem(expected), True):
            raise ManifestError(
                f"{self.folder / NAME}, line {number}: sprite {index + 1} has another seed or prompt, or another file, than its request: it was edited."
            )
        path = self.folder / name
        if path.is_file() and path.stat().st_size == size:
            self._mark(index)

    def _mark(self, index: int) -> None:
        self.num_finished += not self._finished[index]
        self._finished[index] = 1

    def is_finished(self, index: int) -> bool:
        """Whether the sprite `index` is on disk."""
        return bool(self._finished[index])

    def jobs(self, size: int) -> Iterator[Job]:
        """The missing sprites in jobs of at most `size` with neighbouring indices, cut where a whole batch is cut.

        Lazily: what is finished in the meantime is left out.
        """
        run: list[Sprite] = []
        for index in range(len(self._finished)):
            if run and (index % size == 0 or self._finished[index]):
                yield Job(tuple(run))
                run = []
            if not self._finished[index]:
                run.append(self.request.sprite(index))
        if run:
            yield Job(tuple(run))

    def add(self, sprite: Sprite, data: bytes, extension: str) -> bool:
        """Put a sprite's file and then its line on disk; False, and nothing is done, if it is already finished. Raises OSError."""
        if self.is_finished(sprite.index):
            return False
        name = self.request.file_stem(sprite) + extension
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        write_durably(path, data)
        self._lines.append(
            {
                "kind": "sprite",
                "index": sprite.index,
                "seed": sprite.seed,
                "prompt": sprite.prompt,
                "file": name,
                "bytes": len(data),
                "sha256": hashlib.sha256(data).hexdigest(),
            }
        )
        self._mark(sprite.index)
        return True

    def set_facts(self, facts: dict[str, Any]) -> None:
        """Keep what the first worker of a cluster is, for all later ones to equal; what is known already stays. Raises OSError."""
        new = {name: value for name, value in facts.items() if value is not None and name not in self.facts}
        if new:
            self._lines.append({"kind": "facts", **new})
            self.facts |= new

    def __enter__(self) -> "Manifest":
        """The manifest itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close and unlock the file."""
        self._lines.close()


class _Lines:
    """The file of a manifest, locked."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = path.open("r+b", buffering=0)  # so that nothing waits for the disk to have room again
        except OSError as error:
            raise ManifestError(f"{path} cannot be written ({error.strerror}): change its rights.") from error
        if sys.platform != "win32":  # there a manifest is not guarded against a second writer
            import fcntl

            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                self._file.close()
                raise ManifestError(
                    f"{path.parent} is being written by another generate: wait for its end, or stop it."
                ) from error
        self._file.seek(0, os.SEEK_END)

    def read(self) -> Iterator[dict[str, Any]]:
        """Each record; the rest of a line that was cut short is removed."""
        end = 0
        with self._path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.endswith(b"\n"):
                    break
                end += len(line)
                try:
                    record = parse_json(line)
                    record["kind"]
                except (ValueError, TypeError, KeyError) as error:
                    raise _damaged(self._path, number) from error
                yield record
        self._file.truncate(end)
        self._file.seek(end)

    def append(self, record: dict[str, Any]) -> None:
        end = self._file.tell()
        rest = memoryview(_line(record))
        try:
            while rest:
                rest = rest[self._file.write(rest) :]  # less than all where the disk is full
            os.fsync(self._file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(end)
                self._file.seek(end)
            raise

    def close(self) -> None:
        self._file.close()


def _line(record: dict[str, Any]) -> bytes:
    return json.dumps(record).encode() + b"\n"


def _damaged(path: Path, number: int) -> ManifestError:
    return ManifestError(
        f"{path}, line {number} is damaged: remove that line (its sprite is drawn again), or choose another --output if it is the first."
    )


def _request_of(header: dict[str, Any] | None, path: Path) -> GenerateRequest:
    if header is None or header.get("kind") != "request" or header.get("format") != FORMAT:
        raise _damaged(path, 1)
    if header.get("pack_version") != pack_version():
        raise ManifestError(
            f"{path.parent} was begun with fast-sprites {header.get('pack_version')} and this is {pack_version()}, which may draw other "
            "pictures: go on with that version, or choose another --output."
        )
    types = get_type_hints(GenerateRequest)
    try:
        if all(fits(value, types[name]) for name, value in header["request"].items()):
            return GenerateRequest(**header["request"])
    except (AttributeError, TypeError, KeyError, BadInputError) as error:
        raise _damaged(path, 1) from error
    raise _damaged(path, 1)
