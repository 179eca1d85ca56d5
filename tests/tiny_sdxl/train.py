"""Train the tiny SDXL's three parts on procedural sprites, on one GPU: VAE first, then text encoders and UNet together.

    python train.py --work DIR --out DIR [--comfyui DIR] [--vae-minutes 3] [--unet-minutes 10] [--call-minutes N]

Everything is kept in --work, so that a run that --call-minutes ended goes on where it stopped when the same command is
given again. --start-from goes on from finished weights: their VAE stays, text encoders and UNet are trained further. --out receives the checkpoint in parts below 16 MB with a manifest, the loss record and a contact sheet.
--smoke runs every stage with a handful of steps. ComfyUI is needed only for its tokenizer files.
"""

import argparse
import itertools
import json
import os
import sys
import time
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from join import PART_BYTES, join_parts, write_parts
from safetensors.torch import load_file, save
from single_file import from_single_file, to_single_file
from sprites import COLOUR_NAMES, HELD_OUT, SUBJECTS, TRAINED, contact_sheet, save_picture
from tiny_text import TextEncoders
from tiny_unet import UNet
from tiny_vae import Autoencoder
from topology import LATENT_SCALE, size_embedding
from torch import Tensor
from train_unet import alphas_cumprod, train_unet
from train_vae import encode_dataset, load_vae, train_vae
from training import Captions, Job, Settings, load_dataset, padded_for_g, save_state, say


@torch.no_grad()
def draw_sheet(
    job: Job, parts: tuple[UNet, Autoencoder, TextEncoders], captions: Captions, prompts: list[str], steps: int, cfg: float
) -> np.ndarray:
    """A quick look with the Euler sampler on a Karras schedule; the figures come from evaluate.py, through ComfyUI."""
    unet, vae, text = parts
    device = job.device
    sigmas_all = ((1 - alphas_cumprod()) / alphas_cumprod()).sqrt().to(device)
    low, high = sigmas_all[0].item() ** (1 / 7), sigmas_all[-1].item() ** (1 / 7)
    sigmas = torch.cat([torch.linspace(high, low, steps, device=device) ** 7, torch.zeros(1, device=device)])
    tokens = torch.tensor([captions.ids(p) for p in [*prompts, *[""] * len(prompts)]], device=device)
    context, pooled = text(tokens, padded_for_g(tokens))
    sizes = torch.tensor([[256.0, 256, 0, 0, 256, 256]], device=device).repeat(len(tokens), 1)
    y = torch.cat([pooled, size_embedding(sizes)], dim=1)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(len(prompts), 4, 32, 32, generator=generator).to(device) * (1 + sigmas[0] ** 2).sqrt()
    for sigma, following in itertools.pairwise(sigmas):
        timestep = (sigmas_all - sigma).abs().argmin().expand(len(tokens))
        with job.half_activations():
            noise = unet((x / (1 + sigma**2).sqrt()).repeat(2, 1, 1, 1), timestep, context, y).float()
        positive, negative = noise.chunk(2)
        x = x + (following - sigma) * (negative + cfg * (positive - negative))
    pictures = []
    for part in (x / LATENT_SCALE).split(16):
        with job.half_activations():
            pictures.append(vae.decode(part).float())
    pixels = ((torch.cat(pictures).clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return contact_sheet(pixels, columns=min(16, len(prompts)))


def half_precision_check(job: Job, parts: tuple[UNet, Autoencoder, TextEncoders], captions: Captions, latents: Tensor) -> dict:
    """Largest difference of fp16 and bf16 activations from fp32 ones, relative to the result's spread."""
    unet, vae, text = parts
    device = job.device
    tokens = torch.tensor([captions.ids("pixel art red slime"), captions.ids("blurry")], device=device)
    sizes = torch.full((2, 6), 256.0, device=device)
    x, t = latents[:2].float() + torch.randn(2, 4, 32, 32, device=device), torch.tensor([700, 50], device=device)
    results: dict[str, list[Tensor]] = {}
    with torch.no_grad():
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            context, pooled = text.float()(tokens, padded_for_g(tokens))
            y = torch.cat([pooled, size_embedding(sizes)], dim=1)
            noise = unet.to(dtype)(x.to(dtype), t, context.to(dtype), y.to(dtype)).float()
            results[str(dtype)] = [noise, vae.to(dtype).decode((latents[:2] / LATENT_SCALE).to(dtype)).float()]
    for module in parts:
        module.float()
    full = results.pop("torch.float32")
    return {
        dtype: {
            name: ((a - b).abs().max() / b.std()).item() if torch.isfinite(a).all() else "not finite"
            for name, a, b in zip(("unet", "vae_decode"), values, full, strict=True)
        }
        for dtype, values in results.items()
    }


def export(job: Job, out: Path, parts: tuple[UNet, Autoencoder, TextEncoders], captions: Captions, latents: Tensor) -> None:
    """Write the checkpoint's parts, the contact sheet and the record, all from the weights as rounded to fp16."""
    state = to_single_file(*parts)
    largest = max((tensor.float().abs().max().item(), key) for key, tensor in state.items())
    say("largest weight: %.1f in %s", *largest)
    if not all(torch.isfinite(tensor).all() for tensor in state.values()):
        raise SystemExit("a weight does not fit into fp16")
    data = save(
        state,
        metadata={"modelspec.title": "tiny SDXL that draws sprites", "modelspec.architecture": "stable-diffusion-xl-v1-base"},
    )
    job.record["manifest"] = manifest = write_parts(data, out)
    joined = join_parts(out, out / ".joined.safetensors")
    joined.unlink()
    say("wrote %d parts of at most %d bytes, %d bytes in all, to %s", len(manifest["parts"]), PART_BYTES, manifest["bytes"], out)
    (out / "training.json").write_text(json.dumps(job.record, indent=1) + "\n")
    from_single_file({key: tensor.float() for key, tensor in state.items()}, *parts)
    for module in parts:
        module.to(job.device).eval()
    job.record["half_precision"] = half_precision_check(job, parts, captions, latents)
    say("half precision against fp32: %s", job.record["half_precision"])
    (out / "training.json").write_text(json.dumps(job.record, indent=1) + "\n")
    pairs = [(s, COLOUR_NAMES[(i + 4 * j) % 10]) for j in range(2) for i, s in enumerate(SUBJECTS)] + sorted(HELD_OUT)[::3]
    prompts = [f"pixel art {colour} {subject}, 16bit game sprite, clean background" for subject, colour in pairs]
    if job.smoke:
        prompts = prompts[:2]
    save_picture(out / "training_sheet.png", draw_sheet(job, parts, captions, prompts, 2 if job.smoke else 20, 4.0))
    say("wrote the record and the contact sheet")


def started_from(options: argparse.Namespace, record: dict[str, Any]) -> tuple[UNet, Autoencoder, TextEncoders]:
    """The finished weights to go on from; their own record becomes part of this one."""
    joined = join_parts(options.start_from, options.work / "start.safetensors")
    parts = UNet(), Autoencoder(), TextEncoders()
    from_single_file({key: tensor.float() for key, tensor in load_file(joined).items()}, *parts)
    record["started_from"] = json.loads((options.start_from / "training.json").read_text())
    return parts


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the data and for what a later call goes on from")
    parser.add_argument("--out", type=Path, required=True, help="folder for the parts, the record and the sheet")
    parser.add_argument("--start-from", type=Path, metavar="DIR", help="folder with the parts and the record of finished weights")
    parser.add_argument("--comfyui", type=Path, default=Path(os.environ.get("COMFYUI_PATH", ".workspace/comfyui")))
    parser.add_argument(
        "--call-minutes", type=float, default=1e6, help="save and stop after this long; the same command then goes on"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    parser.add_argument("--smoke", action="store_true", help="every stage in a handful of steps; the result draws nothing")
    for field in fields(Settings):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default)
    options = parser.parse_args()
    if not (options.comfyui / "comfy" / "sd1_tokenizer").is_dir():
        raise SystemExit(f"{options.comfyui} has no comfy/sd1_tokenizer: name a ComfyUI checkout with --comfyui or COMFYUI_PATH")
    return options


def main() -> None:
    called = time.monotonic()
    options = parse()
    options.work.mkdir(parents=True, exist_ok=True)
    options.out.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(options.work / "inductor"))
    settings = Settings(**{field.name: getattr(options, field.name) for field in fields(Settings)})
    if options.smoke:
        settings = Settings(sprites=8, captions_per_kind=1, vae_batch=16, unet_batch=2)
    data = load_dataset(options.work, settings, options.workers)  # forks, so before CUDA is touched
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    say("%s, torch %s", name, torch.__version__)

    record_path = options.work / "record.json"
    record: dict[str, Any] = json.loads(record_path.read_text()) if record_path.exists() else {"calls": []}
    record |= {"settings": asdict(settings), "held_out": sorted(HELD_OUT), "trained_pairs": len(TRAINED)}
    call = {"device": name, "torch": torch.__version__, "python": sys.version.split()[0], "arguments": sys.argv[1:]}
    record["calls"].append(call)
    parts = None if options.start_from is None else started_from(options, record)
    job = Job(options.work, settings, device, options.compile, options.smoke, called + 60 * options.call_minutes, record)
    captions = Captions(options.comfyui, settings, device)
    if parts is None:
        train_vae(job, data)
    else:
        save_state(options.work / "vae.pt", parts[1].state_dict())
    vae = load_vae(job)
    latents = encode_dataset(job, data, vae)
    record_path.write_text(json.dumps(record))
    trained = train_unet(job, latents, data, captions, None if parts is None else (parts[0], parts[2]))
    call["minutes"] = round((time.monotonic() - called) / 60, 2)
    record_path.write_text(json.dumps(record))
    if trained is None:
        say("this call is over: give the same command again to go on")
        return
    unet, text = trained
    export(job, options.out, (unet, vae, text), captions, latents)


if __name__ == "__main__":
    main()
