"""Measure the tiny SDXL through stock ComfyUI: does it draw the subject and the colour that a prompt asks for?

    python evaluate.py CHECKPOINT --out DIR [--comfyui DIR] [--steps 20] [--cfg 4] [--seeds 2] [--cpu]

Every subject in every colour is drawn once per seed with ComfyUI's own sampling code, called as the KSampler node calls
it. A small classifier, trained here on fresh sprites of the generator and stored nowhere, names subject and main colour
of each picture. --out receives the figures (evaluation.json) and a contact sheet (evaluation.png).
"""

import argparse
import asyncio
import importlib
import itertools
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F
from sprites import COLOUR_NAMES, HELD_OUT, SUBJECTS, Dataset, contact_sheet, make_dataset, save_picture
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
PROMPT = "pixel art {colour} {subject}, 16bit game sprite, clean background"
NEGATIVE = "blurry, photo, text, watermark"
ALL_PAIRS = tuple(itertools.product(SUBJECTS, COLOUR_NAMES))


class Classifier(nn.Module):
    """Native sprites (B, 3, 32, 32) in -1..1 to logits of the subject and of the main colour."""

    def __init__(self):
        super().__init__()

        def stage(channels: int, out_channels: int, stride: int) -> list[nn.Module]:
            conv = nn.Conv2d(channels, out_channels, 3, stride=stride, padding=1, bias=False)
            return [conv, nn.BatchNorm2d(out_channels), nn.ReLU()]

        self.features = nn.Sequential(
            *stage(3, 32, 1), *stage(32, 64, 2), *stage(64, 96, 2), *stage(96, 128, 2), nn.Flatten(), nn.Dropout(0.2)
        )
        self.subject = nn.Linear(128 * 16, len(SUBJECTS))
        self.colour = nn.Linear(128 * 16, len(COLOUR_NAMES))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(x)
        return self.subject(features), self.colour(features)


def native(pictures: Tensor) -> Tensor:
    """Pictures (B, 256, 256, 3) in 0..1 to the classifier's (B, 3, 32, 32) in -1..1, each 8x8 block by its mean."""
    return F.avg_pool2d(pictures.movedim(-1, 1).float(), 8) * 2 - 1


def labelled(data: Dataset, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    pixels = torch.from_numpy(data.pixels).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
    subjects, colours = (torch.from_numpy(a.astype(np.int64)).to(device) for a in (data.subjects, data.colours))
    return pixels, subjects, colours


def share_right(model: Classifier, pixels: Tensor, subjects: Tensor, colours: Tensor) -> tuple[float, float]:
    with torch.no_grad():
        by_subject, by_colour = model(pixels)
    return (by_subject.argmax(1) == subjects).float().mean().item(), (by_colour.argmax(1) == colours).float().mean().item()


def train_classifier(device: torch.device, count: int, epochs: int, workers: int) -> tuple[Classifier, dict]:
    """Train on `count` fresh sprites, slightly disturbed; the figures are for sprites it has not seen."""
    torch.manual_seed(0)
    # Both are drawn before CUDA is touched, because make_dataset forks.
    seen, fresh = (make_dataset(n, seed, workers, ALL_PAIRS) for n, seed in ((count, 10_001), (2400, 20_001)))
    pixels, subjects, colours = labelled(seen, device)
    model = Classifier().to(device)
    batch = 120
    steps = epochs * (count // batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for _ in range(epochs):
        for chosen in torch.randperm(count, device=device).split(batch)[: count // batch]:
            x = pixels[chosen]
            x = torch.roll(x, tuple(torch.randint(-1, 2, (2,)).tolist()), (2, 3))
            x = x + 0.15 * torch.rand(len(x), 1, 1, 1, device=device) * torch.randn_like(x)
            by_subject, by_colour = model(x)
            loss = F.cross_entropy(by_subject, subjects[chosen]) + F.cross_entropy(by_colour, colours[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()
    right = share_right(model, *labelled(fresh, device))
    return model, {"sprites": count, "epochs": epochs, "subject_on_fresh_sprites": right[0], "colour_on_fresh_sprites": right[1]}


def import_comfyui(root: Path, cpu: bool) -> ModuleType:
    """ComfyUI's `nodes` module with the tiny SDXL's extension."""
    if not (root / "main.py").is_file():
        raise SystemExit(f"{root} is no ComfyUI checkout: name one with --comfyui or COMFYUI_PATH")
    sys.path.insert(0, str(root.resolve()))
    importlib.import_module("comfy.cli_args").args.cpu = cpu
    nodes = importlib.import_module("nodes")
    assert asyncio.run(nodes.load_custom_node(str(HERE / "comfy_extension")))
    importlib.import_module("comfy.utils").set_progress_bar_enabled(False)
    return nodes


@dataclass(frozen=True)
class Drawn:
    """Pictures (N, 256, 256, 3) in 0..1 in the order of `pairs` x seeds, and how long they took."""

    pictures: Tensor
    pairs: list[tuple[str, str]]
    facts: dict


@torch.inference_mode()
def draw(nodes: ModuleType, arguments: argparse.Namespace) -> Drawn:
    comfy_sd = importlib.import_module("comfy.sd")
    options = {"dtype": getattr(torch, arguments.dtype)} if arguments.dtype else {}
    model, clip, vae, _ = comfy_sd.load_checkpoint_guess_config(str(arguments.checkpoint), model_options=options)

    def encode(text: str):
        return nodes.CLIPTextEncode().encode(clip, text)[0]

    negative = encode(NEGATIVE)
    latent = {"samples": torch.zeros(1, 4, 32, 32)}
    pictures, pairs, started, shown = [], [], time.monotonic(), time.monotonic()
    chosen = [
        (subject, COLOUR_NAMES[(place + shift) % len(COLOUR_NAMES)])
        for place, subject in enumerate(SUBJECTS[: arguments.subjects])
        for shift in range(arguments.colours)
    ]
    for subject, colour in chosen:
        positive = encode(PROMPT.format(subject=subject, colour=colour))
        for seed in range(arguments.seeds):
            drawn = nodes.common_ksampler(
                model,
                1000 * seed + len(pairs),
                arguments.steps,
                arguments.cfg,
                arguments.sampler,
                arguments.scheduler,
                positive,
                negative,
                latent,
            )[0]
            pictures.append(vae.decode(drawn["samples"]).float().cpu())
            pairs.append((subject, colour))
        if time.monotonic() - shown > 10:
            shown = time.monotonic()
            print(f"{len(pictures)} of {len(chosen) * arguments.seeds} pictures, {time.monotonic() - started:.0f} s", flush=True)
    seconds = time.monotonic() - started
    facts = {
        "device": str(model.load_device),
        "unet_dtype": str(model.model.get_dtype()),
        "vae_dtype": str(vae.vae_dtype),
        "seconds_per_picture": seconds / len(pictures),
    }
    return Drawn(torch.cat(pictures), pairs, facts)


def judge(drawn: Drawn, classifier: Classifier, device: torch.device) -> dict:
    """Shares of pictures whose subject, colour, or both, are what was asked for: overall, held out, by subject and colour."""
    with torch.no_grad():
        x = native(drawn.pictures).to(device)
        by_subject, by_colour = (logits.argmax(1).tolist() for logits in classifier(x))
    rows = [
        {"subject": s, "colour": c, "seen_subject": SUBJECTS[i], "seen_colour": COLOUR_NAMES[j], "held_out": (s, c) in HELD_OUT}
        for (s, c), i, j in zip(drawn.pairs, by_subject, by_colour, strict=True)
    ]

    def shares(chosen: list[dict]) -> dict:
        if not chosen:
            return {"pictures": 0}
        subject = [row["subject"] == row["seen_subject"] for row in chosen]
        colour = [row["colour"] == row["seen_colour"] for row in chosen]
        both = [a and b for a, b in zip(subject, colour, strict=True)]
        return {
            "pictures": len(chosen),
            **{k: sum(v) / len(v) for k, v in (("subject", subject), ("colour", colour), ("both", both))},
        }

    blocks = drawn.pictures.unflatten(1, (32, 8)).unflatten(3, (32, 8))
    return {
        "all": shares(rows),
        "trained_pairs": shares([row for row in rows if not row["held_out"]]),
        "held_out_pairs": shares([row for row in rows if row["held_out"]]),
        "by_subject": {s: shares([row for row in rows if row["subject"] == s]) for s in SUBJECTS},
        "by_colour": {c: shares([row for row in rows if row["colour"] == c]) for c in COLOUR_NAMES},
        "mistakes": [row for row in rows if row["subject"] != row["seen_subject"] or row["colour"] != row["seen_colour"]],
        # How far a pixel is from the mean of its 8x8 block: 0 for perfectly hard pixels.
        "mean_deviation_in_blocks": (blocks - blocks.mean((2, 4), keepdim=True)).abs().mean().item(),
        "finite": bool(torch.isfinite(drawn.pictures).all()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--comfyui", type=Path, default=Path(os.environ.get("COMFYUI_PATH", HERE.parents[1] / ".workspace" / "comfyui"))
    )
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--cfg", type=float, default=4.0)
    parser.add_argument("--sampler", default="euler_ancestral")
    parser.add_argument("--scheduler", default="karras")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--subjects", type=int, default=len(SUBJECTS), help="only the first so many subjects")
    parser.add_argument(
        "--colours", type=int, default=len(COLOUR_NAMES), help="only so many colours of each subject, others each time"
    )
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16", "float16"], help="UNet precision; ComfyUI's own choice if not given"
    )
    parser.add_argument("--classifier-sprites", type=int, default=12_000)
    parser.add_argument("--classifier-epochs", type=int, default=8)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--cpu", action="store_true")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() and not arguments.cpu else "cpu")
    started = time.monotonic()
    classifier, facts = train_classifier(device, arguments.classifier_sprites, arguments.classifier_epochs, arguments.workers)
    print(f"classifier: {facts}, {time.monotonic() - started:.0f} s", flush=True)
    nodes = import_comfyui(arguments.comfyui, device.type == "cpu")
    drawn = draw(nodes, arguments)
    result = {
        "prompt": PROMPT,
        "negative": NEGATIVE,
        **{name: getattr(arguments, name) for name in ("steps", "cfg", "sampler", "scheduler", "seeds")},
        **drawn.facts,
        "device_name": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
        "classifier": facts,
        **judge(drawn, classifier, device),
    }
    (arguments.out / "evaluation.json").write_text(json.dumps(result, indent=1) + "\n")
    small = F.avg_pool2d(drawn.pictures.movedim(-1, 1), 4).movedim(1, -1)
    pixels = (small.clamp(0, 1) * 255).round().byte().numpy()
    save_picture(arguments.out / "evaluation.png", contact_sheet(pixels, columns=arguments.colours * arguments.seeds))
    for name in ("all", "trained_pairs", "held_out_pairs"):
        print(name, {k: round(v, 4) for k, v in result[name].items()})
    print(
        {
            k: v
            for k, v in result.items()
            if k in ("device", "unet_dtype", "vae_dtype", "seconds_per_picture", "mean_deviation_in_blocks", "finite")
        }
    )


if __name__ == "__main__":
    main()
