"""The manifest of a batch: the request, and one line for each sprite that is finished and on disk."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, get_type_hints

from ...engine.errors import BadInputError
from ...engine.sprites.file_names import FORMATS
from ..documents import fits, parse_json
from ..pack import pack_version
from .request import GenerateRequest, Job, Sprite
from .storage import NAME, Folder, Lines, ManifestError, StoredFile, folder_at

FORMAT = 1


class Manifest:
    """An open manifest, on this machine locked against a second writer until it is closed.

    A sprite counts as finished once its line is on disk, which is written after its file. A line that a kill cut short is dropped when the
    manifest is opened again.
    """

    def __init__(self, folder: Folder, request: GenerateRequest, lines: Lines) -> None:
        """Use `create` or `resume`."""
        self.folder = folder
        self.request = request
        self._lines = lines
        self._finished = bytearray(len(request))
        self._changed: dict[int, str] = {}
        """Files by sprite that are not what their line says."""
        self.num_finished = 0
        self.facts: dict[str, Any] = {}
        """Versions and checkpoint that the batch was begun with on a cluster; empty elsewhere."""

    @classmethod
    def create(cls, output: Path | str, request: GenerateRequest) -> "Manifest":
        """Begin a batch in a folder or at a URL; raises ManifestError if one of its files is there already, BadInputError if it cannot be written."""
        folder = folder_at(output)
        if folder.has_manifest():
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
            taken = next((name for name in folder.names() if _is_of(request, name)), None)
            if taken is not None:  # which a cluster's workers would take for each other's
                raise ManifestError(f"{folder} already holds {taken} of another batch: remove it, or choose another --output.")
            folder.begin(_line(header))
        except OSError as error:
            raise BadInputError(
                f"The output folder {folder} cannot be written ({error.strerror}): choose another --output."
            ) from error
        return cls(folder, request, folder.open())

    @classmethod
    def resume(cls, output: Path | str) -> "Manifest":
        """Go on with the batch in `output`; raises ManifestError if there is none, it is damaged or another version's."""
        folder = folder_at(output)
        if not folder.has_manifest():
            raise ManifestError(f"{folder} holds no {NAME}: there is nothing to resume, so start without --resume.")
        lines = folder.open()
        try:
            records = _records(lines)
            manifest = cls(folder, _request_of(next(records, None), folder), lines)
            for place, record in records:
                manifest._take(record, place)
            folder.tidy(set(manifest._changed.values()))
        except OSError as error:
            lines.close(is_finished=False)
            raise ManifestError(f"{folder} cannot be read ({error.strerror}): see to that, and resume again.") from error
        except BaseException:
            lines.close(is_finished=False)
            raise
        return manifest

    def _take(self, record: dict[str, Any], place: str) -> None:
        """Count a sprite as finished if its file is there, whole, and else remember what is there instead; keep the facts."""
        if record["kind"] == "facts":
            self.facts |= record
            return
        try:
            index, name, size = int(record["index"]), str(record["file"]), int(record["bytes"])
            if index < 0:
                raise IndexError(index)
            expected = self.request.sprite(index)
        except (TypeError, KeyError, ValueError, IndexError) as error:
            raise _damaged(place) from error
        stem, _, extension = name.rpartition(".")
        found = (record.get("seed"), record.get("prompt"), stem, extension in FORMATS)
        if found != (expected.seed, expected.prompt, self.request.file_stem(expected), True):
            raise ManifestError(
                f"{place}: sprite {index + 1} has another seed or prompt, or another file, than its request: it was edited."
            )
        if self.folder.size(name) == size:
            self._mark(index)
        elif not self._finished[index]:
            self._changed[index] = name

    def _mark(self, index: int) -> None:
        self.num_finished += not self._finished[index]
        self._finished[index] = 1
        self._changed.pop(index, None)

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
        self.folder.write(name, data)
        return self.record(sprite, StoredFile.of(name, data))

    def record(self, sprite: Sprite, file: StoredFile) -> bool:
        """Put the line of a sprite on disk whose file is there; False, and nothing is done, if it is already finished. Raises OSError."""
        if self.is_finished(sprite.index):
            return False
        record = {
            "kind": "sprite",
            "index": sprite.index,
            "seed": sprite.seed,
            "prompt": sprite.prompt,
            "file": file.name,
            "bytes": file.num_bytes,
            "sha256": file.sha256,
        }
        self._lines.append(_line(record))
        self._mark(sprite.index)
        return True

    def set_facts(self, facts: dict[str, Any]) -> None:
        """Keep what the first worker of a cluster is, for all later ones to equal; what is known already stays. Raises OSError."""
        new = {name: value for name, value in facts.items() if value is not None and name not in self.facts}
        if new:
            self._lines.append(_line({"kind": "facts", **new}))
            self.facts |= new

    def __enter__(self) -> "Manifest":
        """The manifest itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close and unlock the file; raises ManifestError if its last lines cannot be written."""
        try:
            self._lines.close(is_finished=self.num_finished == len(self.request))
        except OSError as failed:
            if error is None:  # else that one is told
                raise ManifestError(
                    f"{self.folder} cannot be written ({failed.strerror}): go on with the batch by --resume."
                ) from failed


def _is_of(request: GenerateRequest, name: str) -> bool:
    """Whether a file has the name of one of the request's sprites."""
    stem, _, extension = name.rpartition(".")
    number = stem.rpartition("/")[2].partition("_")[0]
    if extension not in FORMATS or not re.fullmatch(r"[0-9]{5,8}", number) or not 0 < int(number) <= len(request):
        return False
    return stem == request.file_stem(request.sprite(int(number) - 1))


def _line(record: dict[str, Any]) -> bytes:
    return json.dumps(record).encode() + b"\n"


def _records(lines: Lines) -> Iterator[tuple[str, dict[str, Any]]]:
    for place, line in lines.read():
        try:
            record = parse_json(line)
            record["kind"]
        except (ValueError, TypeError, KeyError) as error:
            raise _damaged(place) from error
        yield place, record


def _damaged(place: str) -> ManifestError:
    return ManifestError(
        f"{place} is damaged: remove that line (its sprite is drawn again), or choose another --output if it is the first."
    )


def _request_of(first: tuple[str, dict[str, Any]] | None, folder: Folder) -> GenerateRequest:
    place, header = first or (f"{folder}/{NAME}, line 1", {})
    if header.get("kind") != "request" or header.get("format") != FORMAT:
        raise _damaged(place)
    if header.get("pack_version") != pack_version():
        raise ManifestError(
            f"{folder} was begun with fast-sprites {header.get('pack_version')} and this is {pack_version()}, which may draw other "
            "pictures: go on with that version, or choose another --output."
        )
    types = get_type_hints(GenerateRequest)
    try:
        if all(fits(value, types[name]) for name, value in header["request"].items()):
            return GenerateRequest(**header["request"])
    except (AttributeError, TypeError, KeyError, BadInputError) as error:
        raise _damaged(place) from error
    raise _damaged(place)
