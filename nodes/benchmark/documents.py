"""Reads JSON that others may have written: workflows, records and manifests."""

import json
import math
from pathlib import Path
from types import UnionType
from typing import Any, NoReturn, cast, get_args, get_origin

from ..engine.errors import BadInputError, PackError

MAX_BYTES = 64 * 1024 * 1024
"""Of a file: a workflow has some kilobytes, the longest record of a benchmark a few megabytes."""


def parse_json(text: str | bytes) -> Any:
    """The document in `text`; raises ValueError for what is no JSON, nests too deep, or holds a number that is not finite."""
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _refuse(number: str) -> NoReturn:
    raise ValueError(f"it holds the number {number[:20]}")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse(text)


def read_json(path: Path) -> Any:
    """The document in a file; raises OSError if it cannot be read, and ValueError with the reason if it is no JSON in UTF-8."""
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES} bytes")
    return parse_json(data.decode("utf-8-sig"))


def read_document(path: Path, name: str, advice: str, refusal: type[PackError]) -> Any:
    """The document in the file that the user calls `name`; raises `refusal` with one sentence if it cannot be read or is no JSON."""
    try:
        return read_json(path)
    except OSError as error:
        raise refusal(f"{name} cannot be read ({error.strerror}): {advice}.") from error
    except ValueError as error:
        raise refusal(f"{name} is no JSON ({error}): {advice}.") from error


def fits(value: Any, wanted: Any) -> bool:
    """Whether a value of JSON is of an annotated type: a class, Any, a union with |, a list or a dict of them."""
    kind, arguments = get_origin(wanted) or wanted, get_args(wanted)
    if kind is UnionType:
        return any(fits(value, choice) for choice in arguments)
    if kind is list:
        return isinstance(value, list) and all(fits(item, arguments[0]) for item in cast(list[Any], value))
    if kind is dict:
        return isinstance(value, dict) and all(fits(item, arguments[1]) for item in cast(dict[Any, Any], value).values())
    if kind in (int, float):  # True is an int to Python
        return isinstance(value, int | float if kind is float else int) and not isinstance(value, bool)
    return kind is Any or isinstance(value, kind)


def is_graph(content: Any) -> bool:
    """Whether a document is a workflow in API format: node id -> {class_type, inputs}."""
    if not fits(content, dict[str, dict[str, Any]]):
        return False
    nodes = cast(dict[str, dict[str, Any]], content).values()
    return all(fits(node.get("class_type"), str) and fits(node.get("inputs"), dict[str, Any]) for node in nodes)


def read_workflow(path: Path) -> dict[str, dict[str, Any]]:
    """The graph in an API-format file; raises BadInputError for anything else."""
    graph = read_document(path, f"The workflow {path}", "name a file in API format", BadInputError)
    if fits(graph, dict[str, Any]) and isinstance(graph.get("nodes"), list):
        raise BadInputError(f"The workflow {path} is in the page's format: save it with File > Export (API) and name that file.")
    if not graph or not is_graph(graph):
        raise BadInputError(f"The workflow {path} is not in API format: save it with File > Export (API).")
    return graph
