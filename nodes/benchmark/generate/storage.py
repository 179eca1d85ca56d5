"""Where a batch's files and manifest lie: in a folder of this machine, or on any file system of fsspec, named by a URL."""

import contextlib
import errno
import hashlib
import importlib
import os
import re
import sys
import time
import uuid
from collections.abc import Collection, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ...engine.errors import BadInputError, PackError
from ..files import temporary_name, write_durably
from ..urls import without_password

NAME = "manifest.jsonl"
PARTS = "manifest"
"""Folder of a manifest's later lines at a URL, until the batch is finished."""
PART = re.compile(rf"{PARTS}/([0-9]{{8,}})-[0-9a-f]{{8}}\.jsonl")
PART_EVERY_S = 10.0
TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.tmp")


def put_aside(name: str) -> str:
    """A new name for a file that is not what its line says: somebody may have worked on it."""
    stem, _, extension = name.rpartition(".")
    return f"{stem}.changed-{uuid.uuid4().hex[:8]}.{extension}"


class ManifestError(PackError):
    """The manifest is missing, damaged, in use or another request's."""


@dataclass(frozen=True)
class StoredFile:
    """What the manifest says of a file."""

    name: str
    num_bytes: int
    sha256: str

    @classmethod
    def of(cls, name: str, data: bytes) -> "StoredFile":
        """The file `name` with this content."""
        return cls(name, len(data), hashlib.sha256(data).hexdigest())


class LocalFolder:
    """A folder of this machine: every file and every line is flushed to disk, and the manifest is locked.

    Names of files are relative, with `/`.
    """

    def __init__(self, path: Path, url: str | None = None) -> None:
        """Nothing is made yet; `url` is that of a folder which other machines see under the same path."""
        self._path = path
        self.url = url

    def __str__(self) -> str:
        """The path, or the URL that was given."""
        return self.url or str(self._path)

    def has_manifest(self) -> bool:
        """Whether a batch was begun here."""
        return (self._path / NAME).exists()

    def begin(self, line: bytes) -> None:
        """Make the folder, and the manifest with its first line; raises OSError."""
        self._path.mkdir(parents=True, exist_ok=True)
        write_durably(self._path / NAME, line)

    def open(self) -> "LockedLines":
        """The manifest's lines; raises ManifestError if they cannot be written, or somebody else writes them."""
        return LockedLines(self._path / NAME)

    def size(self, name: str) -> int | None:
        """Bytes of a file, None if there is none."""
        path = self._path / name
        return path.stat().st_size if path.is_file() else None

    def names(self) -> Iterator[str]:
        """The files here and in folders here."""
        for path in (*self._path.glob("*"), *self._path.glob("*/*")):
            yield path.relative_to(self._path).as_posix()

    def tidy(self, changed: Collection[str]) -> None:
        """Remove what a kill left in the middle of a file, and put these files aside; raises OSError."""
        for temporary in self._path.rglob(".*.tmp"):
            if TEMPORARY.fullmatch(temporary.name):
                temporary.unlink()
        for name in changed:
            with contextlib.suppress(FileNotFoundError):
                os.rename(self._path / name, self._path / put_aside(name))

    def has(self, name: str) -> bool:
        """Whether there is a file now."""
        return (self._path / name).is_file()

    def read(self, name: str) -> bytes:
        """A file; raises OSError."""
        return (self._path / name).read_bytes()

    def remove(self, name: str) -> None:
        """Remove a file; raises OSError."""
        (self._path / name).unlink()

    def write(self, name: str, data: bytes) -> None:
        """Write a file under a temporary name and rename it; raises OSError."""
        path = self._path / name
        path.parent.mkdir(exist_ok=True)
        write_durably(path, data)


class LockedLines:
    """The lines of one file, locked until it is closed."""

    def __init__(self, path: Path) -> None:
        """Open and lock; raises ManifestError."""
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

    def read(self) -> Iterator[tuple[str, bytes]]:
        """Each line, with the words that name it; a last one that a kill cut short is removed."""
        end = 0
        with self._path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.endswith(b"\n"):
                    break
                end += len(line)
                yield f"{self._path}, line {number}", line
        self._file.truncate(end)
        self._file.seek(end)

    def append(self, line: bytes) -> None:
        """Add a line and flush it; raises OSError, and then it is not there."""
        end = self._file.tell()
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]  # less than all where the disk is full
            os.fsync(self._file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(end)
                self._file.seek(end)
            raise

    def close(self, is_finished: bool) -> None:
        """Unlock."""
        self._file.close()


class UrlFolder:
    """A folder on a file system of fsspec, which need not know how to append, flush or lock."""

    def __init__(self, url: str) -> None:
        """Connect; raises BadInputError if the URL is none, or its file system's package is missing."""
        self.url = url
        self._shown = without_password(url.rstrip("/"))
        try:
            core: Any = importlib.import_module("fsspec.core")
        except ImportError as error:
            raise BadInputError(f"The output {self} needs fsspec, which is not installed: pip install fsspec.") from error
        try:
            with _os_errors():
                self._system, root = core.url_to_fs(url)
        except OSError as error:
            raise BadInputError(
                f"The output {self} cannot be used ({error.strerror}): see to that, or choose another --output."
            ) from error
        self._root = str(root).rstrip("/")
        self._sizes: dict[str, int | None] = {}
        self._made: set[str] = set()

    def __str__(self) -> str:
        """The URL, less a password."""
        return self._shown

    def has_manifest(self) -> bool:
        """Whether a batch was begun here; raises ManifestError if that cannot be found out."""
        try:
            with _os_errors():
                self._system.invalidate_cache()
                return any(self._system.exists(self._path(name)) for name in (NAME, PARTS))
        except OSError as error:
            raise self._unreadable(error) from error

    def begin(self, line: bytes) -> None:
        """Write the manifest's first line."""
        self.write(NAME, line)

    def open(self) -> "LinesInParts":
        """The lines of the manifest; raises ManifestError if they cannot be read."""
        try:
            with _os_errors():
                self._system.invalidate_cache()
                found: dict[str, dict[str, Any]] = self._system.find(self._root, detail=True)
        except OSError as error:
            raise self._unreadable(error) from error
        self._sizes = {}
        for path, entry in found.items():
            size = entry["size"]  # a string from an FTP server without MLSD
            self._sizes[path[len(self._root) + 1 :]] = None if size is None else int(size)
        return LinesInParts(self, sorted(filter(PART.fullmatch, self._sizes)))

    def size(self, name: str) -> int | None:
        """Bytes of a file when the manifest was opened, None if unknown: asking a store a million times would take hours."""
        return self._sizes.get(name)

    def names(self) -> Iterator[str]:
        """All files; raises OSError."""
        with _os_errors():
            self._system.invalidate_cache()
            found: list[str] = self._system.find(self._root)
        for path in found:
            yield path[len(self._root) + 1 :]

    def tidy(self, changed: Collection[str]) -> None:
        """Remove temporary files and put these aside, as far as they were there when the manifest was opened, and forget the sizes; raises OSError."""
        for name in self._sizes:
            if TEMPORARY.fullmatch(name.rpartition("/")[2]):
                self.remove(name)
            elif name in changed:
                with _os_errors():
                    self._system.mv(self._path(name), self._path(put_aside(name)))
        self._sizes = {}

    def has(self, name: str) -> bool:
        """Whether there is a file now; raises OSError."""
        with _os_errors():
            self._system.invalidate_cache()
            return bool(self._system.exists(self._path(name)))

    def read(self, name: str) -> bytes:
        """A file; raises OSError."""
        with _os_errors():
            data: bytes = self._system.cat_file(self._path(name))
        return data

    def read_all(self, names: list[str]) -> list[bytes]:
        """Files, together where the file system can: those of SFTP and FTP hang if two threads ask. Raises OSError."""
        with _os_errors():
            found: dict[str, bytes] = self._system.cat([self._path(name) for name in names], on_error="raise")
            return [found[self._path(name)] for name in names]

    def write(self, name: str, data: bytes) -> None:
        """Write a file under a temporary name and rename it, which a store does by a copy that is there whole or not at all.

        Raises OSError; FileExistsError for a manifest on a file system that does not replace files.
        """
        path = self._path(name)
        parent = path.rpartition("/")[0]
        temporary = f"{parent}/{temporary_name()}"
        with _os_errors():
            if parent not in self._made:
                self._system.makedirs(parent, exist_ok=True)
                self._made.add(parent)
            self._system.pipe_file(temporary, data)
            try:
                self._system.mv(temporary, path)
            except OSError as error:
                if not _is_there(error) or name == NAME:  # whose request is nowhere else
                    raise
                self._system.rm_file(path)
                self._system.mv(temporary, path)

    def remove_parts(self, parts: list[str]) -> None:
        """Remove these, and their folder if nothing else is in it; raises OSError."""
        with _os_errors():
            self._system.invalidate_cache()
            found = set(self._system.find(self._path(PARTS)))
        if found == {self._path(name) for name in parts}:
            self.remove(PARTS)
        else:  # a second generate's, or somebody's notes
            for name in parts:
                self.remove(name)

    def remove(self, name: str) -> None:
        """Remove a file, or a folder with all that it holds; raises OSError."""
        with _os_errors():
            self._system.rm(self._path(name), recursive=True)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _unreadable(self, error: OSError) -> ManifestError:
        return ManifestError(f"The output {self} cannot be read ({error.strerror}): see to that, or choose another --output.")


class LinesInParts:
    """`manifest.jsonl`, and a numbered file of further lines with the first that is added after ten seconds; all become one when the batch is finished.

    Lines wait for that: a kill loses them, and their sprites are drawn again.
    """

    def __init__(self, folder: UrlFolder, parts: list[str]) -> None:
        """Go on after `parts`."""
        self._folder, self._parts = folder, parts
        self._writer = uuid.uuid4().hex[:8]  # so that a second generate's parts have other names
        self._waiting: list[bytes] = []
        self._written_at = time.monotonic()

    def read(self) -> Iterator[tuple[str, bytes]]:
        """Each line, with the words that name it; raises OSError."""
        names = [NAME, *self._parts]
        for name, data in zip(names, self._folder.read_all(names), strict=True):
            for number, line in enumerate(data.splitlines(keepends=True), start=1):
                yield f"{self._folder}/{name}, line {number}", line

    def append(self, line: bytes) -> None:
        """Add a line, and write those that wait if it is time; raises OSError, and then it is not there."""
        self._waiting.append(line)
        if time.monotonic() - self._written_at >= PART_EVERY_S:
            try:
                self._write()
            except OSError:
                self._waiting.pop()
                raise

    def _write(self) -> None:
        if self._waiting:
            last = PART.fullmatch(self._parts[-1]) if self._parts else None
            name = f"{PARTS}/{int(last[1]) + 1 if last else 1:08}-{self._writer}.jsonl"
            self._folder.write(name, b"".join(self._waiting))
            self._parts.append(name)
            self._waiting.clear()
        self._written_at = time.monotonic()

    def close(self, is_finished: bool) -> None:
        """Write what waits, and make one file of all if the batch is finished; raises OSError.

        The parts stay where the file system does not replace a file: some say so, WebHDFS does not.
        """
        self._write()
        if is_finished and self._parts:
            whole = b"".join(dict.fromkeys(line for _, line in self.read()))  # once, also after a kill here
            with contextlib.suppress(FileExistsError):
                self._folder.write(NAME, whole)
            if self._folder.read(NAME) == whole:
                self._folder.remove_parts(self._parts)


Folder = LocalFolder | UrlFolder
Lines = LockedLines | LinesInParts


def folder_at(output: Path | str) -> Folder:
    """The folder that a path or a URL names; raises BadInputError for a URL that fsspec cannot use, or a file:// one of another machine."""
    if isinstance(output, Path):
        return LocalFolder(output)
    if not output.startswith("file://"):
        return UrlFolder(output)
    host, path = urlsplit(output).netloc, unquote(urlsplit(output).path)
    if host not in ("", "localhost"):
        raise BadInputError(f"The output {output} names the machine {host!r}: write file:///folder or a path.")
    return LocalFolder(Path(path[1:] if re.match(r"/[A-Za-z]:", path) else path), output)  # file:///C:/items


def write_new(folder: Folder, name: str, data: bytes) -> StoredFile:
    """Write a file unless another worker has, and say what lies there; raises OSError."""
    if folder.has(name):
        return StoredFile.of(name, folder.read(name))
    folder.write(name, data)
    return StoredFile.of(name, data)


@contextlib.contextmanager
def _os_errors() -> Generator[None]:
    """Raise OSError for whatever a file system raises: each has classes of its own, which only its package knows."""
    try:
        yield
    except Exception as error:
        number = errno.EEXIST if _is_there(error) else errno.EIO
        raise OSError(number, without_password(" ".join(str(error).split())) or type(error).__name__) from error


def _is_there(error: Exception) -> bool:
    """Whether a file could not be written because there is one: SMB's error has the number, but not the class."""
    return isinstance(error, FileExistsError) or (isinstance(error, OSError) and error.errno == errno.EEXIST)
