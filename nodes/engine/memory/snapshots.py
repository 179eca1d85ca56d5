"""Named readings of this process, for comparing points of a graph."""

from collections import OrderedDict

from ..errors import BadInputError
from .readings import MemoryReading

_CAPACITY = 64
_snapshots: OrderedDict[str, MemoryReading] = OrderedDict()


def keep(name: str, reading: MemoryReading) -> None:
    """Keep the reading under `name`; the oldest of more than 64 names is forgotten."""
    _snapshots[name] = reading
    _snapshots.move_to_end(name)
    if len(_snapshots) > _CAPACITY:
        _snapshots.popitem(last=False)


def recall(name: str) -> MemoryReading:
    """Return the reading kept under `name`; raises BadInputError if there is none."""
    if name not in _snapshots:
        known = ", ".join(map(repr, _snapshots)) or "none yet"
        raise BadInputError(
            f"compare_with is {name!r}, but no probe has taken that snapshot (taken: {known}); "
            "set snapshot on a MemoryProbe that runs earlier in the graph."
        )
    return _snapshots[name]
