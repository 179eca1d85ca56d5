"""Scores the pixel-art engine against known sprites and prints a table.

    python tests/unit/pixel/score.py --seeds 1000:1040 [--jobs 2]

Seeds below 7000 have served development; figures are quoted from 7000 on, each range once (7000 and 9000 to 9059 are used).
"""

import argparse
import sys
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    import conftest  # noqa: F401  makes the pack importable

from fast_sprites.nodes.engine.pixel.colour import ciede2000, srgb_to_lab

sys.path.insert(0, str(Path(__file__).resolve().parent))
from generator import LEVELS, Case, Level, make_case


@dataclass(frozen=True)
class Score:
    """Figures of one picture; `cells` is the share of sprite cells with the right colour index, 0 where the size is wrong."""

    size_right: bool
    cells: float
    cells_raw: float
    palette_de: float
    count_error: int
    cpu_ms: float

    @property
    def near(self) -> bool:
        return self.size_right and self.cells >= 0.98

    @property
    def perfect(self) -> bool:
        return self.size_right and self.cells >= 0.999

    def game_ready(self, true_count: int) -> bool:
        return self.near and self.count_error <= max(2, 0.15 * true_count) and self.palette_de <= 2


def share_right(native: np.ndarray, case: Case) -> float:
    """Share of sprite cells whose nearest true colour is the true one, at the best shift of the two pictures."""
    lab, palette = srgb_to_lab(native), srgb_to_lab(case.palette)
    distance = ((lab[:, :, None] - palette) ** 2).sum(axis=-1) if lab.size * len(palette) < 3e7 else None
    assert distance is not None
    found = distance.argmin(axis=-1)
    if case.mode == "full":
        return float((found == case.labels)[case.sprite].mean()) if found.shape == case.labels.shape else 0.0
    height, width = found.shape
    best = 0.0
    centre_y, centre_x = (case.labels.shape[0] - height) // 2, (case.labels.shape[1] - width) // 2
    for dy in range(centre_y - 3, centre_y + 4):
        for dx in range(centre_x - 3, centre_x + 4):
            y0, y1 = max(0, dy), min(case.labels.shape[0], dy + height)
            x0, x1 = max(0, dx), min(case.labels.shape[1], dx + width)
            sprite = case.sprite[y0:y1, x0:x1].copy()
            # cells that the canvas cuts are not judged
            sprite[: max(0, 1 - (y0 - dy)) + 1] &= case.kind not in ("tile", "scene")
            if case.kind in ("tile", "scene"):
                sprite[:2], sprite[-2:], sprite[:, :2], sprite[:, -2:] = False, False, False, False
            elif sprite.sum() < 0.9 * case.sprite.sum():
                continue
            if sprite.any():
                right = found[y0 - dy : y1 - dy, x0 - dx : x1 - dx] == case.labels[y0:y1, x0:x1]
                best = max(best, float(right[sprite].mean()))
    return best


def score_case(case: Case, **options: object) -> Score:
    """Run the engine on one case with no hint."""
    from fast_sprites.nodes.engine.pixel.finish import pixelate

    start = time.process_time()
    art = pixelate(case.picture, **options)
    cpu_ms = (time.process_time() - start) * 1000
    height, width = art.native.shape[:2]
    tolerance = 0.5 if case.mode == "full" else 1.2
    size_right = abs(width - case.size) <= tolerance and abs(height - case.size) <= tolerance and art.grid.found
    used = np.unique(case.labels[case.sprite])
    true_lab, found_lab = srgb_to_lab(case.palette), srgb_to_lab(art.palette)
    distance = ciede2000(true_lab[:, None], found_lab[None]).min(axis=1)
    return Score(
        size_right,
        share_right(art.native, case) if size_right else 0.0,
        share_right(art.cells, case) if size_right else 0.0,
        float(distance[used].mean()),
        abs(len(art.palette) - len(case.palette)),
        cpu_ms,
    )


def _work(job: tuple[int, Level]) -> tuple[int, Level, str, str, float, int, Score]:
    seed, level = job
    case = make_case(seed, level)
    return seed, level, case.kind, case.mode, case.size, len(case.palette), score_case(case)


def _line(name: str, rows: list) -> str:
    scores = [row[-1] for row in rows]

    def percent(values: list) -> str:
        return f"{100 * float(np.mean(values)):6.1f}"

    return (
        f"{name:14s} n={len(rows):4d} size {percent([s.size_right for s in scores])} near {percent([s.near for s in scores])} "
        f"raw-near {percent([s.cells_raw >= 0.98 for s in scores])} perfect {percent([s.perfect for s in scores])} "
        f"raw-perfect {percent([s.cells_raw >= 0.999 for s in scores])} ready {percent([row[-1].game_ready(row[5]) for row in rows])} "
        f"dE {np.mean([s.palette_de for s in scores]):5.2f} count {np.median([s.count_error for s in scores]):4.1f} "
        f"cpu {np.mean([s.cpu_ms for s in scores]):5.0f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="1000:1030", help="first:last")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--failures", action="store_true", help="list the pictures that are not game-ready")
    options = parser.parse_args()
    first, last = map(int, options.seeds.split(":"))
    jobs = [(seed, level) for seed in range(first, last) for level in LEVELS]
    with ProcessPoolExecutor(options.jobs) as pool:
        rows = list(pool.map(_work, jobs, chunksize=3))
    groups = defaultdict(list)
    for row in rows:
        groups["all"].append(row)
        groups[row[1]].append(row)
        if row[1] != "hard":
            groups["easy+medium"].append(row)
        groups[row[2]].append(row)
        groups[row[3]].append(row)
        bucket = min((36, 50, 70, 100, 140), key=lambda edge: (row[4] > edge, edge))
        groups[f"to {bucket:3d} px"].append(row)
    for name, members in groups.items():
        print(_line(name, members))
    if options.failures:
        for seed, level, kind, mode, size, count, score in rows:
            if not score.game_ready(count) or not score.perfect:
                print(f"{seed} {level:6s} {kind:8s} {mode:6s} {size:6.1f} {count:2d} colours: {score}")


if __name__ == "__main__":
    main()
