"""Unpacks one folder of a source archive."""

import shutil
import tarfile
from pathlib import Path, PurePosixPath

from dev_tools.errors import DevError


def path_inside(name: str, folder: str) -> PurePosixPath | None:
    """The path of archive member `name` below `<any root>/<folder>/`, None if it is not in there.

    Raises DevError for a name that would leave the target.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
        raise DevError(f"The archive holds the path {name!r}, which leaves the target folder: do not use this archive.")
    depth = 1 + len(PurePosixPath(folder).parts)
    if PurePosixPath(*path.parts[1:depth]) != PurePosixPath(folder) or len(path.parts) == depth:
        return None
    return PurePosixPath(*path.parts[depth:])


def unpack_folder(archive: Path, folder: str, target: Path) -> None:
    """Unpack `<any root>/<folder>/*` of a tar archive into `target`, which appears only when it is complete.

    Takes files and folders; raises DevError for links, devices and paths that leave the target.
    """
    aside = target.with_name(target.name + ".part")
    if aside.exists():
        shutil.rmtree(aside)
    aside.mkdir(parents=True)
    with tarfile.open(archive) as tar:
        for member in tar:
            inside = path_inside(member.name, folder)
            if inside is None or member.isdir():
                continue
            source = tar.extractfile(member) if member.isreg() else None
            if source is None:
                raise DevError(f"The archive holds {member.name!r}, neither a file nor a folder: do not use this archive.")
            place = aside.joinpath(*inside.parts)
            place.parent.mkdir(parents=True, exist_ok=True)
            with source, place.open("wb") as file:
                shutil.copyfileobj(source, file)
    if not any(aside.iterdir()):
        raise DevError(f"{archive.name} holds no folder {folder}: this is not the archive that dev.py expects.")
    aside.replace(target)
