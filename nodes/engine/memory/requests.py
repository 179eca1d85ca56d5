"""What the routes accept: every value checked, one sentence for each that is refused."""

from collections.abc import Collection, Mapping
from typing import Any

from ..errors import BadInputError


def whole_number(query: Mapping[str, str], name: str, default: int, lowest: int, highest: int) -> int:
    """Return a whole number of the query; raises BadInputError outside `lowest` to `highest`."""
    text = query.get(name, str(default))
    # int() also takes spaces, signs, underscores and digits of other scripts.
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 15 else None
    if number is None or not lowest <= number <= highest:
        raise BadInputError(f"{name} is {text[:40]!r}; it must be a whole number from {lowest} to {highest}.")
    return number


def refuse_unknown(given: Collection[str], known: Collection[str]) -> None:
    """Raise BadInputError if a name is given that the route does not have."""
    for name in given:
        if name not in known:
            raise BadInputError(f"{str(name)[:40]!r} is not known here; there is {', '.join(known) or 'nothing to set'}.")


def switches(body: Any, defaults: Mapping[str, bool]) -> dict[str, bool]:
    """Return the defaults with the body's values; raises BadInputError if it holds anything but known names and true or false."""
    if not isinstance(body, dict):
        raise BadInputError("The body must be a JSON object.")
    refuse_unknown(body, defaults)
    for name, value in body.items():
        if not isinstance(value, bool):
            raise BadInputError(f"{name} must be true or false.")
    return {**defaults, **body}
