"""A procedural generator of 32x32 game sprites.

Every sprite is a subject (24) in a main colour (10), drawn from shapes with its own pose, light, outline, number of tones
and plain background. All randomness comes from one numpy Generator, so a seed names a sprite. `python sprites.py OUT.png`
draws a contact sheet of every subject and colour.
"""

import argparse
import itertools
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from canvas import BACKGROUNDS, COLOURS, SIZE, Canvas, grow, ramp
from numpy.typing import NDArray
from subjects import DRAWERS

SUBJECTS = tuple(DRAWERS)
COLOUR_NAMES = tuple(COLOURS)
# Two colours of every subject are never trained on; each colour is held out equally often, give or take one.
HELD_OUT = frozenset(
    (subject, COLOUR_NAMES[(3 * i + i // 10 + offset) % 10]) for i, subject in enumerate(SUBJECTS) for offset in (0, 5)
)
TRAINED = tuple(pair for pair in itertools.product(SUBJECTS, COLOUR_NAMES) if pair not in HELD_OUT)


def draw(subject: str, colour: str, rng: np.random.Generator) -> tuple[NDArray[np.uint8], str]:
    """Draw one sprite: (32, 32, 3) sRGB with 4 to 16 colours, and the tone of its background."""
    while True:
        canvas = Canvas(
            rng,
            light_x=rng.choice([-0.6, -0.6, 0.6]),
            tones=int(rng.choice([2, 3, 3, 4, 4])),
            scale=rng.uniform(0.86, 1.0),
            flip=bool(rng.random() < 0.5),
            shift=(int(rng.integers(-1, 2)), int(rng.integers(-1, 2))),
        )
        main = ramp(COLOURS[colour], rng)
        DRAWERS[subject](canvas, main)
        pixels = canvas.pixels
        outline = rng.choice(["black", "tinted", "none"], p=[0.45, 0.4, 0.15])
        rim = grow(canvas.painted) & ~canvas.painted
        tones = {"black": ["white", "white", "light"], "white": ["dark", "grey"]}.get(
            colour, ["white", "white", "light", "dark", "grey"]
        )
        tone = str(rng.choice(tones))
        if tone == "dark" and outline == "black":
            outline = "tinted"
        if outline != "none":
            pixels[rim] = (20, 16, 24) if outline == "black" else main[0]
            canvas.painted |= rim
        pixels[~canvas.painted] = BACKGROUNDS[tone][rng.integers(len(BACKGROUNDS[tone]))]
        # Rounding can push a rotated blade over the edge; such a picture is drawn anew.
        border = np.concatenate([canvas.painted[0], canvas.painted[-1], canvas.painted[:, 0], canvas.painted[:, -1]])
        if not border.any() or rng.random() < 0.05:
            return limit_colours(pixels), tone


def limit_colours(pixels: NDArray[np.uint8], most: int = 16) -> NDArray[np.uint8]:
    """Merge the rarest colours into their nearest neighbours until at most `most` remain."""
    colours, inverse, counts = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True, return_counts=True)
    if len(colours) <= most:
        return pixels
    keep = np.argsort(-counts)[:most]
    distance = np.square(colours[:, None].astype(int) - colours[keep].astype(int)).sum(-1)
    return colours[keep][distance.argmin(1)][inverse.reshape(-1)].reshape(pixels.shape)


def upscale(pixels: NDArray[np.uint8], factor: int = 8) -> NDArray[np.uint8]:
    """Hard pixels: (..., H, W, 3) to (..., factor H, factor W, 3)."""
    return pixels.repeat(factor, axis=-3).repeat(factor, axis=-2)


@dataclass(frozen=True)
class Dataset:
    """Sprites (N, 32, 32, 3) uint8 with the index of their subject, colour and background tone."""

    pixels: NDArray[np.uint8]
    subjects: NDArray[np.int16]
    colours: NDArray[np.int16]
    tones: NDArray[np.int16]


TONES = tuple(BACKGROUNDS)


def _draw_range(seed: int, pairs: Sequence[tuple[str, str]], start: int, stop: int) -> Dataset:
    pixels = np.empty((stop - start, SIZE, SIZE, 3), np.uint8)
    labels = np.empty((3, stop - start), np.int16)
    for i in range(start, stop):
        subject, colour = pairs[i % len(pairs)]
        pixels[i - start], tone = draw(subject, colour, np.random.default_rng((seed, i)))
        labels[:, i - start] = SUBJECTS.index(subject), COLOUR_NAMES.index(colour), TONES.index(tone)
    return Dataset(pixels, *labels)


def make_dataset(count: int, seed: int, workers: int = 1, pairs: Sequence[tuple[str, str]] = TRAINED) -> Dataset:
    """Draw `count` sprites, the pairs of subject and colour in turn; the result does not depend on `workers`."""
    edges = np.linspace(0, count, 4 * workers + 1).astype(int)
    job = partial(_draw_range, seed, pairs)
    if workers == 1:
        return job(0, count)
    with ProcessPoolExecutor(workers) as pool:
        parts = list(pool.map(job, edges[:-1], edges[1:]))
    return Dataset(*(np.concatenate([getattr(part, name) for part in parts]) for name in Dataset.__dataclass_fields__))


def contact_sheet(pictures: NDArray[np.uint8], columns: int, margin: int = 4) -> NDArray[np.uint8]:
    """Lay equal pictures (N, H, W, 3) out in rows on a grey ground."""
    count, height, width, _ = pictures.shape
    rows = -(-count // columns)
    sheet = np.full((rows * (height + margin) + margin, columns * (width + margin) + margin, 3), 96, np.uint8)
    for i, picture in enumerate(pictures):
        y, x = margin + i // columns * (height + margin), margin + i % columns * (width + margin)
        sheet[y : y + height, x : x + width] = picture
    return sheet


def save_picture(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write (H, W, 3) uint8 as a PNG."""
    from PIL import Image

    Image.fromarray(pixels).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, metavar="OUT.png")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=int, default=3)
    arguments = parser.parse_args()
    pairs = list(itertools.product(SUBJECTS, COLOUR_NAMES))
    pixels = make_dataset(len(pairs), arguments.seed, pairs=pairs).pixels
    save_picture(arguments.out, contact_sheet(upscale(pixels, arguments.scale), columns=2 * len(COLOUR_NAMES)))


if __name__ == "__main__":
    main()
