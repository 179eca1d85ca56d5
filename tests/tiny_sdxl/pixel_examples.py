"""Measure the pixel-art engine on pictures of the tiny SDXL, whose true grid is known: 32x32 cells of 8 px.

    python pixel_examples.py CHECKPOINT [--comfyui DIR] [--count 12] [--picture docs/images/pixel-art-before-after.png]

Sprites are drawn with ComfyUI's own sampling code, as the KSampler node calls it. Fresh native sprites, which the VAE has
not seen, go through its encoder and decoder and back through the engine, where every cell's true colour is known.
"""

import argparse
import importlib
import itertools
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from evaluate import ALL_PAIRS, NEGATIVE, PROMPT, import_comfyui
from numpy.typing import NDArray
from sprites import COLOUR_NAMES, SUBJECTS, make_dataset, save_picture, upscale

HERE = Path(__file__).resolve().parent
SHOWN = 5
sys.path.insert(0, str(HERE.parent))
importlib.import_module("conftest")  # makes the pack importable
finish = importlib.import_module("fast_sprites.nodes.engine.pixel.finish")
colour = importlib.import_module("fast_sprites.nodes.engine.pixel.colour")
ciede2000 = importlib.import_module("fast_sprites.tests.unit.pixel.ciede2000").ciede2000


def draw(checkpoint: Path, nodes: ModuleType, count: int, steps: int) -> tuple[NDArray[np.uint8], Any]:
    """Return `count` pictures (N, 256, 256, 3), each subject in turn with the next colour, and the VAE."""
    model, clip, vae, _ = importlib.import_module("comfy.sd").load_checkpoint_guess_config(str(checkpoint))

    def encode(text: str):
        return nodes.CLIPTextEncode().encode(clip, text)[0]

    negative, latent = encode(NEGATIVE), {"samples": torch.zeros(1, 4, 32, 32)}
    pictures = []
    for seed, subject, colour_name in zip(range(count), itertools.cycle(SUBJECTS), itertools.cycle(COLOUR_NAMES), strict=False):
        positive = encode(PROMPT.format(subject=subject, colour=colour_name))
        drawn = nodes.common_ksampler(model, seed, steps, 4.0, "euler_ancestral", "karras", positive, negative, latent)[0]
        pictures.append(to_bytes(vae.decode(drawn["samples"])))
    return np.concatenate(pictures), vae


def to_bytes(image: torch.Tensor) -> NDArray[np.uint8]:
    return (image.float().cpu().clamp(0, 1) * 255).round().byte().numpy()


def report(name: str, arts: list) -> None:
    right = [art.native.shape[:2] == (32, 32) and art.grid.found for art in arts]
    clear = [float((art.alpha == 0).mean()) for art in arts]
    print(
        f"{name}: 32x32 found in {sum(right)} of {len(arts)}, confidence {min(a.grid.confidence for a in arts):.2f} to "
        f"{max(a.grid.confidence for a in arts):.2f}, {np.median([len(a.palette) for a in arts]):.0f} colours in the median, "
        f"background cut in {sum(0.05 < c < 0.95 for c in clear)}"
    )


def round_trip(vae: Any, count: int) -> None:
    """Print how well native sprites come back from the VAE: the size, and each cell's colour against the drawn one."""
    native = make_dataset(count, 30_001, 1, ALL_PAIRS).pixels
    arts, shares, errors, counts = [], [], [], []
    for pixels in native:
        image = torch.from_numpy(upscale(pixels)[None]).float() / 255
        art = finish.pixelate(to_bytes(vae.decode(vae.encode(image)))[0])
        arts.append(art)
        true, labels = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True)
        counts.append(len(art.palette) - len(true))
        distance = ciede2000(colour.srgb_to_lab(true)[:, None], colour.srgb_to_lab(art.palette)[None])
        errors.append(distance.min(axis=1).mean())
        if art.native.shape == pixels.shape:
            gap = np.linalg.norm(colour.srgb_to_lab(art.cells)[:, :, None] - colour.srgb_to_lab(true), axis=-1)
            shares.append((gap.argmin(axis=-1).ravel() == labels.ravel()).mean())
        else:
            shares.append(0.0)
    report(f"{count} native sprites through the VAE", arts)
    print(
        f"  cells nearest to their true colour {100 * np.mean(shares):.1f} %, palette CIEDE2000 {np.mean(errors):.2f}, "
        f"colours too many or few, median {np.median(np.abs(counts)):.1f}"
    )


def before_after(pictures: NDArray[np.uint8], arts: list) -> NDArray[np.uint8]:
    """Return what was drawn above what comes out, x8, on a light checkerboard where it is clear."""
    board = np.where((np.indices((256, 256)) // 16).sum(axis=0)[..., None] % 2 == 0, 236, 208).astype(np.uint8)
    below = []
    for art in arts:
        scale = max(1, 256 // max(art.native.shape[:2]))
        shown, solid = upscale(art.native, scale), upscale(art.alpha[..., None], scale) > 0
        tile = np.broadcast_to(board, (256, 256, 3)).copy()
        height, width = shown.shape[:2]
        tile[:height, :width] = np.where(solid, shown, tile[:height, :width])
        below.append(tile)
    frame = ((4, 4), (4, 4), (0, 0))
    rows = [np.concatenate([np.pad(tile, frame, constant_values=255) for tile in row], axis=1) for row in (pictures, below)]
    return np.concatenate(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument(
        "--comfyui", type=Path, default=Path(os.environ.get("COMFYUI_PATH", HERE.parents[1] / ".workspace" / "comfyui"))
    )
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--sprites", type=int, default=48, help="native sprites for the round trip through the VAE")
    parser.add_argument("--picture", type=Path, help="where to write the first five, before and after")
    arguments = parser.parse_args()
    nodes = import_comfyui(arguments.comfyui, cpu=True)
    with torch.inference_mode():
        pictures, vae = draw(arguments.checkpoint, nodes, arguments.count, arguments.steps)
        arts = [finish.pixelate(picture) for picture in pictures]
        report(f"{len(arts)} drawings", arts)
        if arguments.picture:
            save_picture(arguments.picture, before_after(pictures[:SHOWN], arts[:SHOWN]))
        round_trip(vae, arguments.sprites)


if __name__ == "__main__":
    main()
