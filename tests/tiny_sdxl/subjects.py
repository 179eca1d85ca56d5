"""The 24 subjects: each draws itself on a canvas in its main colour, in a pose of its own.

Longer than other files, because it is a list of drawings: one function each, none of which knows of another.
"""

from collections.abc import Callable

import numpy as np
from canvas import BONE, DARK, GLASS, GOLD, LEAF, LEATHER, SKIN, STEEL, WOOD, Canvas, Ramp, ramp


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
