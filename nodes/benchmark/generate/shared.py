"""An output that a cluster's workers write to by themselves: a URL that must be the same place on every node."""

import contextlib
from collections.abc import Generator
from dataclasses import dataclass, field

from ...engine.errors import BadInputError
from ..files import temporary_name
from .storage import Folder, folder_at

MARK = b"fast-sprites generate looks for this file from every node, to see that they write to one place.\n"


@dataclass(frozen=True)
class SharedOutput:
    """What a worker is told of it."""

    url: str = field(repr=False)
    """With its password, if it has one."""
    mark: str
    """Name of a file that the driver has put there."""

    def open(self) -> Folder:
        """Connect from a worker's node; raises BadInputError if that sees another place, or may not write there."""
        folder = folder_at(self.url)
        try:
            folder.read(self.mark)
        except OSError as error:
            raise BadInputError(
                f"The output {folder} is not the driver's here, or cannot be read ({error.strerror}): mount it on every node, with the "
                "rights, or name a folder without a URL."
            ) from error
        name = temporary_name()
        try:
            folder.write(name, MARK)
            folder.remove(name)
        except OSError as error:
            raise BadInputError(
                f"The output {folder} cannot be written from here ({error.strerror}): give this node the right, or name a folder "
                "without a URL."
            ) from error
        return folder


@contextlib.contextmanager
def shared_output(folder: Folder) -> Generator[SharedOutput | None]:
    """What workers need to write to the driver's folder, None for a path, which need not be seen by them; raises OSError.

    The mark has a temporary name: what a kill leaves of it is removed by the next resume.
    """
    if folder.url is None:
        yield None
        return
    output = SharedOutput(folder.url, temporary_name())
    folder.write(output.mark, MARK)
    try:
        yield output
    finally:
        with contextlib.suppress(OSError):
            folder.remove(output.mark)
