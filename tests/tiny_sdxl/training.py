"""What training draws on: sprites, token ids of captions, and the pieces that both stages of training share."""

import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from prompts import caption, no_caption
from sprites import COLOUR_NAMES, SUBJECTS, TONES, Dataset, make_dataset
from topology import END_TOKEN, NUM_TOKENS, START_TOKEN, VOCABULARY
from torch import Tensor

# Stands for every word that no caption has; its embedding is copied to all of them at the end.
UNKNOWN_TOKEN = 49405


@dataclass
class Settings:
    """Everything that decides the result; written into the loss record."""

    seed: int = 0
    sprites: int = 120_000
    captions_per_kind: int = 48
    vae_minutes: float = 3.0
    vae_batch: int = 96
    vae_rate: float = 8e-4
    unet_minutes: float = 10.0
    unet_batch: int = 512
    unet_rate: float = 8e-4
    caption_dropout: float = 0.12
    min_snr_gamma: float = 5.0
    high_noise_weight: float = 0.0
    low_frequency_noise: float = 0.0
    ema_decay: float = 0.9995


def say(text: str, *values: object) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text % values if values else text}", flush=True)


def cosine_rate(step: int, progress: float, warm_steps: int) -> float:
    """Multiplier of the learning rate: linear warm-up in steps, cosine to 1 % over the stage's time."""
    return min(1.0, (step + 1) / warm_steps) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))


class Average:
    """Exponential moving average of a module's weights, with a short memory at the start."""

    def __init__(self, parameters: Sequence[Tensor], decay: float):
        self.parameters = parameters
        self.decay = decay
        self.shadow = [p.detach().clone() for p in parameters]

    def update(self, step: int) -> None:
        torch._foreach_lerp_(self.shadow, [p.detach() for p in self.parameters], 1 - min(self.decay, (step + 1) / (step + 10)))  # pyright: ignore[reportPrivateImportUsage]

    def swap(self) -> None:
        """Exchange the averaged with the current weights."""
        for parameter, shadow in zip(self.parameters, self.shadow, strict=True):
            current = parameter.detach().clone()
            parameter.data.copy_(shadow)
            shadow.copy_(current)


@dataclass
class Job:
    """One call of the script: where it works, on what, how long it may, and the record it adds to."""

    work: Path
    settings: Settings
    device: torch.device
    compile: bool
    smoke: bool
    call_end: float  # of time.monotonic()
    record: dict[str, Any]

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def call_is_over(self, reserve_s: float) -> bool:
        return time.monotonic() > self.call_end - reserve_s

    def half_activations(self) -> torch.autocast:
        """bf16 autocast on a GPU; CPUs without bf16 instructions are slower with it."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.on_gpu)

    def synchronize(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()


def compiled(function: Callable, job: Job) -> Callable:
    """`function` through torch.compile on a GPU, as it is elsewhere."""
    if not (job.compile and job.on_gpu):
        return function
    if not (shutil.which("cc") or shutil.which("gcc")):
        say("no C compiler here: running without torch.compile")
        return function
    # Minutes on a GPU must not be lost to a compiler's error: it is logged, and the function runs as written.
    torch._dynamo.config.suppress_errors = True
    return torch.compile(function, dynamic=False)


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


def save_state(path: Path, state: Any) -> None:
    """Save aside and rename, so that an interrupted call leaves the last good file."""
    aside = path.with_suffix(".part.pt")
    torch.save(state, aside)
    aside.replace(path)
