"""A procedural generator of 32x32 game sprites and of the captions that people would prompt them with.

Every sprite is a subject (24) in a main colour (10), drawn from shapes with its own pose, light, outline, number of tones
and plain background. All randomness comes from one numpy Generator, so a seed names a sprite. `python sprites.py OUT.png`
draws a contact sheet of every subject and colour.
"""

import argparse
import colorsys
import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SIZE = 32
Mask = NDArray[np.bool_]
Ramp = tuple[tuple[int, int, int], ...]  # outline, shadow, base, light, highlight

# Hue in degrees, saturation, value of the middle tone.
COLOURS = {
    "red": (358, 0.80, 0.84),
    "orange": (26, 0.86, 0.95),
    "yellow": (50, 0.78, 0.97),
    "green": (118, 0.62, 0.70),
    "cyan": (183, 0.62, 0.86),
    "blue": (222, 0.74, 0.86),
    "purple": (274, 0.60, 0.74),
    "pink": (330, 0.46, 0.97),
    "white": (220, 0.05, 0.93),
    "black": (240, 0.18, 0.28),
}
WOOD, STEEL, GOLD = (27, 0.58, 0.58), (212, 0.13, 0.72), (44, 0.72, 0.90)
SKIN, BONE, LEATHER = (27, 0.38, 0.94), (45, 0.13, 0.93), (18, 0.50, 0.42)
LEAF, DARK, GLASS = (112, 0.55, 0.55), (240, 0.25, 0.20), (205, 0.16, 0.92)
# Name of the tone, then the colours that a background of this tone can have.
BACKGROUNDS = {
    "white": [(255, 255, 255), (250, 250, 250), (244, 244, 244)],
    "light": [(226, 230, 236), (240, 233, 216), (214, 226, 240), (218, 234, 218), (236, 222, 234)],
    "dark": [(28, 28, 36), (16, 16, 20), (44, 46, 58), (34, 40, 60), (52, 44, 52), (30, 46, 46)],
    "grey": [(128, 130, 136), (150, 152, 156), (104, 108, 118)],
}


def ramp(hsv: tuple[float, float, float], rng: np.random.Generator | None = None) -> Ramp:
    """Five tones around a colour: shadows turn towards blue, lights towards yellow, as painters of sprites do."""
    hue, saturation, value = hsv
    if rng is not None:
        hue += rng.uniform(-5, 5)
        saturation = min(1.0, saturation * rng.uniform(0.9, 1.08))
        value = min(1.0, value * rng.uniform(0.93, 1.05))

    def tone(shift: float, s: float, v: float) -> tuple[int, int, int]:
        r, g, b = colorsys.hsv_to_rgb(((hue + shift) % 360) / 360, min(1.0, saturation * s), min(1.0, v))
        return round(255 * r), round(255 * g), round(255 * b)

    cold = 7 if 60 <= hue <= 240 else -7
    lift = 0.16 if value < 0.4 else 0.0  # dark materials need lighter lights to show their form
    return (
        tone(2 * cold, 1.1, value * 0.30),
        tone(cold, 1.08, value * 0.68),
        tone(0, 1.0, value),
        tone(-cold, 0.72, value + 0.12 + lift),
        tone(-cold, 0.28, value + 0.34 + lift),
    )


@dataclass
class Canvas:
    """A 32x32 picture under construction; shapes are given in pixels from the centre, x to the right, y down."""

    rng: np.random.Generator
    light_x: float
    tones: int
    angle: float = 0.0
    scale: float = 1.0
    stretch: float = 1.0
    flip: bool = False
    shift: tuple[int, int] = (0, 0)
    pixels: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((SIZE, SIZE, 3), np.uint8))
    painted: Mask = field(default_factory=lambda: np.zeros((SIZE, SIZE), bool))

    def place(self) -> None:
        """Compute the object coordinates of every pixel from angle, scale, stretch, flip and shift."""
        y, x = np.mgrid[:SIZE, :SIZE].astype(np.float32) - (SIZE - 1) / 2
        x, y = x - self.shift[0], y - self.shift[1]
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        x, y = cos * x + sin * y, cos * y - sin * x
        self.x = x * (-1 if self.flip else 1) / self.scale * self.stretch
        self.y = y / self.scale / self.stretch
        # Light from above, turned into object coordinates so that a tilted sword is still lit from above.
        light_x, light_y = cos * self.light_x - sin * 0.75, cos * -0.75 - sin * self.light_x
        self.light = (light_x * (-1 if self.flip else 1), light_y)

    def ellipse(self, cx: float, cy: float, rx: float, ry: float) -> Mask:
        return ((self.x - cx) / rx) ** 2 + ((self.y - cy) / ry) ** 2 <= 1

    def box(self, x0: float, y0: float, x1: float, y1: float) -> Mask:
        return (self.x >= x0) & (self.x <= x1) & (self.y >= y0) & (self.y <= y1)

    def polygon(self, *points: tuple[float, float]) -> Mask:
        """Even-odd fill of the closed polygon through `points`."""
        p = np.asarray(points, np.float32)
        q = np.roll(p, -1, axis=0)
        x0, y0, x1, y1 = (a[:, None, None] for a in (p[:, 0], p[:, 1], q[:, 0], q[:, 1]))
        rise = np.where(y1 == y0, 1e-6, y1 - y0)
        crosses = ((y0 > self.y) != (y1 > self.y)) & (self.x < (x1 - x0) * (self.y - y0) / rise + x0)
        return np.logical_xor.reduce(crosses, axis=0)

    def mirrored(self, *points: tuple[float, float]) -> Mask:
        """Polygon through `points` on the right side and their mirror images on the left."""
        return self.polygon(*points, *((-x, y) for x, y in reversed(points)))

    def line(self, x0: float, y0: float, x1: float, y1: float, width: float) -> Mask:
        dx, dy = x1 - x0, y1 - y0
        t = np.clip(((self.x - x0) * dx + (self.y - y0) * dy) / (dx * dx + dy * dy), 0, 1)
        return (self.x - x0 - t * dx) ** 2 + (self.y - y0 - t * dy) ** 2 <= (width / 2) ** 2

    def round_shade(self, cx: float, cy: float, rx: float, ry: float) -> NDArray[np.float32]:
        """Brightness -1..1 of a lit ellipsoid."""
        nx, ny = (self.x - cx) / rx, (self.y - cy) / ry
        nz = np.sqrt(np.clip(1 - nx * nx - ny * ny, 0, 1))
        return (0.75 * (self.light[0] * nx + self.light[1] * ny) + 0.55 * nz).astype(np.float32)

    def slope_shade(self, cx: float, cy: float, reach: float) -> NDArray[np.float32]:
        """Brightness -1..1 falling linearly away from the light."""
        return ((self.light[0] * (self.x - cx) + self.light[1] * (self.y - cy)) / reach + 0.15).astype(np.float32)

    def paint(self, mask: Mask, colours: Ramp, shade: NDArray[np.float32] | float = 0.2, edge: bool = True) -> None:
        """Fill `mask` with the tones of `colours` that `shade` asks for; `edge` separates it from what lies beneath."""
        if edge:
            beneath = grow(mask) & self.painted & ~mask
            self.pixels[beneath] = colours[0]
        level = np.full(mask.shape, 2)
        if self.tones == 2:
            level = np.where(np.asarray(shade) < 0.05, 1, 2)
        elif self.tones == 3:
            level = np.where(np.asarray(shade) < -0.05, 1, np.where(np.asarray(shade) > 0.62, 3, 2))
        elif self.tones == 4:
            level = np.where(
                np.asarray(shade) < 0.0, 1, np.where(np.asarray(shade) > 0.80, 4, np.where(np.asarray(shade) > 0.5, 3, 2))
            )
        table = np.asarray(colours, np.uint8)
        self.pixels[mask] = table[np.broadcast_to(level, mask.shape)[mask]]
        self.painted |= mask

    def spot(self, x: float, y: float, width: int, height: int, colour: tuple[int, int, int]) -> None:
        """Fill a block of whole pixels whose middle is at an object position, straight even on a tilted object."""
        x, y = x * self.scale / self.stretch * (-1 if self.flip else 1), y * self.scale * self.stretch
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        column = round(cos * x - sin * y + self.shift[0] + SIZE / 2 - width / 2)
        row = round(sin * x + cos * y + self.shift[1] + SIZE / 2 - height / 2)
        self.pixels[max(row, 0) : row + height, max(column, 0) : column + width] = colour
        self.painted[max(row, 0) : row + height, max(column, 0) : column + width] = True

    def eyes(
        self, y: float, apart: float, height: int = 3, gap_x: float = 0.0, colour: tuple[int, int, int] = (24, 20, 32)
    ) -> None:
        """Two dark eyes with a glint."""
        for side in (-1, 1):
            x = gap_x + side * apart
            self.spot(x, y, 2, height, colour)
            self.spot(x - 0.5, y - height / 2 + 0.5, 1, 1, (255, 255, 255))


def grow(mask: Mask) -> Mask:
    """The mask and its four neighbours."""
    out = mask.copy()
    out[1:] |= mask[:-1]
    out[:-1] |= mask[1:]
    out[:, 1:] |= mask[:, :-1]
    out[:, :-1] |= mask[:, 1:]
    return out


def slime(c: Canvas, main: Ramp) -> None:
    c.stretch = c.rng.uniform(0.9, 1.12)
    c.place()
    dome = c.ellipse(0, 3, 11.5, 11.5) & (c.y < 4) | c.ellipse(0, 4, 12.5, 5.5)
    if c.rng.random() < 0.35:
        dome |= c.polygon((-3.5, -6), (0.5, -13), (3.5, -6))
    c.paint(dome, main, c.round_shade(0, 2, 13, 12))
    mood = c.rng.integers(3)
    c.eyes(1, 4, height=4 if mood == 2 else 3)
    if mood == 0:
        c.spot(0, 5, 4, 1, main[0])
    elif mood == 1:
        c.spot(0, 5, 2, 2, main[0])
    c.spot(-5.5, -4, 3, 2, main[4])
    c.spot(-7.5, -1, 1, 2, main[4])


def sword(c: Canvas, main: Ramp) -> None:
    c.angle = c.rng.choice([0.0, 0.785, 0.785, -0.785, 0.35])
    c.place()
    metal = ramp(GOLD if c.rng.random() < 0.6 else STEEL)
    half = c.rng.choice([2.0, 2.6])
    blade = c.mirrored((0, -15.5), (half, -12.5), (half, 5))
    c.paint(blade, main, np.where(c.x * np.sign(c.light[0] or 1) > 0, 0.7, -0.2).astype(np.float32))
    c.paint(c.box(-0.7, -11, 0.7, 4), main, 0.9, edge=False)
    c.paint(c.line(0, 6, 0, 12, 3), ramp(LEATHER), c.slope_shade(0, 9, 3))
    guard = c.rng.choice([5.5, 6.5])
    c.paint(
        c.box(-guard, 4.2, guard, 6.8) | c.ellipse(-guard, 5.5, 1.8, 1.8) | c.ellipse(guard, 5.5, 1.8, 1.8),
        metal,
        c.slope_shade(0, 5.5, 6),
    )
    c.paint(c.ellipse(0, 13, 2.3, 2.3), metal, c.round_shade(0, 13, 2.5, 2.5))


def potion(c: Canvas, main: Ramp) -> None:
    kind = c.rng.integers(3)
    c.angle = c.rng.uniform(-0.15, 0.15)
    c.place()
    glass = ramp(GLASS)
    if kind == 0:
        body, liquid = c.ellipse(0, 4.5, 10, 9.5), c.ellipse(0, 4.5, 8.6, 8.1)
    elif kind == 1:
        body, liquid = c.mirrored((2.6, -6), (10.5, 11), (9, 13.6)), c.mirrored((2.5, -3), (8.8, 10.8), (8, 12.3))
    else:
        body, liquid = c.box(-7.5, -4, 7.5, 13.5), c.box(-6.2, -2.5, 6.2, 12.2)
    c.paint(body | c.box(-2.8, -9.5, 2.8, -2), glass, 0.3)
    level = c.rng.uniform(-3, 0)
    c.paint(liquid & (c.y > level), main, c.round_shade(0, 4.5, 10.5, 10), edge=False)
    c.paint(liquid & (c.y > level) & (c.y < level + 1.3), main, 0.9, edge=False)
    c.paint(c.box(-4.2, -10.6, 4.2, -8.4), glass, 0.6)
    c.paint(c.box(-2.3, -14.4, 2.3, -10.4), ramp(WOOD), c.slope_shade(0, -12, 3))
    c.spot(-5, 3, 2, 4, main[4])
    c.spot(-4, 7, 1, 1, main[4])
    for _ in range(c.rng.integers(1, 4)):
        c.spot(c.rng.uniform(-2, 5), c.rng.uniform(3, 10), 1, 1, main[3])


def knight(c: Canvas, main: Ramp) -> None:
    c.place()
    steel, dark = ramp(STEEL), ramp(DARK)
    step = c.rng.choice([-1, 0, 1])
    for side in (-1, 1):
        c.paint(c.box(side * 3 - 2.2, 7, side * 3 + 2.2, 13.5 - (side == step)), steel, c.slope_shade(0, 10, 5))
    if c.rng.random() < 0.8:
        c.paint(c.line(10.5, 9, 10.5, -7, 2.2), steel, 0.6)
        c.paint(c.box(8.2, 4.5, 13, 6.2), ramp(GOLD), 0.2)
    c.paint(c.ellipse(-7.5, 2, 2.8, 4.2) | c.ellipse(7.5, 2, 2.8, 4.2), main, c.round_shade(0, 0, 9, 6))
    c.paint(c.mirrored((6.5, -1.5), (6, 8.5)), main, c.round_shade(0, 3, 8, 8))
    c.paint(c.box(-6, 6.5, 6, 8.2), ramp(LEATHER), 0.2, edge=False)
    if c.rng.random() < 0.6:
        c.paint(c.ellipse(-8, 4, 4, 5), main, c.round_shade(-8, 4, 4.5, 5.5))
        c.paint(c.box(-8.6, 0.5, -7.4, 7.5) | c.box(-11, 3.4, -5, 4.6), ramp(GOLD), 0.3, edge=False)
    c.paint(c.ellipse(0, -6, 6.6, 6.4) & (c.y < -1), main, c.round_shade(0, -6, 7, 6.8))
    c.paint(c.box(-4.6, -6.6, 4.6, -4.2), dark, 0.0, edge=False)
    c.spot(-2.3, -5.4, 1, 1, (255, 240, 190))
    c.spot(2.3, -5.4, 1, 1, (255, 240, 190))
    if c.rng.random() < 0.6:
        c.paint(c.polygon((-1.5, -11.5), (2, -15), (7.5, -13.5), (8, -9.5), (4.5, -11.5), (1.5, -11)), main, 0.75)


def tree(c: Canvas, main: Ramp) -> None:
    c.stretch = c.rng.uniform(0.94, 1.08)
    c.place()
    c.paint(c.mirrored((2.4, 3), (2.6, 11), (5, 14.2)), ramp(WOOD), c.slope_shade(0, 8, 4))
    if c.rng.random() < 0.4:
        for top, bottom, half in ((-3, 9, 11), (-8.5, 3.5, 9), (-14.5, -2.5, 6.8)):
            c.paint(c.mirrored((0, top - 1), (half, bottom)), main, c.slope_shade(0, (top + bottom) / 2 + 1, 9))
    else:
        blobs = [(0, -7.5, 8, 7), (-6.5, -1.5, 6.5, 5.5), (6.5, -1.5, 6.5, 5.5), (0, 1, 7, 5)]
        for cx, cy, rx, ry in reversed(blobs):
            c.paint(c.ellipse(cx, cy, rx, ry), main, c.round_shade(cx * 0.6, cy - 0.5, rx + 2.5, ry + 2.5), edge=False)
        for _ in range(5):
            c.spot(c.rng.uniform(-9, 9), c.rng.uniform(-10, 2), 2, 1, main[c.rng.choice([1, 3])])


def chest(c: Canvas, main: Ramp) -> None:
    c.place()
    gold = ramp(GOLD if c.rng.random() < 0.75 else STEEL)
    opened = c.rng.random() < 0.35
    lid_y = -5.5 if opened else -1.5
    if opened:
        c.paint(c.ellipse(0, lid_y, 12, 6.5) & (c.y < lid_y + 1), main, c.slope_shade(0, lid_y - 2, 7))
        c.paint(c.box(-11, lid_y - 1, 11, 1), ramp(DARK), 0.0, edge=False)
        c.paint(c.ellipse(0, 1.5, 9, 5), ramp(GOLD), c.round_shade(0, 1, 9, 6), edge=False)
    else:
        c.paint(c.ellipse(0, -1, 12, 8.5) & (c.y < 0), main, c.slope_shade(0, -4, 7))
        for x in (-9, 9):
            c.paint(c.ellipse(0, -1, 12, 8.5) & (c.y < 0) & (abs(c.x - x) < 1.3), gold, 0.4, edge=False)
    c.paint(c.box(-12, 0, 12, 11.5), main, c.slope_shade(0, 5, 11))
    for y in (4, 8):
        c.paint(c.box(-12, y - 0.5, 12, y + 0.5), main, -1.0, edge=False)
    for x in (-9, 9):
        c.paint(c.box(x - 1.3, 0, x + 1.3, 11.5), gold, 0.4, edge=False)
    c.paint(c.box(-12, -0.6, 12, 1.4), gold, c.slope_shade(0, 1, 12), edge=False)
    c.paint(c.box(-2.6, -1.5, 2.6, 4.5), gold, 0.7)
    c.spot(0, 1.5, 1, 2, (32, 24, 24))


def shield(c: Canvas, main: Ramp) -> None:
    c.angle = c.rng.uniform(-0.12, 0.12)
    c.place()
    rim = ramp(GOLD if c.rng.random() < 0.5 else STEEL)
    if c.rng.random() < 0.3:
        outer, inner = c.ellipse(0, 0, 13, 13), c.ellipse(0, 0, 10.4, 10.4)
    else:
        outer = c.mirrored((0, -13), (11, -11.5), (11.5, -2), (8, 7.5), (0, 14))
        inner = c.mirrored((0, -10.6), (8.6, -9.4), (9, -2), (6.2, 6), (0, 11.2))
    c.paint(outer, rim, c.round_shade(0, 0, 14, 14))
    c.paint(inner, main, c.round_shade(0, -1, 13, 14), edge=False)
    emblem = c.rng.integers(4)
    if emblem == 0:
        c.paint(c.box(-1.5, -8, 1.5, 8) & inner | c.box(-7, -3.5, 7, -0.6) & inner, rim, 0.5)
    elif emblem == 1:
        c.paint(c.ellipse(0, -1, 3.4, 3.4), rim, c.round_shade(0, -1, 3.6, 3.6))
    elif emblem == 2:
        c.paint(inner & (c.x * (1 if c.rng.random() < 0.5 else -1) > 0), main, -0.6, edge=False)
        c.paint(c.ellipse(0, -1, 2.4, 2.4), rim, 0.6)
    c.spot(-5.5, -7, 2, 2, main[4])


def mushroom(c: Canvas, main: Ramp) -> None:
    c.stretch = c.rng.uniform(0.94, 1.08)
    c.place()
    bone = ramp(BONE)
    c.paint(c.ellipse(0, 9, 5.2, 4.5) | c.box(-4, 0, 4, 9), bone, c.slope_shade(0, 6, 7))
    cap = c.ellipse(0, 0, 13, 12.5) & (c.y < 1) | c.ellipse(0, 0.5, 13, 3.2)
    c.paint(cap, main, c.round_shade(0, -1, 14, 13))
    spots = [(-6.5, -4, 2.4), (1, -8, 2.6), (7, -3.5, 2.2), (-0.5, -1.5, 1.8)]
    for x, y, r in spots[: c.rng.integers(2, 5)]:
        c.paint(c.ellipse(x, y, r, r * 0.9) & cap, bone, 0.6, edge=False)
    if c.rng.random() < 0.5:
        c.eyes(6.5, 2.2, height=2)


def skull(c: Canvas, main: Ramp) -> None:
    c.place()
    hole = tuple(np.asarray(main[0]) // 2) if main[2] != main[0] else (16, 12, 20)
    jaw = c.box(-5.5, 5, 5.5, 11.5 + c.rng.integers(2))
    c.paint(jaw, main, c.slope_shade(0, 6, 9))
    c.paint(c.ellipse(0, -2.5, 11, 10.5), main, c.round_shade(0, -3, 12, 11.5), edge=False)
    size = c.rng.choice([3.0, 3.5])
    socket = (hole,) * 5
    for side in (-1, 1):
        c.paint(c.ellipse(side * 4.8, -0.5, size, size + 0.3), socket, edge=False)
        if c.rng.random() < 0.25:
            c.spot(side * 4.8, -0.5, 2, 2, (230, 60, 50))
    c.paint(c.mirrored((0, 2.8), (1.8, 6)), socket, edge=False)
    for x in (-3, 0, 3):
        c.paint(c.box(x - 0.5, 8.2, x + 0.5, 12.6), socket, edge=False)
    c.spot(-5, -8.5, 3, 1, main[4])


def key(c: Canvas, main: Ramp) -> None:
    c.angle = c.rng.choice([0.0, 0.785, -0.785, 1.571])
    c.place()
    round_bow = c.rng.random() < 0.6
    outer = c.ellipse(0, -8, 6.3, 6.3) if round_bow else c.mirrored((0, -15), (6.5, -8), (0, -1))
    inner = c.ellipse(0, -8, 2.8, 2.8) if round_bow else c.mirrored((0, -11), (2.7, -8), (0, -5))
    shaft = c.box(-1.6, -2.5, 1.6, 14.5)
    teeth = c.box(1.6, 11.5, 6.2, 14.5) | c.box(1.6, 6.6, 5.2, 9.2)
    if c.rng.random() < 0.4:
        teeth |= c.box(1.6, 2.4, 4.2, 4.6)
    mask = (outer | shaft | teeth) & ~inner
    shade = np.where(c.y < -2, c.round_shade(0, -8, 7, 7), c.slope_shade(0, 6, 6))
    c.paint(mask, main, shade.astype(np.float32))
    c.paint(c.box(-2.8, -2.2, 2.8, -0.2), main, 0.7)


def heart(c: Canvas, main: Ramp) -> None:
    c.stretch = c.rng.uniform(0.94, 1.08)
    c.angle = c.rng.uniform(-0.1, 0.1)
    c.place()
    mask = c.ellipse(-5.7, -4.5, 6.6, 6.6) | c.ellipse(5.7, -4.5, 6.6, 6.6) | c.mirrored((0, -4), (11.6, -1.8), (0, 12.5))
    c.paint(mask, main, c.round_shade(0, -1, 13.5, 13))
    if c.rng.random() < 0.3:
        for x, y in ((-1, -4), (1, -2), (-1.5, 0.5), (0.5, 3), (-0.5, 5.5)):
            c.spot(x, y, 2, 2, main[0])
    c.spot(-6.5, -6.5, 3, 2, main[4])
    c.spot(-8.5, -4, 1, 2, main[4])


def gem(c: Canvas, main: Ramp) -> None:
    c.angle = c.rng.uniform(-0.1, 0.1)
    c.place()
    bright = (main[0], main[2], main[3], main[4], main[4])
    if c.rng.random() < 0.6:
        c.paint(c.mirrored((6, -10), (12, -3.5), (0, 13)), main, 0.2)
        c.paint(c.polygon((-12, -3.5), (-5, -3.5), (0, 13)), main, -0.5 if c.light[0] > 0 else 0.55, edge=False)
        c.paint(c.polygon((12, -3.5), (5, -3.5), (0, 13)), main, 0.55 if c.light[0] > 0 else -0.5, edge=False)
        c.paint(c.mirrored((6, -10), (12, -3.5)), bright, 0.2, edge=False)
        c.paint(c.mirrored((0, -10), (4.5, -3.5)), bright, 0.9, edge=False)
    else:
        c.paint(c.mirrored((0, -13.5), (8.5, -6), (8.5, 6), (0, 13.5)), main, 0.2)
        c.paint(c.polygon((0, -13.5), (-8.5, -6), (-4, -3)), bright, 0.6, edge=False)
        c.paint(c.polygon((-8.5, -6), (-8.5, 6), (-4, 3.5), (-4, -3)), bright, 0.2, edge=False)
        c.paint(c.polygon((8.5, -6), (8.5, 6), (4, 3.5), (4, -3)), main, -0.5, edge=False)
        c.paint(c.mirrored((0, 13.5), (8.5, 6), (4, 3.5)) & (c.y > 3), main, -0.5, edge=False)
    c.spot(-3.5, -6, 2, 2, (255, 255, 255))


def ghost(c: Canvas, main: Ramp) -> None:
    c.place()
    wave = 10.5 + 1.8 * np.sin(c.x * 0.9 + c.rng.uniform(0, 6.3))
    body = (c.ellipse(0, -3.5, 10, 10.5) & (c.y < -2)) | (c.box(-10, -3, 10, 14) & (c.y < wave))
    if c.rng.random() < 0.5:
        body |= c.ellipse(-10.5, 3, 3, 2.4) | c.ellipse(10.5, 3, 3, 2.4)
    c.paint(body, main, c.round_shade(0, -1, 12.5, 15))
    c.eyes(-3, 3.6, height=4)
    kind = c.rng.integers(3)
    if kind == 0:
        c.spot(0, 3, 3, 3, (40, 24, 44))
    elif kind == 1:
        c.spot(0, 2.5, 4, 1, (40, 24, 44))


def bat(c: Canvas, main: Ramp) -> None:
    c.place()
    lift = c.rng.choice([-5.0, 0.0, 4.0])
    for side in (-1, 1):
        wing = c.polygon(
            (side * 3, -3), (side * 8, -6 + lift), (side * 15, -2 + lift), (side * 13.5, 6 + lift * 0.6),
            (side * 11, 2.5 + lift * 0.5), (side * 8.5, 7 + lift * 0.3), (side * 6, 3.5), (side * 3, 6),
        )  # fmt: skip
        c.paint(wing, main, c.slope_shade(side * 6, lift, 12) - 0.25)
        c.paint(c.line(side * 4, -2, side * 13, -2 + lift, 1.2) & wing, main, -0.8, edge=False)
    c.paint(c.polygon((-4.5, -4), (-4.8, -11.5), (-0.8, -6)) | c.polygon((4.5, -4), (4.8, -11.5), (0.8, -6)), main, -0.2)
    c.paint(c.ellipse(0, 0, 6, 7), main, c.round_shade(0, -0.5, 6.5, 7.5))
    glow = [(255, 230, 90), (255, 80, 70), (255, 255, 255)][c.rng.integers(3)]
    for side in (-1, 1):
        c.spot(side * 2.4, -1.5, 2, 2, glow)
        c.spot(side * 2.0, -1.0, 1, 1, (24, 16, 28))
        c.spot(side * 1.4, 3, 1, 2, (255, 255, 255))


def axe(c: Canvas, main: Ramp) -> None:
    c.angle = c.rng.choice([0.0, 0.5, 0.785, -0.5])
    c.place()
    c.paint(c.line(0, -12, 0, 14, 3), ramp(WOOD), c.slope_shade(0, 0, 4))
    blade = c.polygon((1, -10), (5, -11.5), (9, -14.5), (12, -9), (12.4, -4), (9.5, 2), (5, -2), (1, -3))
    double = c.rng.random() < 0.45
    if double:
        blade |= c.polygon((-1, -10), (-5, -11.5), (-9, -14.5), (-12, -9), (-12.4, -4), (-9.5, 2), (-5, -2), (-1, -3))
    c.paint(blade, main, c.slope_shade(3, -6, 12))
    c.paint(blade & (abs(c.x) > 9.2), main, 0.9, edge=False)
    c.paint(c.box(-2.4, -11, 2.4, -2.4), ramp(STEEL), c.slope_shade(0, -7, 5))
    c.paint(c.ellipse(0, 14, 2, 1.6), ramp(GOLD), 0.4)


def helmet(c: Canvas, main: Ramp) -> None:
    c.place()
    gold = ramp(GOLD if c.rng.random() < 0.7 else STEEL)
    horns = c.rng.random() < 0.4
    if horns:
        for side in (-1, 1):
            horn = c.polygon((side * 8, -6), (side * 14, -8), (side * 14.5, -14.5), (side * 11.5, -10.5), (side * 8, -10))
            c.paint(horn, ramp(BONE), c.slope_shade(side * 11, -10, 5))
    else:
        c.paint(c.ellipse(0, -8.5, 3.2, 6) | c.polygon((0, -14.4), (9, -14), (11.5, -8), (6.5, -10), (0, -9)), main, 0.7)
    dome = c.ellipse(0, 0, 11, 11) & (c.y < 2) | c.mirrored((11, 1), (10, 11.5), (5.2, 11.5), (4, 3)) & (abs(c.x) > 3.5)
    c.paint(dome, main, c.round_shade(0, 0, 12, 13))
    c.paint(c.box(-9, 0.5, 9, 4.5) | c.box(-3.8, 3, 3.8, 11), ramp(DARK), 0.0, edge=False)
    c.paint(c.box(-10.8, -1.4, 10.8, 1), gold, c.slope_shade(0, 0, 11), edge=False)
    c.paint(c.box(-1.5, -10 if horns else -8, 1.5, 8), gold, 0.4)
    if c.rng.random() < 0.5:
        c.spot(-5, 2.6, 2, 1, (255, 240, 190))
        c.spot(5, 2.6, 2, 1, (255, 240, 190))
    c.spot(-6, -5.5, 2, 2, main[4])


def fish(c: Canvas, main: Ramp) -> None:
    c.angle = c.rng.uniform(-0.25, 0.25)
    c.place()
    c.paint(c.polygon((6, 0), (14, -7.5), (12, 0), (14, 7.5)), main, c.slope_shade(10, 0, 9))
    c.paint(c.polygon((-4, -5), (1, -11), (6, -4)) | c.polygon((-2, 5), (2, 10.5), (5, 4)), main, -0.3)
    c.paint(c.ellipse(-2.5, 0, 11, 7.3), main, c.round_shade(-2.5, -0.5, 12, 8))
    belly = c.ellipse(-3.5, 3.6, 7.5, 3.2) & c.ellipse(-2.5, 0, 11, 7.3)
    if c.rng.random() < 0.6:
        c.paint(belly, ramp(BONE), 0.2, edge=False)
    if c.rng.random() < 0.5:
        for x in (-1.5, 3):
            c.paint(c.ellipse(-2.5, 0, 11, 7.3) & (abs(c.x - x) < 1.1) & (c.y < 5), main, -0.8, edge=False)
    c.paint(c.line(1, 1.5, 4, 3.5, 2.4), main, -0.3)
    c.spot(-8, -1.5, 3, 3, (255, 255, 255))
    c.spot(-8.5, -1.2, 2, 2, (24, 20, 32))
    c.spot(-12.2, 2, 2, 1, main[0])


def cat(c: Canvas, main: Ramp) -> None:
    c.place()
    bone = ramp(BONE)
    tail = c.rng.choice([-1.0, 1.0])
    c.paint(c.line(tail * 6, 11, tail * 11.5, 8, 3.4) | c.line(tail * 11.5, 8, tail * 11, 1, 3.2), main, 0.1)
    c.paint(c.ellipse(0, 8.5, 8, 6.5), main, c.round_shade(0, 7, 9, 8))
    c.paint(c.ellipse(0, 10, 3.6, 4.6), bone, 0.2, edge=False)
    for side in (-1, 1):
        c.paint(c.ellipse(side * 3.6, 13.2, 2.7, 1.9), main, 0.6)
        c.paint(c.polygon((side * 2.5, -8), (side * 9, -14.5), (side * 9.8, -4)), main, -0.1 * side)
        c.paint(c.polygon((side * 5, -8), (side * 8, -11.5), (side * 8.3, -6)), ramp((345, 0.4, 0.9)), 0.1, edge=False)
    c.paint(c.ellipse(0, -3.5, 10, 7.6), main, c.round_shade(0, -4, 11, 8.5))
    if c.rng.random() < 0.5:
        for x in (-2.5, 0, 2.5):
            c.spot(x, -8.5, 1, 3, main[1])
    c.paint(c.ellipse(0, 0.2, 4, 2.8), bone, 0.2, edge=False)
    eye = [(60, 190, 90), (240, 200, 60), (24, 20, 32)][c.rng.integers(3)]
    for side in (-1, 1):
        c.spot(side * 5, -4, 3, 3, eye)
        c.spot(side * 5, -4, 1, 3, (16, 14, 20))
    c.spot(0, -1, 2, 1, (230, 110, 130))


def crown(c: Canvas, main: Ramp) -> None:
    c.angle = c.rng.uniform(-0.12, 0.12)
    c.place()
    tall = c.rng.uniform(-11, -9)
    points = ((0, tall), (4, 0), (7.5, -4), (10.5, tall + 2), (12.5, tall + 2.5), (10.5, 9.5))
    c.paint(c.mirrored(*points), main, c.round_shade(0, 0, 14, 14))
    c.paint(c.mirrored((10.6, 4.4), (10.6, 10.4)), main, 0.7)
    jewel = [(225, 50, 60), (70, 130, 240), (60, 200, 110)][c.rng.integers(3)]
    for x in (-7, 0, 7):
        c.spot(x, 7.5, 3, 3, jewel)
        c.spot(x - 0.6, 6.6, 1, 1, (255, 255, 255))
    for x, y in ((0, tall), (-11.7, tall + 2), (11.7, tall + 2)):
        c.paint(c.ellipse(x, y, 1.9, 1.9), main, 0.85)


def book(c: Canvas, main: Ramp) -> None:
    c.angle = c.rng.uniform(-0.14, 0.14)
    c.place()
    gold = ramp(GOLD)
    c.paint(c.box(-9.5, -12, 11, 12.5), main, -0.6)
    c.paint(c.box(-8, 8, 10, 11.3), ramp(BONE), 0.2, edge=False)
    c.paint(c.box(-8, 9.2, 10, 9.9), ramp(BONE), -0.6, edge=False)
    c.paint(c.box(-10, -13, 10.5, 8), main, c.slope_shade(0, -2, 17))
    c.paint(c.box(-10, -13, -6.8, 11.8), main, -0.3, edge=False)
    for x, y in ((8.6, -11.2), (8.6, 6.2)):
        c.paint(c.box(x - 2, y - 1.8, x + 2, y + 1.8), gold, 0.5, edge=False)
    emblem = c.rng.integers(3)
    if emblem == 0:
        c.paint(c.ellipse(1.5, -2.5, 4, 4), gold, c.round_shade(1.5, -2.5, 4.4, 4.4))
    elif emblem == 1:
        c.paint(c.polygon((1.5, -8), (5.5, -2.5), (1.5, 3), (-2.5, -2.5)), gold, 0.5)
    else:
        c.paint(c.box(-3, -7.5, 6, -5.5) | c.box(-3, -3.5, 4, -2), gold, 0.3, edge=False)


def bomb(c: Canvas, main: Ramp) -> None:
    c.angle = c.rng.uniform(-0.2, 0.2)
    c.place()
    c.paint(c.line(4, -9, 7, -12.5, 1.8) | c.line(7, -12.5, 10.5, -12, 1.8), ramp(BONE), 0.1)
    c.paint(c.polygon((2.2, -9.5), (6.6, -7), (5, -4), (0.4, -6.2)), ramp(STEEL), 0.4)
    c.paint(c.ellipse(-1, 3, 10.5, 10.5), main, c.round_shade(-1, 3, 11.5, 11.5))
    c.spot(-5.5, -2, 3, 2, main[4])
    c.spot(-7.5, 1, 1, 2, main[4])
    c.spot(11.5, -12.5, 3, 3, (255, 150, 40))
    c.spot(11.5, -12.5, 1, 1, (255, 245, 170))
    if c.rng.random() < 0.3:
        c.eyes(3, 4)


def flower(c: Canvas, main: Ramp) -> None:
    c.place()
    leaf = ramp(LEAF)
    bend = c.rng.uniform(-2, 2)
    c.paint(c.line(0, -2, bend, 14, 2.2), leaf, 0.2)
    c.paint(
        c.polygon((0.5, 10), (4, 6), (9, 5.5), (6, 10)) | c.polygon((-0.5, 12), (-4, 8), (-9, 7.5), (-6, 12)),
        leaf,
        c.slope_shade(0, 8, 8),
    )
    petals = c.rng.integers(5, 7)
    start = c.rng.uniform(0, 6.3)
    for i in range(petals):
        a = start + 2 * np.pi * i / petals
        x, y = 5.6 * np.cos(a), -5.5 + 5.6 * np.sin(a)
        c.paint(c.ellipse(x, y, 4, 4), main, c.round_shade(x * 0.7, -5.5 + (y + 5.5) * 0.7, 6.5, 6.5))
    centre = ramp(GOLD if main[2][2] > 110 or main[2][1] < 130 else LEATHER)
    c.paint(c.ellipse(0, -5.5, 3.4, 3.4), centre, c.round_shade(0, -5.5, 3.8, 3.8))


def boot(c: Canvas, main: Ramp) -> None:
    c.place()
    sole, trim = ramp(LEATHER), ramp(GOLD if c.rng.random() < 0.5 else BONE)
    c.paint(c.box(-8, 9.2, 12, 12.6), sole, 0.2)
    shape = c.box(-7, -11, 2.4, 10) | c.ellipse(3.5, 6.2, 8.5, 5.2) & (c.y < 9.6)
    c.paint(shape, main, c.round_shade(-1, 1, 13, 15))
    c.paint(c.box(-8.4, -13, 3.6, -9), trim, c.slope_shade(-2, -11, 6))
    c.paint(c.box(-7, 1.2, 2.6, 3.4), trim, 0.2, edge=False)
    for y in (-6.5, -2.5):
        c.spot(1.5, y, 2, 1, trim[3])
    if c.rng.random() < 0.3:
        c.paint(c.polygon((-7, -3), (-13, -8), (-12, -3.5), (-13, 0), (-7, 2)), ramp(BONE), 0.4)


def wizard(c: Canvas, main: Ramp) -> None:
    c.place()
    gold = ramp(GOLD)
    c.paint(c.line(11, 14, 11, -7, 2), ramp(WOOD), 0.2)
    orb = [(120, 220, 255), (255, 120, 120), (160, 255, 140)][c.rng.integers(3)]
    c.paint(c.ellipse(11, -9, 2.6, 2.6), ((40, 40, 70), orb, orb, (255, 255, 255), (255, 255, 255)), 0.2)
    c.paint(c.mirrored((4.5, -1), (9, 14.2)), main, c.round_shade(0, 6, 11, 12))
    c.paint(c.box(-7, 6, 7, 7.8) & c.mirrored((4.5, -1), (9, 14.2)), gold, 0.3, edge=False)
    c.paint(c.ellipse(0, -2, 5.4, 4.6), ramp(SKIN), c.round_shade(0, -2, 6, 5))
    if c.rng.random() < 0.7:
        c.paint(c.mirrored((4.8, -0.6), (0, 8.5)), ramp(BONE), c.slope_shade(0, 2, 7))
    c.spot(-2.3, -2.6, 1, 2, (24, 20, 32))
    c.spot(2.3, -2.6, 1, 2, (24, 20, 32))
    tip = c.rng.uniform(-3, 4)
    c.paint(c.polygon((tip, -15), (6, -5.4), (-6, -5.4), (min(tip, 0) - 1.5, -11)), main, c.slope_shade(0, -9, 9))
    c.paint(c.ellipse(0, -5, 9.5, 2), main, 0.65)
    c.paint(c.box(-5.2, -7.6, 5.2, -6.2), gold, 0.3, edge=False)


DRAWERS: dict[str, Callable[[Canvas, Ramp], None]] = {
    f.__name__: f
    for f in (
        slime, sword, potion, knight, tree, chest, shield, mushroom, skull, key, heart, gem,
        ghost, bat, axe, helmet, fish, cat, crown, book, bomb, flower, boot, wizard,
    )
}  # fmt: skip
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
    return options[rng.integers(len(options))]


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


@lru_cache(maxsize=1)
def _pillow():
    from PIL import Image

    return Image


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
    _pillow().fromarray(pixels).save(path)


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
