"""Draws native sprites whose pixels are known and damages them as diffusion models and codecs do.

Everything follows from a seed. `make_case(seed, level)` gives one picture with its truth.
"""

import io
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from ciede2000 import ciede2000
from fast_sprites.nodes.engine.pixel.colour import lab_to_srgb, srgb_to_lab
from PIL import Image

Level = Literal["easy", "medium", "hard"]
LEVELS: tuple[Level, ...] = ("easy", "medium", "hard")
CANVAS = 1024


@dataclass(frozen=True)
class Damage:
    """Ranges of one level; lengths in cells, values in 8-bit steps."""

    blur: tuple[float, float]
    line_drift: float
    wave_drift: float
    noise: tuple[float, float]
    wobble: float
    halo: tuple[float, float]
    jpeg: tuple[int, int]


DAMAGE: dict[Level, Damage] = {
    "easy": Damage((0.03, 0.08), 0.0, 0.0, (0.5, 2.5), 0.5, (0.0, 0.1), (92, 97)),
    "medium": Damage((0.06, 0.14), 0.06, 0.15, (2.0, 5.0), 1.2, (0.05, 0.25), (84, 94)),
    "hard": Damage((0.14, 0.24), 0.11, 0.4, (4.0, 9.0), 2.0, (0.15, 0.5), (70, 88)),
}


@dataclass(frozen=True)
class Case:
    """A damaged picture and what is true about it: labels (h, w), palette (N, 3), which cells are sprite, and the grid."""

    picture: np.ndarray
    labels: np.ndarray
    palette: np.ndarray
    sprite: np.ndarray
    size: float
    mode: str
    level: Level
    kind: str


def make_palette(rng: np.random.Generator, count: int) -> np.ndarray:
    """Ramps of related colours, at least 3.5 CIEDE2000 apart, as uint8 (count, 3)."""
    colours = [np.array(rng.integers(0, 40, 3), dtype=float)]
    while len(colours) < count:
        hue, chroma = rng.uniform(0, 2 * math.pi), rng.uniform(0, 75)
        steps = int(rng.integers(2, 6))
        shift = rng.uniform(-0.35, 0.35)
        for light in np.linspace(rng.uniform(15, 40), rng.uniform(60, 97), steps):
            lab = np.array([light, chroma * math.cos(hue), chroma * math.sin(hue)])
            rgb = np.rint(lab_to_srgb(lab[None])[0])
            hue += shift
            near = ciede2000(srgb_to_lab(rgb[None]), srgb_to_lab(np.array(colours)))
            if near.min() > 3.5 and len(colours) < count:
                colours.append(rgb)
    return np.array(colours).astype(np.uint8)


def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[0:size, 0:size]
    return (x + 0.5) / size * 2 - 1, (y + 0.5) / size * 2 - 1


def _outline(body: np.ndarray) -> np.ndarray:
    padded = np.pad(body, 1)
    grown = padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
    return grown & ~body


def _paint(labels: np.ndarray, body: np.ndarray, height: np.ndarray, ramp: np.ndarray, rng: np.random.Generator) -> None:
    """Shade a body with a ramp lit from a side, with a dithered edge between steps now and then."""
    gy, gx = np.gradient(height)
    light = height * 0.5 - gx * rng.uniform(-8, 8) - gy * rng.uniform(2, 10)
    inside = light[body]
    if len(inside) == 0:
        return
    ranks = np.searchsorted(np.sort(inside), light) / len(inside)
    if rng.random() < 0.3:
        checker = np.indices(labels.shape).sum(axis=0) % 2
        ranks = ranks + (checker - 0.5) * 0.08
    steps = np.clip((ranks * len(ramp)).astype(int), 0, len(ramp) - 1)
    labels[body] = ramp[steps][body]


def _blob(rng: np.random.Generator, size: int, symmetric: bool) -> np.ndarray:
    """A height field, positive inside, of a few soft balls."""
    x, y = _grid(size)
    field = np.full((size, size), -0.9)
    for _ in range(int(rng.integers(2, 7))):
        cx, cy, r = rng.uniform(-0.5, 0.5), rng.uniform(-0.5, 0.55), rng.uniform(0.25, 0.55)
        for sign in (1, -1) if symmetric else (1,):
            field = field + np.exp(-(((x - sign * cx) ** 2 + (y - cy) ** 2) / (r * r)) * 1.6)
    return field


def _spots(rng: np.random.Generator, part: np.ndarray, body: np.ndarray, colours: np.ndarray) -> None:
    """Eyes, spots and highlights of one to a few pixels."""
    for _ in range(int(rng.integers(2, 9))):
        spots = np.argwhere(body)
        if len(spots):
            cy, cx = spots[rng.integers(len(spots))]
            h, w = rng.integers(1, 4, 2)
            area = part[cy : cy + h, cx : cx + w]
            area[body[cy : cy + h, cx : cx + w]] = rng.choice(colours)


def _draw_creature(rng: np.random.Generator, size: int, count: int, *, sparse: bool) -> np.ndarray:
    background, colours = count - 1, np.arange(count - 1)
    x, y = _grid(size)
    labels = np.full((size, size), background)
    inner = max(12, int(size * (rng.uniform(0.4, 0.7) if sparse else 1.0)))
    field = _blob(rng, inner, symmetric=bool(rng.random() < 0.6))
    body = field > 0
    part = np.full((inner, inner), background)
    for _ in range(int(rng.integers(1, 4))):
        start = int(rng.integers(1, max(2, count - 4)))
        ramp = colours[start : start + int(rng.integers(2, 7))]
        stripes = np.sin(x[:inner, :inner] * rng.uniform(1, 9) + y[:inner, :inner] * rng.uniform(-7, 7)) > rng.uniform(-1, 0.4)
        _paint(part, body if (part[body] == background).all() else body & stripes, field, ramp, rng)
    _spots(rng, part, body, colours)
    part[_outline(body)] = 0
    oy, ox = rng.integers(0, size - inner + 1, 2) if sparse else (0, 0)
    labels[oy : oy + inner, ox : ox + inner] = part
    return labels


def _draw_item(rng: np.random.Generator, size: int, count: int) -> np.ndarray:
    colours = np.arange(count - 1)
    x, y = _grid(size)
    labels = np.full((size, size), count - 1)
    for _ in range(int(rng.integers(3, 9))):
        angle, w, h = rng.uniform(0, math.pi), rng.uniform(0.08, 0.5), rng.uniform(0.2, 0.8)
        cx, cy = rng.uniform(-0.35, 0.35, 2)
        u = (x - cx) * math.cos(angle) + (y - cy) * math.sin(angle)
        v = -(x - cx) * math.sin(angle) + (y - cy) * math.cos(angle)
        fields = (1 - (u / w) ** 2 - (v / h) ** 2, 1 - np.maximum(abs(u) / w, abs(v) / h), 1 - abs(u) / w - abs(v) / h)
        field = fields[rng.choice(3)]
        start = int(rng.integers(1, max(2, count - 4)))
        _paint(labels, field > 0, field, colours[start : start + int(rng.integers(1, 6))], rng)
        labels[_outline(field > 0)] = 0
    return labels


def _draw_person(rng: np.random.Generator, size: int, count: int) -> np.ndarray:
    colours = np.arange(count - 1)
    x, y = _grid(size)
    labels = np.full((size, size), count - 1)
    skin, cloth = rng.integers(1, max(2, count - 3), 2)
    limbs = [
        (0.0, 0.0, 0.3, 0.55, cloth),
        (0.0, -0.55, 0.28, 0.3, skin),
        (0.13, 0.7, 0.11, 0.25, skin),
        (-0.13, 0.7, 0.11, 0.25, skin),
    ]
    limbs += [(0.38, 0.0, 0.09, 0.38, cloth), (-0.38, 0.0, 0.09, 0.38, cloth), (0.0, -0.75, 0.3, 0.15, int(rng.choice(colours)))]
    for cx, cy, w, h, start in limbs:
        field = 1 - ((x - cx) / w) ** 4 - ((y - cy) / h) ** 4
        _paint(labels, field > 0, field, colours[start : start + int(rng.integers(2, 5))], rng)
        labels[_outline(field > 0)] = 0
    for sign in (-1, 1):
        labels[int(size * 0.22), int(size * (0.5 + sign * 0.07))] = int(rng.choice(colours))
    return labels


def _draw_tile(rng: np.random.Generator, size: int, count: int) -> np.ndarray:
    cell_h, cell_w = rng.integers(4, 12, 2)
    rows, columns = np.indices((size, size))
    offset = (rows // cell_h % 2) * (cell_w // 2)
    seam = (rows % cell_h == 0) | ((columns + offset) % cell_w == 0)
    stone = rng.integers(0, count, (size + 2, size + 2))[rows // cell_h, (columns + offset) // cell_w]
    labels = np.where(seam, 0, stone)
    specks = rng.random((size, size)) < 0.08
    labels[specks] = rng.integers(0, count, specks.sum())
    return labels


def _draw_scene(rng: np.random.Generator, size: int, count: int) -> np.ndarray:
    """Sky bands with dithered borders, hills, a sun and trees."""
    x, y = _grid(size)
    checker = np.indices((size, size)).sum(axis=0) % 2 - 0.5
    labels = np.clip(((y + 1) / 2 * (count // 2) + checker * 0.3).astype(int), 0, count // 2)
    for i in range(3):
        ridge = 0.2 + 0.25 * i + 0.2 * np.sin(x * rng.uniform(1, 6) + rng.uniform(0, 6)) + rng.normal(0, 0.02, size)[None]
        labels[y > ridge] = count // 2 + i % max(1, count - count // 2)
    labels[(x - rng.uniform(-0.6, 0.6)) ** 2 + (y + 0.5) ** 2 < 0.05] = count - 1
    for ty, tx in np.argwhere((rng.random((size, size)) < 0.01) & (y > 0)):
        labels[max(0, ty - 3) : ty, tx : tx + 1] = int(rng.integers(count))
    return labels


def draw_sprite(rng: np.random.Generator, size: int, count: int, kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw (labels, palette, sprite mask) of one native picture; label 0 is the outline, the last one the background."""
    palette = make_palette(rng, count)
    draw = {"item": _draw_item, "person": _draw_person, "tile": _draw_tile, "scene": _draw_scene}
    if kind in draw:
        labels = draw[kind](rng, size, count)
    else:
        labels = _draw_creature(rng, size, count, sparse=kind == "sparse")
    used, labels = np.unique(labels, return_inverse=True)
    labels = labels.reshape(size, size)
    sprite = np.ones((size, size), bool) if kind in ("tile", "scene") else used[labels] != count - 1
    return labels, palette[used], sprite


def _line_positions(rng: np.random.Generator, count: int, pitch: float, start: float, damage: Damage) -> np.ndarray:
    """Cell borders in px: even spacing, a slow wave and a jitter of each line, all in shares of a cell."""
    index = np.arange(count + 1)
    wave = sum(
        rng.normal() * np.sin(2 * math.pi * (index / count * cycles + rng.random())) / math.sqrt(cycles)
        for cycles in (0.7, 1.6, 3.1)
    )
    wave = wave / (np.abs(wave).max() + 1e-9) * damage.wave_drift * rng.random()
    jitter = rng.normal(0, 1, count + 1) * damage.line_drift
    return start + pitch * (index + wave + jitter)


def _blur(pixels: np.ndarray, sigma: float) -> np.ndarray:
    if sigma <= 0:
        return pixels
    size = pixels.shape[0]
    frequency = np.fft.rfftfreq(2 * size)
    kernel = np.exp(-2 * (math.pi * frequency * sigma) ** 2).astype(np.float32)
    for axis in (0, 1):
        moved = np.moveaxis(pixels, axis, -1)
        mirrored = np.concatenate([moved, moved[..., ::-1]], axis=-1)
        moved = np.fft.irfft(np.fft.rfft(mirrored) * kernel, n=2 * size)[..., :size]
        pixels = np.moveaxis(moved, -1, axis)
    return pixels.astype(np.float32)


def damage_sprite(
    rng: np.random.Generator, native: np.ndarray, pitch: float, start: tuple[float, float], level: Level, canvas: int = CANVAS
) -> np.ndarray:
    """Draw native colours (h, w, 3) on a square canvas with the level's damage, uint8."""
    damage = DAMAGE[level]
    height, width = native.shape[:2]
    columns = _line_positions(rng, width, pitch, start[0], damage)
    rows = _line_positions(rng, height, pitch, start[1], damage)
    fine = (np.arange(2 * canvas) + 0.5) / 2
    x = np.clip(np.searchsorted(columns, fine) - 1, 0, width - 1)
    y = np.clip(np.searchsorted(rows, fine) - 1, 0, height - 1)
    wide = native.astype(np.float32)[:, x].reshape(height, canvas, 2, 3).mean(axis=2)
    pixels = wide[y].reshape(canvas, 2, canvas, 3).mean(axis=1)
    sigma = rng.uniform(*damage.blur) * pitch
    pixels = _blur(pixels, sigma)
    halo = rng.uniform(*damage.halo)
    if halo > 0.02:
        pixels = pixels + halo * (pixels - _blur(pixels, max(1.0, 0.25 * pitch)))
    coarse = rng.normal(0, damage.wobble, (int(rng.integers(4, 24)),) * 2 + (3,))
    coarse = np.stack(
        [
            np.asarray(Image.fromarray(coarse[..., c].astype(np.float32)).resize((canvas, canvas), Image.Resampling.BICUBIC))
            for c in range(3)
        ],
        -1,
    )
    pixels = pixels + coarse
    noise = rng.uniform(*damage.noise)
    grain = rng.normal(0, noise, (canvas, canvas, 3)).astype(np.float32)
    if rng.random() < 0.5:
        grain = _blur(grain, 0.7) * 2.0  # noise of a decoder is not white
    picture = Image.fromarray(np.clip(np.rint(pixels + grain), 0, 255).astype(np.uint8))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=int(rng.integers(*damage.jpeg)), subsampling=int(rng.choice([0, 2])))
    return np.asarray(Image.open(buffer).convert("RGB"))


SIZES = (32, 32, 36, 40, 48, 48, 48, 50, 56, 64, 64, 64, 72, 80, 96, 96, 112, 128, 128)
KINDS = ("creature", "creature", "sparse", "item", "person", "tile", "scene")


def make_case(seed: int, level: Level, *, kind: str | None = None, size: int | None = None, mode: str | None = None) -> Case:
    """One case; the same seed draws the same sprite at every level."""
    rng = np.random.default_rng([seed, 1])
    kind = kind or str(rng.choice(KINDS))
    size = size or int(rng.choice(SIZES))
    mode = mode or ("full" if rng.random() < 0.5 else "window")
    labels, palette, sprite = draw_sprite(rng, size, int(rng.integers(8, 33)), kind)
    rng = np.random.default_rng([seed, 2, LEVELS.index(level)])
    pitch, start = CANVAS / size, (0.0, 0.0)
    if mode == "window":
        # the canvas shows a little less or more than the sprite, at any phase
        pitch *= rng.uniform(0.94, 1.06)
        pad = max(1, math.ceil(size * 0.08))
        edge_value = labels[0, 0] if not sprite[0, 0] else -1
        labels = np.pad(labels, pad, mode="edge") if edge_value < 0 else np.pad(labels, pad, constant_values=edge_value)
        sprite = np.pad(sprite, pad, mode="edge") if edge_value < 0 else np.pad(sprite, pad)
        free = (CANVAS - pitch * labels.shape[0]) / 2
        start = (free + rng.uniform(-0.5, 0.5) * pitch, free + rng.uniform(-0.5, 0.5) * pitch)
    picture = damage_sprite(rng, palette[labels], pitch, start, level)
    return Case(picture, labels, palette, sprite, CANVAS / pitch, mode, level, kind)
