"""What a person asked BatchSpriteSampler for, checked."""

from dataclasses import dataclass

from ..errors import BadInputError

DRAW_WHEN = ("now", "while saving")
"""now: sample all, then give the latents on; while saving: sample each micro-batch when SaveSprites has decoded the one before."""


def picture_number(first_picture: object, i: int) -> int:
    """Return the number, from 1, of the picture that sprite `i` (from 0) takes; a graph's `first_picture` that is a link counts as 0."""
    return i + (max(first_picture, 1) if isinstance(first_picture, int) else 1)


@dataclass(frozen=True)
class SpriteRequest:
    """The widgets of BatchSpriteSampler; raises BadInputError for values that cannot be sampled.

    Widgets are bounded in the schema too, but ComfyUI does not check values that arrive over a link.
    """

    count: int
    width: int
    height: int
    seed: int
    seed_mode: str
    steps: int
    cfg: float
    sampler_name: str
    scheduler: str
    denoise: float
    micro_batch: int = 0
    seed_list: str = ""
    draw: str = "now"
    first_picture: int = 0
    """From 1; 0 begins with the first, too, and wants a sprite for each."""

    def __post_init__(self) -> None:
        """Refuse what no sampler can do."""
        for name, least in (("count", 1), ("steps", 1), ("micro_batch", 0), ("seed", 0), ("first_picture", 0)):
            if getattr(self, name) < least:
                raise BadInputError(f"{name} is {getattr(self, name)}; set it to {least} or more.")
        for name in ("width", "height"):
            pixels = getattr(self, name)
            if pixels < 8 or pixels % 8:
                nearest = max(8, round(pixels / 8) * 8)
                raise BadInputError(f"{name} is {pixels} pixels, but latents hold whole blocks of 8; set it to {nearest}.")
        if self.draw not in DRAW_WHEN:
            raise BadInputError(f"draw is {self.draw!r}; allowed are {', '.join(DRAW_WHEN)}.")
        if not 0.0 <= self.denoise <= 1.0:
            raise BadInputError(f"denoise is {self.denoise:g}; set it between 0 and 1.")
