"""Which seed each sprite gets."""

import random
import re

from ..errors import BadInputError

MAX_SEED = 2**64 - 1
"""Largest seed that torch.Generator.manual_seed takes, as in ComfyUI's KSampler."""

SEED_MODES = ("increment", "random", "list")

EXACT_IN_BROWSERS = 2**53
"""Greater whole numbers lose digits in a page's JSON."""

_RANDOM_SEED_BITS = 50
"""As ComfyUI's own "randomize", which stays well below that."""


def sprite_seeds(mode: str, seed: int, seed_list: str, count: int) -> tuple[int, ...]:
    """Return `count` seeds; `random` ones follow from `seed`, so that the same widgets draw the same sprites.

    Raises BadInputError if the mode is unknown or `seed_list` holds too few or unusable numbers.
    """
    if mode == "increment":
        return tuple((seed + i) % (MAX_SEED + 1) for i in range(count))
    if mode == "random":
        draw = random.Random(seed)
        return tuple(draw.getrandbits(_RANDOM_SEED_BITS) for _ in range(count))
    if mode == "list":
        return _listed_seeds(seed_list, count)
    raise BadInputError(f"seed_mode is {mode!r}; allowed are {', '.join(SEED_MODES)}.")


def _listed_seeds(text: str, count: int) -> tuple[int, ...]:
    words = [word for word in re.split(r"[\s,;]+", text) if word]
    for word in words:
        if not re.fullmatch(r"[0-9]{1,20}", word) or int(word) > MAX_SEED:
            raise BadInputError(
                f"seed_list holds {word!r}; write whole numbers from 0 to {MAX_SEED}, separated by commas or spaces."
            )
    if len(words) < count:
        raise BadInputError(
            f"seed_list holds {len(words)} seeds for {count} sprites; add {count - len(words)} more, "
            f"lower count to {max(len(words), 1)} or set seed_mode to increment."
        )
    return tuple(int(word) for word in words[:count])
