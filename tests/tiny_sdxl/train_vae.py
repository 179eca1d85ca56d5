"""The first stage of training: the autoencoder, and the latents of every sprite.

Not compiled: on an H100 torch.compile takes longer than it would save in two minutes of training.
"""

import math
import time

import torch
import torch.nn.functional as F
from single_file import initialise
from sprites import Dataset
from tiny_text import TextEncoders
from tiny_unet import UNet
from tiny_vae import Autoencoder
from topology import LATENT_SCALE
from torch import Tensor, nn
from training import Average, Job, cosine_rate, save_state, say

# ComfyUI's live preview of SDXL latents (comfy/latent_formats.py, SDXL): the VAE is trained to agree with it.
PREVIEW_FACTORS = [[0.3651, 0.4232, 0.4341], [-0.2533, -0.0042, 0.1068], [0.1076, 0.1111, -0.0362], [-0.3165, -0.2492, -0.2188]]
PREVIEW_BIAS = [0.1084, -0.0175, -0.0011]
# From which share of the time on pictures have which side, and their share of the batch: small ones first, a step then takes a tenth.
SIZES = ((0.0, 64, 1.0), (0.45, 128, 1.0), (0.8, 256, 1 / 3))


def vae_pictures(pixels: Tensor, count: int, size: int) -> Tensor:
    """Training pictures (count, 3, size, size) in -1..1 of native sprites (N, 32, 32, 3).

    Mostly hard 8x8 pixels on the latents' grid; an eighth is off the grid, an eighth has pixels of another size, a
    sixteenth is smooth, and a third is in swapped or inverted colours, so that it stays a VAE for any picture.
    """
    device = pixels.device
    chosen = pixels[torch.randint(len(pixels), (count,), device=device)].permute(0, 3, 1, 2).float() / 127.5 - 1
    recoloured = torch.rand(count, device=device) < 0.33
    swapped = chosen[:, torch.randperm(3, device=device)] * (1 if torch.rand(()) < 0.7 else -1)
    chosen = torch.where(recoloured[:, None, None, None], swapped, chosen)
    chosen = chosen.repeat(1, 1, 2, 2)  # so that every crop is there
    cells = size // 8
    top, left = (0, 0) if size == 256 and torch.rand(()) < 0.7 else torch.randint(32, (2,)).tolist()
    off_grid, other_size, smooth = count // 8, count // 8, count // 16
    aligned, shifted, scaled, blurred = chosen.split([count - off_grid - other_size - smooth, off_grid, other_size, smooth])

    def crop(part: Tensor, side: int) -> Tensor:
        return part[:, :, top : top + side, left : left + side]

    down, right = torch.randint(8, (2,)).tolist()
    factor = 4 if cells > 16 or torch.rand(()) < 0.7 else 16
    if factor == 4 and cells > 16:
        top, left = 0, 0
    parts = [
        F.interpolate(crop(aligned, cells), scale_factor=8.0, mode="nearest"),
        F.interpolate(crop(shifted, cells + 1), scale_factor=8.0, mode="nearest")[:, :, down : down + size, right : right + size],
        F.interpolate(crop(scaled, size // factor), scale_factor=float(factor), mode="nearest"),
        F.interpolate(crop(blurred, cells), scale_factor=8.0, mode="bilinear"),
    ]
    return torch.cat(parts).contiguous(memory_format=torch.channels_last)


class VaeLoss(nn.Module):
    """Reconstruction from noisy latents, KL, and agreement with ComfyUI's latent preview; latents here have unit variance.

    The preview is agreed with in the latents, not in the picture that it shows: it barely shows one direction of colour (green to
    magenta), and a loss on the picture leaves that direction to be learned last.
    """

    directions: Tensor
    colours: Tensor
    bias: Tensor

    def __init__(self, vae: Autoencoder):
        super().__init__()
        self.vae = vae
        directions, shown, to_rgb = torch.linalg.svd(torch.tensor(PREVIEW_FACTORS), full_matrices=False)
        # Damped, so that no latent becomes large for the sake of what is barely shown: spreads are 1.3, 1.0 and 1.4.
        colours = to_rgb.T * (shown / (shown.square() + 0.004))
        self.register_buffer("directions", directions, persistent=False)  # (4, 3)
        self.register_buffer("colours", colours, persistent=False)  # (3, 3)
        self.register_buffer("bias", torch.tensor(PREVIEW_BIAS).view(1, 3, 1, 1), persistent=False)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = self.vae.moments(pictures)
        mean, log_variance = mean.float(), log_variance.float().clamp(-14, 4)
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        is_there = torch.einsum("bihw,ij->bjhw", mean, self.directions)
        wanted = torch.einsum("bihw,ij->bjhw", F.avg_pool2d(pictures, 8) - self.bias, self.colours)
        preview = (is_there - wanted).square().mean()
        noise = (0.5 * log_variance).exp() + 0.1 * torch.rand(len(mean), 1, 1, 1, device=mean.device)
        decoded = self.vae.decode(mean + noise * torch.randn_like(mean)).float()
        error = decoded - pictures
        loss = error.abs().mean() + error.square().mean() + 2e-4 * kl + 0.1 * preview
        return loss, torch.stack([error.abs().mean(), error.square().mean(), kl, preview]).detach()


def fold_latent_scale(vae: Autoencoder) -> None:
    """Move SDXL's latent scale into the 1x1 convolutions: unit variance after ComfyUI has multiplied by 0.13025."""
    channels = vae.post_quant_conv.in_channels
    assert vae.quant_conv.bias is not None
    with torch.no_grad():
        vae.quant_conv.weight[:channels] /= LATENT_SCALE
        vae.quant_conv.bias[:channels] /= LATENT_SCALE
        vae.quant_conv.bias[channels:] -= 2 * math.log(LATENT_SCALE)
        vae.post_quant_conv.weight *= LATENT_SCALE


def train_vae(job: Job, data: Dataset) -> None:
    """Train and save `vae.pt`; nothing to do if an earlier call did."""
    path = job.work / "vae.pt"
    if path.exists():
        return
    settings = job.settings
    torch.manual_seed(settings.seed)
    vae = Autoencoder()
    initialise(UNet(), vae, TextEncoders())
    model = VaeLoss(vae).to(job.device)
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    parameters = list(vae.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=settings.vae_rate, betas=(0.9, 0.99), weight_decay=1e-3, fused=job.on_gpu)
    average = Average(parameters, 0.998)
    pixels = torch.from_numpy(data.pixels).to(job.device)
    curve = job.record["vae"] = []
    sizes = ((0.0, 32, 4), (0.5, 64, 1)) if job.smoke else SIZES
    step, seconds, size = 0, 0.0, 0
    shown = time.monotonic()
    while True:
        progress = step / 4 if job.smoke else seconds / (60 * settings.vae_minutes)
        if progress >= 1:
            break
        before = time.monotonic()
        side, share = next((side, share) for start, side, share in reversed(sizes) if progress >= start)
        first, size = size != side, side
        for group in optimizer.param_groups:
            group["lr"] = settings.vae_rate * cosine_rate(step, progress, warm_steps=200)
        with job.half_activations():
            loss, parts = model(vae_pictures(pixels, int(settings.vae_batch * share), size))
        loss.backward()
        norm = nn.utils.clip_grad_norm_(parameters, 1.0)
        if torch.isfinite(norm):  # this also waits for the GPU, so that the seconds are true
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        average.update(step)
        step += 1
        now = time.monotonic()
        if first:  # cuDNN times its algorithms
            say("vae: %d px, first step %.1f s", size, now - before)
        else:
            seconds += now - before
        if now - shown > 5 or job.smoke:
            shown = now
            absolute, squared, kl, preview = parts.tolist()
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
            say("vae step %d, %.0f s, %d px: l1 %.4f mse %.5f kl %.2f preview %.4f, %.1f steps/s", step, seconds, size, absolute, squared,
                kl, preview, step / max(seconds, 1e-9))  # fmt: skip
    average.swap()
    fold_latent_scale(vae)
    job.record["vae_steps"] = step
    save_state(path, vae.state_dict())


def to_pictures(pixels: Tensor) -> Tensor:
    """Native sprites (B, 32, 32, 3) uint8 as VAE input (B, 3, 256, 256)."""
    x = F.interpolate(pixels.permute(0, 3, 1, 2).float(), scale_factor=8.0, mode="nearest")
    return (x / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def load_vae(job: Job) -> Autoencoder:
    """The trained VAE, rounded to fp16 as it is shipped, in fp32."""
    vae = Autoencoder()
    vae.load_state_dict(torch.load(job.work / "vae.pt", map_location="cpu"))
    vae = vae.half().float().to(job.device).eval().requires_grad_(False)
    return vae.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


@torch.no_grad()
def encode_dataset(job: Job, data: Dataset, vae: Autoencoder) -> Tensor:
    """Latents of every sprite, scaled as the UNet sees them, (N, 4, 32, 32) fp16 on the device."""
    path = job.work / "latents.pt"
    if path.exists():
        return torch.load(path, map_location=job.device)
    start = time.monotonic()
    pixels = torch.from_numpy(data.pixels)
    latents = torch.empty(len(pixels), 4, 32, 32, dtype=torch.float16, device=job.device)
    batch = 4 if job.smoke else 250
    for i in range(0, len(pixels), batch):
        with job.half_activations():
            z = vae.encode(to_pictures(pixels[i : i + batch].to(job.device)))
        latents[i : i + batch] = z.float() * LATENT_SCALE
    job.synchronize()
    pictures = to_pictures(pixels[: 4 if job.smoke else 240].to(job.device))
    with job.half_activations():
        back = vae.decode(vae.encode(pictures)).float().clamp(-1, 1)
    psnr = 10 * math.log10(4 / (back - pictures).square().mean().item())
    sample = latents[:4096].float()
    mean, std = ([round(v, 3) for v in values.tolist()] for values in (sample.mean((0, 2, 3)), sample.std((0, 2, 3))))
    job.record["latents"] = {"mean": mean, "std": std, "psnr_db": psnr}
    say(
        "encoded %d sprites in %.1f s: mean %s std %s, reconstruction %.1f dB",
        len(pixels),
        time.monotonic() - start,
        mean,
        std,
        psnr,
    )
    save_state(path, latents)
    return latents
