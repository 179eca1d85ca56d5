"""Writes files whole or not at all."""

import contextlib
import os
import sys
import uuid
from pathlib import Path


def temporary_name() -> str:
    """A name that no other file has."""
    return f".{uuid.uuid4().hex}.tmp"


def write_durably(path: Path, data: bytes) -> None:
    """Write a file so that under its name there is, whatever happens, nothing, the old file or the whole new one. Raises OSError."""
    temporary = path.with_name(temporary_name())
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    if sys.platform != "win32":  # which cannot open a folder, and needs not
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
