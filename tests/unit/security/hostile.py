"""What a hostile graph, file or request may hold, for the fuzz tests of every tier."""

from typing import Any

from hypothesis import strategies as st

PIECES = (
    "..", ".", "/", "\\", "//", "../", "..\\", "....//", "%2e%2e%2f", "C:", "C:\\", "\\\\host\\share", "\\\\?\\", "~", "$HOME", "`id`", "$(id)", "; id",
    "con", "CON", "nul.txt", "aux ", "com1", "COM\u00b9", "lpt9.x", "CONIN$", "conout$.png", "con .png", "name.", "name ", ":stream", "::$DATA",
    "\0", "\n", "\r\n", "\x1b[31m", "\x7f", "\x85", "\x9b", "\u2028", "\u202e", "\u2066", "\u200f", "\ufeff", "\ud800", "\udfff", "\U0001f5e1\ufe0f",
    "e\u0301", "\u2100", "\ufdfa", "\uff0e\uff0e\uff0f", "\u6728\u306e\u5263", "\u0633\u064a\u0641", "<script>", "'", '"', "|", "*", "?", "%prompt%",
    "%seed%", "%index%", "%width%", "%year%", "%", "%%", "{a|b}", "{", "}", "#", "sword", "a" * 300, "\u6728" * 200, "-", "_", " ", "",
)  # fmt: skip

texts = st.one_of(
    st.sampled_from(PIECES),
    st.lists(st.sampled_from(PIECES), max_size=8).map("".join),
    st.lists(st.one_of(st.sampled_from(PIECES), st.text(st.characters(), max_size=10)), max_size=6).map("/".join),
    st.text(st.characters(), max_size=80),
)
"""Names, prompts and patterns, with lone surrogates: JSON can carry them."""

numbers = st.one_of(
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([0, -1, 1, 2**31, 2**63, 2**64, 1e308]),
)

json_values: Any = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, texts),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=12,
)


def changed(value: Any) -> Any:
    """Strategy for a JSON value that is `value` with one part replaced, removed or added, at any depth."""
    if isinstance(value, dict) and value:
        inside = st.sampled_from(sorted(value)).flatmap(lambda key: changed(value[key]).map(lambda new: {**value, key: new}))
        removed = st.sampled_from(sorted(value)).map(lambda key: {name: part for name, part in value.items() if name != key})
        added = st.tuples(texts, json_values).map(lambda pair: {**value, pair[0]: pair[1]})
        return st.one_of(inside, inside, inside, removed, added, json_values)
    if isinstance(value, list) and value:
        inside = st.sampled_from(range(len(value))).flatmap(
            lambda place: changed(value[place]).map(lambda new: [*value[:place], new, *value[place + 1 :]])
        )
        shorter = st.integers(0, len(value) - 1).map(lambda length: value[:length])
        return st.one_of(inside, inside, shorter, json_values)
    return json_values


DEEP = "[" * 100_000
"""More levels than any parser follows."""
