"""Train the tiny SDXL's three parts on procedural sprites, on one GPU: VAE first, then text encoders and UNet together.

    python train.py --work DIR --out DIR [--comfyui DIR] [--vae-minutes 3] [--unet-minutes 10] [--call-minutes N]

Everything is kept in --work, so that a run that --call-minutes ended goes on where it stopped when the same command is
given again. --out receives the checkpoint in parts below 16 MB with a manifest, the loss record and a contact sheet.
--smoke runs every stage with a handful of steps. ComfyUI is needed only for its tokenizer files.
"""

import argparse
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from join import PART_BYTES, join_parts, write_parts
from safetensors.torch import save
from sprites import (
    COLOUR_NAMES,
    HELD_OUT,
    SUBJECTS,
    TONES,
    TRAINED,
    Dataset,
    caption,
    contact_sheet,
    make_dataset,
    no_caption,
    save_picture,
    upscale,
)
from topology import (
    END_TOKEN,
    LATENT_SCALE,
    NUM_TOKENS,
    START_TOKEN,
    VOCABULARY,
    Autoencoder,
    TextEncoders,
    UNet,
    from_single_file,
    initialise,
    size_embedding,
    to_single_file,
)
from torch import Tensor, nn

# ComfyUI's live preview of SDXL latents (comfy/latent_formats.py, SDXL): the VAE is trained to agree with it.
PREVIEW_FACTORS = [[0.3651, 0.4232, 0.4341], [-0.2533, -0.0042, 0.1068], [0.1076, 0.1111, -0.0362], [-0.3165, -0.2492, -0.2188]]
PREVIEW_BIAS = [0.1084, -0.0175, -0.0011]
# Stands for every word that no caption has; its embedding is copied to all of them at the end.
UNKNOWN_TOKEN = 49405


@dataclass
class Settings:
    """Everything that decides the result; written into the loss record."""

    seed: int = 0
    sprites: int = 160_000
    captions_per_kind: int = 48
    vae_minutes: float = 3.0
    vae_batch: int = 96
    vae_rate: float = 8e-4
    unet_minutes: float = 10.0
    unet_batch: int = 512
    unet_rate: float = 8e-4
    caption_dropout: float = 0.12
    min_snr_gamma: float = 5.0
    ema_decay: float = 0.9995


class Clock:
    """Counts the minutes that a stage has had, over several calls, and says when this call must end."""

    def __init__(self, call_minutes: float):
        self.call_end = time.monotonic() + 60 * call_minutes

    def call_is_over(self, reserve_s: float) -> bool:
        return time.monotonic() > self.call_end - reserve_s


def say(text: str, *values: object) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text % values if values else text}", flush=True)


def cosine_rate(step: int, progress: float, warm_steps: int = 200) -> float:
    """Multiplier of the learning rate: linear warm-up in steps, cosine to 1 % over the stage's time."""
    return min(1.0, (step + 1) / warm_steps) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))


def half_activations(device: torch.device) -> torch.autocast:
    """bf16 autocast on a GPU; CPUs without bf16 instructions are slower with it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


class Average:
    """Exponential moving average of a module's weights, with a short memory at the start."""

    def __init__(self, parameters: list[Tensor], decay: float):
        self.parameters = parameters
        self.decay = decay
        self.shadow = [p.detach().clone() for p in parameters]

    def update(self, step: int) -> None:
        torch._foreach_lerp_(self.shadow, [p.detach() for p in self.parameters], 1 - min(self.decay, (step + 1) / (step + 10)))

    def swap(self) -> None:
        """Exchange the averaged with the current weights."""
        for parameter, shadow in zip(self.parameters, self.shadow, strict=True):
            current = parameter.detach().clone()
            parameter.data.copy_(shadow)
            shadow.copy_(current)


def compiled(function, device: torch.device, wanted: bool):
    if not wanted or device.type != "cuda":
        return function
    if not (shutil.which("cc") or shutil.which("gcc")):
        say("no C compiler here: running without torch.compile")
        return function
    # An hour on a GPU must not be lost to a compiler's error: it is printed, and the function runs as written.
    torch._dynamo.config.suppress_errors = True
    return torch.compile(function, dynamic=False)


# Data


def load_dataset(work: Path, settings: Settings, workers: int) -> Dataset:
    path = work / "sprites.npz"
    if not path.exists():
        start = time.monotonic()
        data = make_dataset(settings.sprites, settings.seed, workers)
        aside = work / "sprites.part.npz"
        np.savez(aside, **vars(data))
        aside.replace(path)
        say("drew %d sprites in %.1f s on %d processes", settings.sprites, time.monotonic() - start, workers)
    with np.load(path) as arrays:
        return Dataset(**{name: arrays[name] for name in arrays.files})


class Captions:
    """Token ids of captions by kind (subject, colour, background tone), and of dropped-out captions."""

    def __init__(self, comfyui: Path, settings: Settings, device: torch.device):
        from transformers import CLIPTokenizer

        self.tokenizer = CLIPTokenizer.from_pretrained(str(comfyui / "comfy" / "sd1_tokenizer"))
        self.words: dict[str, list[int]] = {}
        rng = np.random.default_rng(settings.seed + 1)
        start = time.monotonic()
        rows = [
            self.ids(caption(subject, colour, tone, rng), rng)
            for subject in SUBJECTS
            for colour in COLOUR_NAMES
            for tone in TONES
            for _ in range(settings.captions_per_kind)
        ]
        empty = [self.ids("" if i == 0 else no_caption(rng), rng) for i in range(2048)]
        self.per_kind = settings.captions_per_kind
        self.conditional = torch.tensor(rows, dtype=torch.int32, device=device)
        self.empty = torch.tensor(empty, dtype=torch.int32, device=device)
        self.known = torch.zeros(VOCABULARY, dtype=torch.bool)
        self.known[torch.cat([self.conditional.flatten(), self.empty.flatten()]).long().cpu()] = True
        self.known[0] = True  # the padding of the second encoder
        self.known[UNKNOWN_TOKEN] = False
        say("%d captions of %d known tokens in %.1f s", len(rows), int(self.known.sum()), time.monotonic() - start)

    def ids(self, text: str, rng: np.random.Generator | None = None) -> list[int]:
        """77 ids padded with the end token, as ComfyUI makes them; with `rng`, now and then with unknown words in between."""
        body: list[int] = []
        for word in text.split(" "):
            if word not in self.words:
                self.words[word] = self.tokenizer(word)["input_ids"][1:-1]
            body += self.words[word]
        if rng is not None and rng.random() < 0.15:
            for _ in range(rng.integers(1, 7)):
                body.insert(int(rng.integers(len(body) + 1)), UNKNOWN_TOKEN)
        body = body[: NUM_TOKENS - 2]
        return [START_TOKEN, *body, *[END_TOKEN] * (NUM_TOKENS - 1 - len(body))]

    def draw(self, kinds: Tensor, dropout: float) -> Tensor:
        """Random captions (B, 77) for `kinds` (B,), a share of them dropped out."""
        rows = self.conditional[kinds * self.per_kind + torch.randint(self.per_kind, kinds.shape, device=kinds.device)]
        empty = self.empty[torch.randint(len(self.empty), kinds.shape, device=kinds.device)]
        # Half of the dropped-out captions are the empty prompt itself.
        empty = torch.where(torch.rand(len(kinds), 1, device=kinds.device) < 0.5, self.empty[:1], empty)
        return torch.where(torch.rand(len(kinds), 1, device=kinds.device) < dropout, empty, rows).long()


def padded_for_g(tokens: Tensor) -> Tensor:
    """SDXL's second encoder pads with 0 after the first end token where the first pads with end tokens."""
    after_end = (tokens == END_TOKEN).int().cumsum(1) > 1
    return tokens.masked_fill(after_end, 0)


# VAE


def vae_pictures(pixels: Tensor, count: int, size: int) -> Tensor:
    """Training pictures (count, 3, size, size) in -1..1: mostly hard 8x8 pixels on the latents' grid, some that are not."""
    device = pixels.device
    chosen = pixels[torch.randint(len(pixels), (count,), device=device)].permute(0, 3, 1, 2).float() / 127.5 - 1
    recoloured = torch.rand(count, device=device) < 0.3
    chosen[recoloured] = chosen[recoloured][:, torch.randperm(3, device=device)] * (1 if torch.rand(()) < 0.7 else -1)
    chosen = chosen.repeat(1, 1, 2, 2)  # so that every crop is there
    cells = size // 8
    corner = torch.randint(32, (2,)).tolist()
    off_grid, small, smooth = count // 8, count // 8, count // 16
    out = []

    def crop(part: Tensor, side: int) -> Tensor:
        return part[:, :, corner[0] : corner[0] + side, corner[1] : corner[1] + side]

    parts = chosen.split([count - off_grid - small - smooth, off_grid, small, smooth])
    if size == 256 and torch.rand(()) < 0.7:
        corner = [0, 0]
    out.append(F.interpolate(crop(parts[0], cells), scale_factor=8.0, mode="nearest"))
    shift = torch.randint(8, (2,)).tolist()
    shifted = F.interpolate(crop(parts[1], cells + 1), scale_factor=8.0, mode="nearest")
    out.append(shifted[:, :, shift[0] : shift[0] + size, shift[1] : shift[1] + size])
    scale = 4.0 if torch.rand(()) < 0.7 else 16.0
    corner = [0, 0] if scale == 4.0 else corner
    out.append(F.interpolate(crop(parts[2], int(size / scale)), scale_factor=scale, mode="nearest"))
    out.append(F.interpolate(crop(parts[3], cells), scale_factor=8.0, mode="bilinear"))
    return torch.cat(out).contiguous(memory_format=torch.channels_last)


class VaeLoss(nn.Module):
    """Reconstruction from noisy latents, KL, and agreement with ComfyUI's latent preview; latents here have unit variance."""

    def __init__(self, vae: Autoencoder):
        super().__init__()
        self.vae = vae
        factors = torch.tensor(PREVIEW_FACTORS)
        self.register_buffer("factors", factors, persistent=False)
        self.register_buffer("bias", torch.tensor(PREVIEW_BIAS).view(1, 3, 1, 1), persistent=False)
        # SDXL's preview barely sees one direction of colour: damped, so that no latent must become large for its sake.
        gram = factors.T @ factors
        self.register_buffer("seen", gram @ torch.linalg.inv(gram + 0.004 * torch.eye(3)), persistent=False)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = self.vae.moments(pictures)
        mean, log_variance = mean.float(), log_variance.float().clamp(-14, 4)
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        shown = torch.einsum("bihw,ij->bjhw", mean, self.factors)
        low = torch.einsum("bihw,ij->bjhw", F.avg_pool2d(pictures, 8) - self.bias, self.seen)
        preview = (shown - low).square().mean()
        noise = (0.5 * log_variance).exp() + 0.1 * torch.rand(len(mean), 1, 1, 1, device=mean.device)
        decoded = self.vae.decode(mean + noise * torch.randn_like(mean)).float()
        error = decoded - pictures
        loss = error.abs().mean() + error.square().mean() + 2e-4 * kl + 0.3 * preview
        return loss, torch.stack([error.abs().mean(), error.square().mean(), kl, preview]).detach()


def fold_latent_scale(vae: Autoencoder) -> None:
    """Move SDXL's latent scale into the 1x1 convolutions: unit variance after ComfyUI has multiplied by 0.13025."""
    with torch.no_grad():
        channels = vae.post_quant_conv.in_channels
        vae.quant_conv.weight[:channels] /= LATENT_SCALE
        vae.quant_conv.bias[:channels] /= LATENT_SCALE
        vae.quant_conv.bias[channels:] -= 2 * math.log(LATENT_SCALE)
        vae.post_quant_conv.weight *= LATENT_SCALE


def train_vae(
    work: Path, data: Dataset, settings: Settings, device: torch.device, options: argparse.Namespace, record: dict
) -> None:
    path = work / "vae.pt"
    if path.exists():
        return
    torch.manual_seed(settings.seed)
    vae = Autoencoder()
    initialise(UNet(), vae, TextEncoders())
    model = VaeLoss(vae).to(device, memory_format=torch.channels_last)
    parameters = list(vae.parameters())
    optimizer = torch.optim.AdamW(
        parameters, lr=settings.vae_rate, betas=(0.9, 0.99), weight_decay=1e-3, fused=device.type == "cuda"
    )
    average = Average(parameters, 0.998)
    loss_of = compiled(model, device, options.compile)
    pixels = torch.from_numpy(data.pixels).to(device)
    phases = ((128, 0.0), (256, 0.7)) if not options.smoke else ((32, 0.0), (64, 0.7))
    record["vae"] = curve = []
    step, started, shown, spent_before = 0, time.monotonic(), time.monotonic(), 0.0
    minutes, steps_limit = settings.vae_minutes, 4 if options.smoke else 10**9
    size = 0
    while True:
        progress = max((time.monotonic() - started - spent_before) / (60 * minutes), step / steps_limit)
        if progress >= 1:
            break
        new_size = phases[1][0] if progress >= phases[1][1] else phases[0][0]
        changed, size = new_size != size, new_size
        batch = settings.vae_batch if size == phases[0][0] else settings.vae_batch // 3
        for group in optimizer.param_groups:
            group["lr"] = settings.vae_rate * cosine_rate(step, progress)
        before = time.monotonic()
        with half_activations(device):
            loss, parts = loss_of(vae_pictures(pixels, batch, size))
        loss.backward()
        norm = nn.utils.clip_grad_norm_(parameters, 1.0)
        if torch.isfinite(norm):
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        average.update(step)
        step += 1
        if changed:  # compiling is not training
            loss.item()
            spent_before += time.monotonic() - before
            say("vae: %d px, first step %.1f s", size, time.monotonic() - before)
        if time.monotonic() - shown > 5 or options.smoke:
            shown = time.monotonic()
            absolute, squared, kl, preview = parts.tolist()
            seconds = time.monotonic() - started - spent_before
            curve.append(
                {
                    "step": step,
                    "seconds": round(seconds, 1),
                    "size": size,
                    "l1": absolute,
                    "mse": squared,
                    "kl": kl,
                    "preview": preview,
                }
            )
            say("vae step %d, %.0f s, %d px: l1 %.4f mse %.5f kl %.2f preview %.4f, %.0f steps/s", step, seconds, size, absolute, squared,
                kl, preview, step / max(seconds, 1e-9))  # fmt: skip
    average.swap()
    fold_latent_scale(vae)
    record["vae_steps"] = step
    torch.save(vae.state_dict(), work / "vae.part.pt")
    (work / "vae.part.pt").replace(path)


def to_pictures(pixels: Tensor) -> Tensor:
    """Native sprites (B, 32, 32, 3) uint8 as VAE input (B, 3, 256, 256)."""
    x = F.interpolate(pixels.permute(0, 3, 1, 2).float(), scale_factor=8.0, mode="nearest")
    return (x / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def load_vae(work: Path, device: torch.device) -> Autoencoder:
    vae = Autoencoder()
    vae.load_state_dict(torch.load(work / "vae.pt", map_location="cpu"))
    # What is shipped is fp16: everything after this point sees the rounded weights.
    return vae.half().float().to(device, memory_format=torch.channels_last).eval().requires_grad_(False)


@torch.no_grad()
def encode_dataset(
    work: Path, data: Dataset, vae: Autoencoder, device: torch.device, options: argparse.Namespace, record: dict
) -> Tensor:
    """Latents of every sprite, scaled as the UNet sees them, (N, 4, 32, 32) fp16 on the device."""
    path = work / "latents.pt"
    if path.exists():
        return torch.load(path, map_location=device)
    start = time.monotonic()
    pixels = torch.from_numpy(data.pixels)
    latents = torch.empty(len(pixels), 4, 32, 32, dtype=torch.float16, device=device)
    batch = 4 if options.smoke else 250
    encode = compiled(vae.encode, device, options.compile and len(pixels) % batch == 0)
    for i in range(0, len(pixels), batch):
        with half_activations(device):
            z = encode(to_pictures(pixels[i : i + batch].to(device)))
        latents[i : i + batch] = z.float() * LATENT_SCALE
    few = torch.from_numpy(data.pixels[: 4 if options.smoke else 256]).to(device)
    pictures = to_pictures(few)
    with half_activations(device):
        back = vae.decode(vae.encode(pictures)).float().clamp(-1, 1)
    psnr = 10 * math.log10(4 / (back - pictures).square().mean().item())
    sample = latents[:4096].float()
    record["latents"] = {"mean": sample.mean((0, 2, 3)).tolist(), "std": sample.std((0, 2, 3)).tolist(), "psnr_db": psnr}
    say("encoded %d sprites in %.1f s: mean %s std %s, reconstruction %.1f dB", len(pixels), time.monotonic() - start,
        [round(v, 2) for v in record["latents"]["mean"]], [round(v, 2) for v in record["latents"]["std"]], psnr)  # fmt: skip
    torch.save(latents, work / "latents.part.pt")
    (work / "latents.part.pt").replace(path)
    return latents


# UNet and text encoders


def alphas_cumprod() -> Tensor:
    """SDXL's noise schedule: scaled linear betas from 0.00085 to 0.012 over 1000 steps."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
    return torch.cumprod(1 - betas, dim=0).float()


def random_sizes(count: int, device: torch.device) -> Tensor:
    """Micro-conditioning (B, 6): mostly what ComfyUI's CLIPTextEncode implies at 256x256, else anything a person may set."""
    sizes = torch.tensor([[256.0, 256, 0, 0, 256, 256]], device=device).repeat(count, 1)
    other = torch.randint(4, 33, (count, 6), device=device).float() * 64
    other[:, 2:4] = other[:, 2:4].sub(256).mul(torch.rand(count, 1, device=device) < 0.3)
    return torch.where(torch.rand(count, 1, device=device) < 0.3, other, sizes)


class DiffusionLoss(nn.Module):
    """Noise prediction from captions: loss per picture, weighted by min-SNR (Hang et al. 2023, arXiv:2303.09556)."""

    def __init__(self, unet: UNet, text: TextEncoders, gamma: float):
        super().__init__()
        self.unet, self.text, self.gamma = unet, text, gamma
        self.register_buffer("alphas", alphas_cumprod(), persistent=False)

    def forward(self, latents: Tensor, tokens: Tensor, sizes: Tensor, timesteps: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        context, pooled = self.text(tokens, padded_for_g(tokens))
        y = torch.cat([pooled.float(), size_embedding(sizes)], dim=1)
        alpha = self.alphas[timesteps].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        predicted = self.unet(noisy, timesteps, context, y).float()
        error = (predicted - noise).square().mean((1, 2, 3))
        snr = (alpha / (1 - alpha)).flatten()
        weight = snr.clamp(max=self.gamma) / snr
        return (weight * error).mean(), error.detach().mean()


def save_state(path: Path, state: dict) -> None:
    aside = path.with_suffix(".part.pt")
    torch.save(state, aside)
    aside.replace(path)


def batches(
    latents: Tensor, data: Dataset, captions: Captions, settings: Settings, device: torch.device
) -> Iterator[tuple[Tensor, ...]]:
    """Endless shuffled batches on the device."""
    subjects, colours, tones = (
        torch.from_numpy(a.astype(np.int64)).to(device) for a in (data.subjects, data.colours, data.tones)
    )
    kinds = (subjects * len(COLOUR_NAMES) + colours) * len(TONES) + tones
    batch = settings.unet_batch
    while True:
        order = torch.randperm(len(latents), device=device)
        for i in range(0, len(order) - batch + 1, batch):
            chosen = order[i : i + batch]
            yield (
                latents[chosen].float().contiguous(memory_format=torch.channels_last),
                captions.draw(kinds[chosen], settings.caption_dropout),
                random_sizes(batch, device),
                torch.randint(1000, (batch,), device=device),
                torch.randn(batch, 4, 32, 32, device=device).contiguous(memory_format=torch.channels_last),
            )


def train_unet(
    work: Path, latents: Tensor, data: Dataset, captions: Captions, settings: Settings, device: torch.device, options: argparse.Namespace,
    record: dict, clock: Clock,
) -> tuple[UNet, TextEncoders] | None:  # fmt: skip
    """Train to the end of the stage's minutes and return the averaged weights, or save and return None when the call is over."""
    torch.manual_seed(settings.seed + 1)
    unet, text = UNet(), TextEncoders()
    initialise(unet, Autoencoder(), text)
    nn.init.zeros_(unet.out[2].weight)
    model = DiffusionLoss(unet, text, settings.min_snr_gamma).to(device, memory_format=torch.channels_last)
    parameters = list(model.parameters())
    plain = [p for p in parameters if p.ndim < 2 or p.shape[0] == VOCABULARY]
    decayed = [p for p in parameters if p.ndim >= 2 and p.shape[0] != VOCABULARY]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=settings.unet_rate, betas=(0.9, 0.99), fused=device.type == "cuda")
    average = Average(parameters, settings.ema_decay if not options.smoke else 0.5)

    step, seconds = 0, 0.0
    path = work / "unet.pt"
    if path.exists():
        state = torch.load(path, map_location=device)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        for shadow, saved in zip(average.shadow, state["average"], strict=True):
            shadow.copy_(saved)
        step, seconds = state["step"], state["seconds"]
        record["unet"] = state["curve"]
        torch.manual_seed(settings.seed + 1000 + step)
        say("going on from step %d, %.0f s", step, seconds)
    curve = record.setdefault("unet", [])

    def state() -> dict:
        return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "average": average.shadow, "step": step,
                "seconds": seconds, "curve": curve}  # fmt: skip

    loss_of = compiled(model, device, options.compile)
    source = batches(latents, data, captions, settings, device)
    shown, shown_step, losses, errors = time.monotonic(), step, [], []
    minutes, steps_limit, first = settings.unet_minutes, 4 if options.smoke else 10**9, True
    while True:
        progress = max(seconds / (60 * minutes), step / steps_limit)
        if progress >= 1:
            break
        if clock.call_is_over(reserve_s=10):
            save_state(path, state())
            return None
        before = time.monotonic()
        for group in optimizer.param_groups:
            group["lr"] = settings.unet_rate * cosine_rate(step, progress, warm_steps=400 if not options.smoke else 2)
        with half_activations(device):
            loss, error = loss_of(*next(source))
        loss.backward()
        norm = nn.utils.clip_grad_norm_(parameters, 1.0)
        if not options.smoke and step % 50 == 0 and not torch.isfinite(norm):
            raise SystemExit(f"the loss is no longer finite at step {step}")
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        average.update(step)
        losses.append(loss.detach())
        errors.append(error)
        step += 1
        if step % 4 == 0 or first or options.smoke:
            torch.cuda.synchronize() if device.type == "cuda" else None
        if first:
            say("unet: first step %.1f s", time.monotonic() - before)
            first, shown, shown_step = False, time.monotonic(), step
        else:
            seconds += time.monotonic() - before
        if time.monotonic() - shown > 5 or options.smoke:
            rate = (step - shown_step) * settings.unet_batch / max(time.monotonic() - shown, 1e-9)
            values = torch.stack(losses).mean().item(), torch.stack(errors).mean().item(), norm.item()
            curve.append({"step": step, "seconds": round(seconds, 1), "loss": values[0], "error": values[1], "norm": values[2]})
            say(
                "unet step %d, %.0f of %.0f s: loss %.4f error %.4f norm %.2f, %.0f pictures/s",
                step,
                seconds,
                60 * minutes,
                *values,
                rate,
            )
            losses, errors, shown, shown_step = [], [], time.monotonic(), step
    save_state(path, state())
    average.swap()
    record["unet_steps"] = step
    with torch.no_grad():
        unknown = ~captions.known
        for encoder in (text.clip_l, text.clip_g):
            table = encoder.text_model["embeddings"]["token_embedding"].weight
            table[unknown.to(device)] = table[UNKNOWN_TOKEN].clone()
    return unet, text


@torch.no_grad()
def draw_sheet(
    unet: UNet,
    vae: Autoencoder,
    text: TextEncoders,
    captions: Captions,
    device: torch.device,
    prompts: list[str],
    steps: int,
    cfg: float,
) -> np.ndarray:
    """A quick look with the Euler sampler on a Karras schedule; the figures come from evaluate.py, through ComfyUI."""
    sigmas_all = ((1 - alphas_cumprod()) / alphas_cumprod()).sqrt().to(device)
    low, high = sigmas_all[0].item() ** (1 / 7), sigmas_all[-1].item() ** (1 / 7)
    sigmas = torch.cat([torch.linspace(high, low, steps, device=device) ** 7, torch.zeros(1, device=device)])
    tokens = torch.tensor([captions.ids(p) for p in [*prompts, *[""] * len(prompts)]], device=device)
    context, pooled = text(tokens, padded_for_g(tokens))
    sizes = torch.tensor([[256.0, 256, 0, 0, 256, 256]], device=device).repeat(len(tokens), 1)
    y = torch.cat([pooled, size_embedding(sizes)], dim=1)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(len(prompts), 4, 32, 32, generator=generator).to(device) * (1 + sigmas[0] ** 2).sqrt()
    for sigma, following in zip(sigmas[:-1], sigmas[1:], strict=True):
        timestep = (sigmas_all - sigma).abs().argmin().expand(len(tokens))
        with half_activations(device):
            noise = unet((x / (1 + sigma**2).sqrt()).repeat(2, 1, 1, 1), timestep, context, y).float()
        positive, negative = noise.chunk(2)
        x = x + (following - sigma) * (negative + cfg * (positive - negative))
    pictures = []
    for part in (x / LATENT_SCALE).split(16):
        with half_activations(device):
            pictures.append(vae.decode(part).float())
    pixels = ((torch.cat(pictures).clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return contact_sheet(pixels, columns=min(16, len(prompts)))


def half_precision_check(
    unet: UNet, vae: Autoencoder, text: TextEncoders, captions: Captions, latents: Tensor, device: torch.device
) -> dict:
    """Largest difference of fp16 and bf16 activations from fp32 ones, relative to the result's spread."""
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
    unet.float(), vae.float()
    full = results.pop("torch.float32")
    return {
        dtype: {
            name: ((a - b).abs().max() / b.std()).item() if torch.isfinite(a).all() else "not finite"
            for name, a, b in zip(("unet", "vae_decode"), values, full, strict=True)
        }
        for dtype, values in results.items()
    }


def export(
    out: Path, unet: UNet, vae: Autoencoder, text: TextEncoders, captions: Captions, latents: Tensor, settings: Settings,
    device: torch.device, record: dict, smoke: bool,
) -> None:  # fmt: skip
    state = to_single_file(unet, vae, text)
    largest = max((tensor.float().abs().max().item(), key) for key, tensor in state.items())
    say("largest weight: %.1f in %s", *largest)
    if not all(torch.isfinite(tensor).all() for tensor in state.values()):
        raise SystemExit("a weight does not fit into fp16")
    data = save(
        state,
        metadata={"modelspec.title": "tiny SDXL that draws sprites", "modelspec.architecture": "stable-diffusion-xl-v1-base"},
    )
    manifest = write_parts(data, out)
    from_single_file({key: tensor.float() for key, tensor in state.items()}, unet, vae, text)
    for module in (unet, vae, text):
        module.to(device).eval()
    record["half_precision"] = half_precision_check(unet, vae, text, captions, latents, device)
    say("half precision against fp32: %s", record["half_precision"])
    pairs = [(s, COLOUR_NAMES[(i + 4 * j) % 10]) for j in range(2) for i, s in enumerate(SUBJECTS)] + sorted(HELD_OUT)[::3]
    pairs = pairs[:2] if smoke else pairs
    prompts = [f"pixel art {colour} {subject}, 16bit game sprite, clean background" for subject, colour in pairs]
    save_picture(out / "training_sheet.png", draw_sheet(unet, vae, text, captions, device, prompts, 2 if smoke else 20, 4.0))
    joined = join_parts(out, out / ".joined.safetensors")
    joined.unlink()
    record["manifest"] = manifest
    (out / "training.json").write_text(json.dumps(record, indent=1))
    say("wrote %d parts of at most %d bytes, %d bytes in all, to %s", len(manifest["parts"]), PART_BYTES, manifest["bytes"], out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the data and for what a later call goes on from")
    parser.add_argument("--out", type=Path, required=True, help="folder for the parts, the record and the sheet")
    parser.add_argument("--comfyui", type=Path, default=Path(os.environ.get("COMFYUI_PATH", ".workspace/comfyui")))
    parser.add_argument(
        "--call-minutes", type=float, default=1e6, help="save and stop after this long; the same command then goes on"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    parser.add_argument("--smoke", action="store_true", help="every stage in a handful of steps; the result draws nothing")
    for name, value in asdict(Settings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    options = parser.parse_args()
    settings = Settings(**{name: getattr(options, name) for name in asdict(Settings())})
    if options.smoke:
        settings = Settings(sprites=8, captions_per_kind=1, vae_batch=16, unet_batch=2)
    if not (options.comfyui / "comfy" / "sd1_tokenizer").is_dir():
        raise SystemExit(f"{options.comfyui} has no comfy/sd1_tokenizer: name a ComfyUI checkout with --comfyui or COMFYUI_PATH")
    options.work.mkdir(parents=True, exist_ok=True)
    options.out.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(options.work / "inductor"))
    called = time.monotonic()
    clock = Clock(options.call_minutes)
    data = load_dataset(options.work, settings, options.workers)  # forks, so before CUDA is touched
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    say("%s, torch %s, %d processes", name, torch.__version__, options.workers)

    record_path = options.work / "record.json"
    record: dict = json.loads(record_path.read_text()) if record_path.exists() else {"calls": []}
    record["settings"] = asdict(settings)
    record["held_out"] = sorted(HELD_OUT)
    record["trained_pairs"] = len(TRAINED)
    record["calls"].append({"device": name, "torch": torch.__version__, "python": sys.version.split()[0], "argv": sys.argv[1:]})

    captions = Captions(options.comfyui, settings, device)
    train_vae(options.work, data, settings, device, options, record)
    vae = load_vae(options.work, device)
    latents = encode_dataset(options.work, data, vae, device, options, record)
    record_path.write_text(json.dumps(record))
    trained = train_unet(options.work, latents, data, captions, settings, device, options, record, clock)
    record["calls"][-1]["minutes"] = round((time.monotonic() - called) / 60, 2)
    record_path.write_text(json.dumps(record))
    if trained is None:
        say("this call is over: give the same command again to go on")
        return
    unet, text = trained
    export(options.out, unet, vae, text, captions, latents, settings, device, record, options.smoke)


if __name__ == "__main__":
    main()
