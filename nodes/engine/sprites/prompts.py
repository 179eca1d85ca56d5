"""One prompt per line: comments, alternatives, and which sprite gets which line."""

import random
import re
from dataclasses import dataclass
from typing import NoReturn

from ..errors import BadInputError

ALTERNATIVES = ("pick", "every")
"""pick: each sprite takes one alternative at random, by seed; every: a line with alternatives becomes all its combinations."""

MAX_COMBINATIONS = 4096

# The innermost pair of braces: replacing these first resolves nested ones from the inside.
_BRACES = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True)
class SpritePrompt:
    """The prompt of one sprite."""

    line: str
    """The line with its alternatives chosen; written back into the workflow that a saved sprite carries."""
    text: str
    """Prefix, line and suffix: what is encoded."""


def prompt_lines(prompts: str) -> list[str]:
    """Return the lines that hold a prompt; raises BadInputError if none does or braces do not pair."""
    lines = [stripped for line in prompts.splitlines() if (stripped := line.strip()) and not stripped.startswith("#")]
    if not lines:
        raise BadInputError("prompts holds no prompt; write one per line (blank lines and lines that begin with # are skipped).")
    for line in lines:
        depth = 0
        for character in line:
            depth += (character == "{") - (character == "}")
            if depth < 0:
                _refuse_braces(line)
        if depth:
            _refuse_braces(line)
    return lines


def _refuse_braces(line: str) -> NoReturn:
    raise BadInputError(f"The braces in {line!r} do not pair; write alternatives as {{red|blue}}.")


def sprite_prompts(prompts: str, prefix: str, suffix: str, count: int, seed: int, alternatives: str) -> list[SpritePrompt]:
    """Return one prompt per sprite; sprite i takes line i, beginning anew after the last.

    `count` 0 means one sprite per line (with `every`: per combination). `pick` depends on `seed` and the sprite's index alone, so that a
    larger count begins with the same sprites. Raises BadInputError.
    """
    for name, text in (("prompts", prompts), ("prefix", prefix), ("suffix", suffix)):
        refuse_halves(name, text)
    lines = readings(prompts, alternatives)
    return [sprite_prompt(lines, i, seed, prefix, suffix) for i in range(count or len(lines))]


def refuse_halves(name: str, text: str) -> None:
    """Raise BadInputError for half of a surrogate pair, as is left of an emoji that was cut in two: no tokenizer reads it."""
    half = next((character for character in text if "\ud800" <= character <= "\udfff"), None)
    if half is not None:
        raise BadInputError(
            f"{name} holds half a character ({ascii(half)[1:-1]}) at position {text.index(half) + 1}; type it anew."
        )


def readings(prompts: str, alternatives: str) -> list[str]:
    """Return the lines that sprites take in turn: with `every` each combination is one. Raises BadInputError."""
    if alternatives not in ALTERNATIVES:
        raise BadInputError(f"alternatives is {alternatives!r}; allowed are {', '.join(ALTERNATIVES)}.")
    lines = prompt_lines(prompts)
    return [combination for line in lines for combination in combinations(line)] if alternatives == "every" else lines


def sprite_prompt(lines: list[str], index: int, seed: int, prefix: str, suffix: str) -> SpritePrompt:
    """Return the prompt of sprite `index` (from 0), whose alternatives are picked by seed and index alone."""
    line = _pick(lines[index % len(lines)], random.Random(f"{seed}:{index}"))
    return SpritePrompt(line, join_parts(prefix, line, suffix))


def _pick(line: str, draw: random.Random) -> str:
    while match := _BRACES.search(line):
        line = line[: match.start()] + draw.choice(match[1].split("|")) + line[match.end() :]
    return line


def written(line: str) -> str:
    """Return a line of prompts that is read as `line`, also where its alternatives left nothing, or what looks like a comment."""
    line = line.strip()
    return f"{{{line[:1]}}}{line[1:]}" if not line or line.startswith("#") else line


def combinations(line: str) -> list[str]:
    """Return every reading of the line once, the last alternatives varying fastest; raises BadInputError above 4096."""
    # For the line and every pair of braces that is open: readings of the alternatives before this one, and of this one so far.
    levels: list[tuple[list[str], list[str]]] = [([], [""])]
    for piece in re.split(r"([{|}])", line):
        before, current = levels[-1]
        following = [piece]
        if piece == "{":
            levels.append(([], [""]))
            continue
        if piece == "|" and len(levels) > 1:
            levels[-1] = (before + current, [""])
            continue
        if piece == "}":
            levels.pop()
            following = before + current
            before, current = levels[-1]
        if len(before) + len(current) * len(following) > MAX_COMBINATIONS:
            raise BadInputError(
                f"{line!r} has more than {MAX_COMBINATIONS} combinations; set alternatives to pick or split the line."
            )
        levels[-1] = (before, [start + end for start in current for end in following])
    return levels[0][1]


def join_parts(prefix: str, line: str, suffix: str) -> str:
    """Join the parts with commas, as SDXL's prompts are written; empty parts leave no comma."""
    return ", ".join(part for part in (prefix.rstrip(" ,\n").lstrip(), line.strip(" ,"), suffix.lstrip(" ,\n").rstrip()) if part)


def shortest_period(texts: list[str]) -> int:
    """Return the smallest p with texts[i] == texts[i % p]: conditioning of p rows serves them all, for samplers repeat rows."""
    return next(p for p in range(1, len(texts) + 1) if all(text == texts[i % p] for i, text in enumerate(texts)))
