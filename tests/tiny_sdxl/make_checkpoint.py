"""Write the tiny SDXL checkpoint: python make_checkpoint.py OUT.safetensors [--seed N].

The trained one from `weights/`; with --seed, or where there are no trained weights, one with random weights. The file has
SDXL's single-file layout and true topology; `comfy_extension` lets ComfyUI recognise it. Needs torch and safetensors, not
ComfyUI.
"""

import argparse
import os
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))  # portable ComfyUI's Python looks for no modules beside a script

import torch
from join import MANIFEST, WEIGHTS, join_parts
from safetensors.torch import save_file
from single_file import initialise, to_single_file
from tiny_text import TextEncoders
from tiny_unet import UNet
from tiny_vae import Autoencoder


def random_checkpoint(seed: int, in_channels: int = 4) -> dict[str, torch.Tensor]:
    """Random weights in fp16; `in_channels` 9 makes an inpainting variant."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts = UNet(in_channels), Autoencoder(), TextEncoders()
        initialise(*parts)
        return to_single_file(*parts)


def write_checkpoint(path: Path, seed: int = 0, in_channels: int = 4) -> None:
    """Write the file aside and rename it, so that an interrupted run leaves nothing half-written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(
            random_checkpoint(seed, in_channels), aside, metadata={"modelspec.title": f"tiny SDXL, random weights, seed {seed}"}
        )
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def default_checkpoint(path: Path) -> None:
    """Write the trained checkpoint, or a random one where `weights/` is not there."""
    if (WEIGHTS / MANIFEST).is_file():
        join_parts(WEIGHTS, path)
    else:
        write_checkpoint(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT.safetensors")
    parser.add_argument("--seed", type=int, help="random weights instead of the trained ones")
    arguments = parser.parse_args()
    if arguments.seed is None:
        default_checkpoint(arguments.out)
    else:
        write_checkpoint(arguments.out, arguments.seed)
    print(f"{arguments.out.name}: {arguments.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
