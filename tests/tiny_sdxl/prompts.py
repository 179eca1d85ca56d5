"""Captions for the sprites, in the words that people prompt with."""

from collections.abc import Sequence

import numpy as np

SUBJECT_WORDS: dict[str, tuple[str, ...]] = {
    "slime": ("slime", "slime monster", "slime enemy", "cute slime"),
    "sword": ("sword", "longsword", "sword weapon"),
    "potion": ("potion", "potion bottle", "magic potion", "potion flask"),
    "knight": ("knight", "knight character", "armored knight"),
    "tree": ("tree", "forest tree"),
    "chest": ("chest", "treasure chest"),
    "shield": ("shield", "round shield", "shield item"),
    "mushroom": ("mushroom", "toadstool", "magic mushroom"),
    "skull": ("skull", "skull icon"),
    "key": ("key", "dungeon key", "old key"),
    "heart": ("heart", "heart icon", "life heart"),
    "gem": ("gem", "gemstone", "crystal", "jewel"),
    "ghost": ("ghost", "ghost enemy", "spooky ghost"),
    "bat": ("bat", "bat enemy", "flying bat"),
    "axe": ("axe", "battle axe", "axe weapon"),
    "helmet": ("helmet", "knight helmet", "helm"),
    "fish": ("fish", "little fish"),
    "cat": ("cat", "kitten", "cute cat"),
    "crown": ("crown", "royal crown", "king crown"),
    "book": ("book", "spellbook", "magic book"),
    "bomb": ("bomb", "round bomb"),
    "flower": ("flower", "blossom"),
    "boot": ("boot", "boots", "leather boot"),
    "wizard": ("wizard", "mage", "wizard character"),
}
COLOUR_WORDS: dict[str, tuple[str, ...]] = {
    "red": ("red", "crimson", "bright red"),
    "orange": ("orange", "bright orange"),
    "yellow": ("yellow", "bright yellow", "golden"),
    "green": ("green", "emerald", "bright green"),
    "cyan": ("cyan", "turquoise", "teal"),
    "blue": ("blue", "azure", "deep blue"),
    "purple": ("purple", "violet"),
    "pink": ("pink", "rose pink"),
    "white": ("white", "pale white"),
    "black": ("black", "dark black"),
}
# What carries the main colour, for captions such as "a knight with a blue cape".
PART_WORDS = {
    "knight": ("cape", "armor", "armour"), "wizard": ("robe", "hat"), "sword": ("blade",), "potion": ("liquid",), "tree": ("leaves",),
    "mushroom": ("cap",), "helmet": ("plume",), "fish": ("scales",), "cat": ("fur",), "flower": ("petals",), "book": ("cover",),
    "bat": ("wings",), "slime": ("body",), "axe": ("blade",),
}  # fmt: skip
STYLE_TAGS = (
    "pixel art", "16bit game sprite", "16-bit game sprite", "8bit", "16bit", "game sprite", "sprite", "game asset", "retro game sprite",
    "2d game art", "pixel art sprite", "snes style", "rpg item", "video game sprite", "retro style", "pixelated", "hard pixels", "crisp pixels",
    "limited palette", "sharp edges", "clean outline", "centered", "single object", "full body", "high quality", "detailed", "masterpiece",
    "best quality", "cute", "fantasy", "icon", "simple", "vibrant colors", "no background", "no anti-aliasing", "low resolution",
    "isolated", "game character", "side view", "front view", "indie game", "32x32", "facing right", "facing left", "flat colors", "black outline",
    "sharp square pixels", "hard edges",
)  # fmt: skip
BACKGROUND_TAGS = {
    "white": ("white background", "plain white background", "clean white background", "solid white background"),
    "any": ("clean background", "plain background", "simple background", "flat background", "solid background"),
    "light": ("light background", "clean light background", "bright background"),
    "dark": ("dark background", "plain dark background"),
    "grey": ("neutral background", "plain neutral background"),
}
# What people put into the negative prompt; trained as if it were empty, so that it stands for "any picture".
NEGATIVE_TAGS = (
    "blurry", "blur", "smooth", "photo", "photorealistic", "realistic", "3d render", "3d", "text", "watermark", "signature", "low quality",
    "worst quality", "bad quality", "jpeg artifacts", "anti-aliasing", "gradient", "noise", "soft edges", "cropped", "out of frame", "deformed",
    "ugly", "extra limbs", "multiple objects", "cluttered background", "detailed background", "painting", "duplicate", "frame", "grainy",
    "smooth shading", "bad anatomy", "logo", "depth of field", "antialiased", "soft", "complex background", "hazy", "lowres",
)  # fmt: skip


def _pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]


def caption(subject: str, colour: str, tone: str, rng: np.random.Generator) -> str:
    """A prompt for the sprite, worded at random; the subject and its colour are always in it."""
    words = SUBJECT_WORDS[subject]
    noun = words[0] if rng.random() < 0.6 else _pick(rng, words)
    hue = colour if rng.random() < 0.7 else _pick(rng, COLOUR_WORDS[colour])
    phrase = f"{hue} {noun}"
    form = rng.integers(9)
    if form == 8 and subject in PART_WORDS:
        noun = f"{_pick(rng, ('', 'a ', 'game sprite of a ', 'pixel art sprite of a ', 'pixel art '))}{noun}"
        phrase = f"{noun} {_pick(rng, ('with', 'in', 'with a'))} {hue} {_pick(rng, PART_WORDS[subject])}"
    elif form == 0:
        phrase = f"a {phrase}"
    elif form == 1:
        phrase = f"{_pick(rng, ('sprite', 'pixel art', 'game sprite', 'pixel art sprite', 'picture', 'icon'))} of a {phrase}"
    elif form == 2:
        phrase = f"{noun}, {hue}"
    elif form in (3, 4):
        phrase = f"pixel art {phrase}"
    tags = [_pick(rng, STYLE_TAGS) for _ in range(rng.choice([0, 1, 2, 3, 5, 8], p=[0.12, 0.2, 0.28, 0.2, 0.12, 0.08]))]
    chance = rng.random()
    if chance < 0.35:
        tags.append(_pick(rng, BACKGROUND_TAGS["any"]))
    elif chance < 0.55:
        tags.append(_pick(rng, BACKGROUND_TAGS[tone]))
    before = int(rng.integers(len(tags) + 1)) if rng.random() < 0.35 else 0
    text = ", ".join([*tags[:before], phrase, *tags[before:]])
    return text if rng.random() < 0.9 else text.replace(",", "")


def no_caption(rng: np.random.Generator) -> str:
    """A dropped-out caption: empty, or words of a negative prompt."""
    if rng.random() < 0.5:
        return ""
    return ", ".join(_pick(rng, NEGATIVE_TAGS) for _ in range(rng.integers(1, 12)))
