"""What a person asked `fast-sprites generate` for: every sprite's seed and prompt follows from it."""

import dataclasses
import functools
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...engine.errors import BadInputError
from ...engine.sprites.file_names import slug
from ...engine.sprites.prompts import ALTERNATIVES, readings, sprite_prompt
from ...engine.sprites.seeds import MAX_SEED, SEED_MODES, sprite_seeds

MAX_COUNT = 10_000_000
FILES_PER_FOLDER = 10_000


@dataclass(frozen=True)
class Sprite:
    """One sprite: the same three values give the same picture, whichever job draws it."""

    index: int
    """From 0."""
    seed: int
    prompt: str
    """Its line of the prompts, alternatives chosen."""


@dataclass(frozen=True)
class Job:
    """Sprites with neighbouring indices that one prompt of ComfyUI draws; it may run twice and gives the same files."""

    sprites: tuple[Sprite, ...]


@dataclass(frozen=True)
class GenerateRequest:
    """Everything that decides what is drawn; raises BadInputError for values that cannot be drawn."""

    workflow: dict[str, Any]
    """API format."""
    prompts: str
    """One a line, as SpritePrompts reads them."""
    count: int
    """0 draws one sprite a line."""
    seed_mode: str = "increment"
    seed: int = 0
    seed_list: str = ""
    alternatives: str = "pick"
    prefix: str | None = None
    """None leaves what the workflow has, as for the three below."""
    suffix: str | None = None
    negative: str | None = None
    checkpoint: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn."""
        if not 0 <= self.count <= MAX_COUNT:
            raise BadInputError(f"The count is {self.count}; ask for 1 to {MAX_COUNT} sprites, or leave it out for one a line.")
        if not 0 <= self.seed <= MAX_SEED:
            raise BadInputError(f"The seed is {self.seed}; seeds are whole numbers from 0 to {MAX_SEED}.")
        for name, value, allowed in (
            ("seed_mode", self.seed_mode, SEED_MODES),
            ("alternatives", self.alternatives, ALTERNATIVES),
        ):
            if value not in allowed:
                raise BadInputError(f"{name} is {value!r}; allowed are {', '.join(allowed)}.")
        assert self.lines
        assert self.seeds

    @functools.cached_property
    def lines(self) -> list[str]:
        """The lines that the sprites take in turn."""
        return readings(self.prompts, self.alternatives)

    @functools.cached_property
    def seeds(self) -> tuple[int, ...]:
        """Every sprite's seed."""
        return sprite_seeds(self.seed_mode, self.seed, self.seed_list, self.count or len(self.lines))

    def __len__(self) -> int:
        """How many sprites."""
        return len(self.seeds)

    def sprite(self, index: int) -> Sprite:
        """The sprite `index`, from 0."""
        return Sprite(index, self.seeds[index], sprite_prompt(self.lines, index, self.seed, "", "").line)

    def file_stem(self, sprite: Sprite) -> str:
        """Path of the sprite's file below the output folder, with `/` and without extension."""
        name = "_".join(part for part in (f"{sprite.index + 1:05}", slug(sprite.prompt), str(sprite.seed)) if part)
        return name if len(self) <= FILES_PER_FOLDER else f"{sprite.index // FILES_PER_FOLDER:04}/{name}"

    def to_json(self) -> dict[str, Any]:
        """The fields, for the manifest."""
        return dataclasses.asdict(self)

    @property
    def workflow_sha256(self) -> str:
        """Hash of the workflow's content."""
        return hashlib.sha256(json.dumps(self.workflow, sort_keys=True).encode()).hexdigest()


def read_prompts(path: Path) -> str:
    """The text of a prompts file; raises BadInputError if it cannot be read as UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise BadInputError(
            f"The prompts file {path} cannot be read ({error.strerror}): name a text file with one prompt a line."
        ) from error
    except UnicodeDecodeError as error:
        raise BadInputError(f"The prompts file {path} is no UTF-8 text: save it as UTF-8, one prompt a line.") from error
