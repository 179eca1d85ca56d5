"""A 32x32 drawing board for sprites: colour ramps, shapes, light and shade."""

import colorsys
from dataclasses import dataclass, field

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
