"""The second stage of training: the UNet and both text encoders together."""

import time
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from single_file import initialise
from sprites import COLOUR_NAMES, TONES, Dataset
from tiny_text import TextEncoders
from tiny_unet import UNet
from tiny_vae import Autoencoder
from topology import VOCABULARY, size_embedding
from torch import Tensor, nn
from training import UNKNOWN_TOKEN, Average, Captions, Job, Settings, compiled, cosine_rate, padded_for_g, save_state, say


def alphas_cumprod() -> Tensor:
    """SDXL's noise schedule: scaled linear betas from 0.00085 to 0.012 over 1000 steps."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
    return torch.cumprod(1 - betas, dim=0).float()


def random_sizes(count: int, device: torch.device) -> Tensor:
    """Micro-conditioning (B, 6): mostly what ComfyUI's CLIPTextEncode implies at 256x256, else anything a person may set."""
    sizes = torch.full((count, 6), 256.0, device=device)
    sizes[:, 2:4] = 0
    other = torch.randint(4, 33, (count, 6), device=device).float() * 64
    other[:, 2:4] = (other[:, 2:4] - 256) * (torch.rand(count, 1, device=device) < 0.3)
    return torch.where(torch.rand(count, 1, device=device) < 0.3, other, sizes)


class DiffusionLoss(nn.Module):
    """Noise prediction from captions: loss per picture, weighted by min-SNR (Hang et al. 2023, arXiv:2303.09556).

    `high_noise_weight` adds to the weight where the signal is nearly gone: only there a caption's colour has to be known, and an
    error in it hardly shows in the noise.
    """

    alphas: Tensor

    def __init__(self, unet: UNet, text: TextEncoders, settings: Settings):
        super().__init__()
        self.unet, self.text = unet, text
        self.gamma, self.high_noise_weight = settings.min_snr_gamma, settings.high_noise_weight
        self.register_buffer("alphas", alphas_cumprod(), persistent=False)

    def forward(self, latents: Tensor, tokens: Tensor, sizes: Tensor, timesteps: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        context, pooled = self.text(tokens, padded_for_g(tokens))
        y = torch.cat([pooled.float(), size_embedding(sizes)], dim=1)
        alpha = self.alphas[timesteps].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        predicted = self.unet(noisy, timesteps, context, y).float()
        error = (predicted - noise).square().mean((1, 2, 3))
        snr = (alpha / (1 - alpha)).flatten()
        weight = snr.clamp(max=self.gamma) / snr + self.high_noise_weight * 0.01 / (snr + 0.01)
        return (weight * error).mean(), error.detach().mean()


def training_noise(count: int, low_frequency: float, device: torch.device) -> Tensor:
    """Noise (B, 4, 32, 32): white, plus a share that is constant over the picture and one over its 8x8 areas.

    SDXL's last step keeps 7 % of the signal, enough to read colours off large areas, and sampling starts without it
    (Lin et al. 2023, arXiv:2305.08891). The constant noise (Guttenberg 2023, "offset noise") hides it, so that colours are learned from
    the caption.
    """
    noise = torch.randn(count, 4, 32, 32, device=device)
    if low_frequency:
        areas = F.interpolate(torch.randn(count, 4, 4, 4, device=device), scale_factor=8.0, mode="bilinear")
        noise += low_frequency * (torch.randn(count, 4, 1, 1, device=device) + areas)
    return noise.contiguous(memory_format=torch.channels_last)


def batches(latents: Tensor, data: Dataset, captions: Captions, job: Job) -> Iterator[tuple[Tensor, ...]]:
    """Endless shuffled batches on the device."""
    device, batch = job.device, job.settings.unet_batch
    subjects, colours, tones = (
        torch.from_numpy(a.astype(np.int64)).to(device) for a in (data.subjects, data.colours, data.tones)
    )
    kinds = (subjects * len(COLOUR_NAMES) + colours) * len(TONES) + tones
    while True:
        order = torch.randperm(len(latents), device=device)
        for i in range(0, len(order) - batch + 1, batch):
            chosen = order[i : i + batch]
            yield (
                latents[chosen].float().contiguous(memory_format=torch.channels_last),
                captions.draw(kinds[chosen], job.settings.caption_dropout),
                random_sizes(batch, device),
                torch.randint(1000, (batch,), device=device),
                training_noise(batch, job.settings.low_frequency_noise, device),
            )


class UnetTraining:
    """Weights, optimizer, average and progress of the second stage; what a later call goes on from."""

    def __init__(self, job: Job, start: tuple[UNet, TextEncoders] | None):
        settings = job.settings
        torch.manual_seed(settings.seed + 1)
        self.job = job
        if start is not None:
            self.unet, self.text = start
        else:
            self.unet, self.text = UNet(), TextEncoders()
            initialise(self.unet, Autoencoder(), self.text)
            last = self.unet.out[2]
            assert isinstance(last, nn.Conv2d)
            nn.init.zeros_(last.weight)
        self.model = DiffusionLoss(self.unet, self.text, settings).to(job.device)
        self.model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.parameters = list(self.model.parameters())
        plain = [p for p in self.parameters if p.ndim < 2 or p.shape[0] == VOCABULARY]
        decayed = [p for p in self.parameters if p.ndim >= 2 and p.shape[0] != VOCABULARY]
        groups = [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=settings.unet_rate, betas=(0.9, 0.99), fused=job.on_gpu)
        self.average = Average(self.parameters, 0.5 if job.smoke else settings.ema_decay)
        self.step, self.seconds = 0, 0.0
        self.warm_steps = 2 if job.smoke else 400 if start is None else 50
        self.curve: list[dict] = []
        self.loss_of = compiled(self.model, job)

    @property
    def progress(self) -> float:
        """Share of the stage that is done, 0 to 1."""
        if self.job.smoke:
            return self.step / 4
        return self.seconds / (60 * self.job.settings.unet_minutes)

    def save(self) -> None:
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "average": self.average.shadow}
        save_state(self.job.work / "unet.pt", {**state, "step": self.step, "seconds": self.seconds, "curve": self.curve})

    def restore(self) -> None:
        path = self.job.work / "unet.pt"
        if not path.exists():
            return
        state = torch.load(path, map_location=self.job.device)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for shadow, saved in zip(self.average.shadow, state["average"], strict=True):
            shadow.copy_(saved)
        self.step, self.seconds, self.curve = state["step"], state["seconds"], state["curve"]
        torch.manual_seed(self.job.settings.seed + 1000 + self.step)
        say("going on from step %d, %.0f s", self.step, self.seconds)

    def train_step(self, batch: tuple[Tensor, ...]) -> Tensor:
        """One update; returns weighted loss, plain error and gradient norm, not yet on the CPU."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.job.settings.unet_rate * cosine_rate(self.step, self.progress, self.warm_steps)
        with self.job.half_activations():
            loss, error = self.loss_of(*batch)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update(self.step)
        self.step += 1
        return torch.stack([loss.detach(), error, norm])

    def run(self, source: Iterator[tuple[Tensor, ...]]) -> bool:
        """Train to the end of the stage's minutes and return True, or False once the call is over."""
        say("unet: compiling and first step")
        values, first = [], True
        shown = before = time.monotonic()
        while self.progress < 1:
            if self.job.call_is_over(reserve_s=15):
                self.save()
                return False
            values.append(self.train_step(next(source)))
            if self.step % 4 == 0 or first or self.job.smoke:
                self.job.synchronize()
            now = time.monotonic()
            if first:  # compiling is not training
                first, before, shown = False, now, now
                say("unet: first step done")
                continue
            self.seconds += now - before
            before = now
            if now - shown > 5 or self.job.smoke:
                loss, error, norm = torch.stack(values).mean(0).tolist()
                if not loss < 1e3:
                    raise SystemExit(
                        f"the loss is {loss} at step {self.step}: lower --unet-rate and delete {self.job.work}/unet.pt"
                    )
                rate = (len(values) - 1) * self.job.settings.unet_batch / max(now - shown, 1e-9)
                self.curve.append(
                    {"step": self.step, "seconds": round(self.seconds, 1), "loss": loss, "error": error, "norm": norm}
                )
                say("unet step %d, %.0f %%, %.0f s: loss %.4f error %.4f norm %.2f, %.0f pictures/s",
                    self.step, 100 * self.progress, self.seconds, loss, error, norm, rate)  # fmt: skip
                values, shown = [], now
        self.save()
        return True


def train_unet(
    job: Job, latents: Tensor, data: Dataset, captions: Captions, start: tuple[UNet, TextEncoders] | None
) -> tuple[UNet, TextEncoders] | None:
    """Return the averaged weights once the stage's minutes are spent; None when the call is over before that.

    Weights to `start` from make it a fine-tuning.
    """
    training = UnetTraining(job, start)
    training.restore()
    finished = training.run(batches(latents, data, captions, job))
    job.record["unet"], job.record["unet_steps"] = training.curve, training.step
    if not finished:
        return None
    training.average.swap()
    unknown = (~captions.known).to(job.device)
    with torch.no_grad():
        for encoder in (training.text.clip_l, training.text.clip_g):
            table = encoder.text_model.embeddings.token_embedding.weight
            table[unknown] = table[UNKNOWN_TOKEN].clone()
    return training.unet, training.text
