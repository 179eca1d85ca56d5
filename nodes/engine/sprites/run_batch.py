"""Draw the sprites of BatchSpriteSampler in micro-batches, through ComfyUI's samplers."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ...comfy_adapters import progress, sampling
from ..errors import BadInputError
from .micro_batches import RememberedSizes, SamplingFacts, graph_key, halve, plan_micro_batches, samples_per_sprite, sprite_bytes
from .request import SpriteRequest
from .seeds import sprite_seeds
from .step_noise import COUPLED_SAMPLERS, STEP_NOISE, usable_samplers

_remembered = RememberedSizes()


def sampler_names() -> list[str]:
    """Return the samplers of this ComfyUI whose sprites can have their own noise."""
    return usable_samplers(sampling.sampler_names())


def scheduler_names() -> list[str]:
    """Return the schedulers of this ComfyUI."""
    return sampling.scheduler_names()


@dataclass(frozen=True)
class SpriteBatch:
    """The finished sprites."""

    latent: dict[str, Any]
    """`samples` [count, C, H, W] on ComfyUI's intermediate device, with the keys of the latent that came in."""
    seeds: tuple[int, ...]
    report: str


def draw_sprites(
    model: Any,
    positive: list[Any],
    negative: list[Any],
    latent: dict[str, Any] | None,
    request: SpriteRequest,
    node_id: str,
    prompt: Mapping[str, Any] | None,
) -> SpriteBatch:
    """Sample `request.count` sprites; sprite i equals what KSampler draws with seed i for row i of latent and conditioning.

    Raises BadInputError for a latent or sampler that does not fit and OutOfMemoryError if a single sprite is too large.
    """
    if request.sampler_name not in STEP_NOISE:
        raise BadInputError(
            f"sampler_name is {request.sampler_name!r}, which cannot give each sprite its own noise; choose one of {', '.join(sampler_names())}."
        )
    latent = sampling.empty_latent(request.width, request.height) if latent is None else latent
    samples = _checked_samples(model, latent, request.count)
    run = _Run(model, positive, negative, samples, latent.get("noise_mask"), latent.get("batch_index"), request)
    per_sprite = sprite_bytes(_facts(model, samples), samples_per_sprite(request.cfg, request.sampler_name))
    key = f"{request.micro_batch}:{graph_key(node_id, prompt, tuple(samples.shape[1:]))}"
    plan = plan_micro_batches(
        request.count,
        request.micro_batch,
        sampling.available_bytes(model),
        per_sprite,
        _remembered.get(key),
        _coupling(request, positive + negative),
    )
    started = time.perf_counter()
    finished, notes = _draw_all(run, plan.size, per_sprite, key, progress.SamplingProgress(model, run.num_ticks, node_id))
    seconds = time.perf_counter() - started
    report = "\n".join(
        [
            f"{request.count} sprites of {samples.shape[-1] * 8}x{samples.shape[-2] * 8} pixels, {request.steps} steps of "
            f"{request.sampler_name} with {request.scheduler}, CFG {request.cfg:g}",
            f"Micro-batch: {plan.size} ({plan.reason})",
            *notes,
            f"Seeds: {_seed_words(request, run.seeds)}",
            f"{seconds:.1f} s, {seconds / request.count:.2f} s per sprite",
        ]
    )
    return SpriteBatch(_batch_latent(latent, torch.cat(finished), request.count), run.seeds, report)


def _draw_all(
    run: "_Run", size: int, per_sprite: int, key: str, bar: progress.SamplingProgress
) -> tuple[list[torch.Tensor], list[str]]:
    """Draw micro-batch after micro-batch, halving the size when memory runs out; returns the latents and what happened."""
    finished: list[torch.Tensor] = []
    notes: list[str] = []
    count, done, started = len(run.seeds), 0, time.perf_counter()
    while done < count:
        rows = range(done, min(done + size, count))
        try:
            drawn = run.draw(rows, _report_to(bar, rows, count, run.num_steps, started))
        except RuntimeError as error:  # torch.OutOfMemoryError and AcceleratorError are RuntimeErrors
            if not sampling.is_out_of_memory(error):
                raise
            torch_words = str(error).partition("\n")[0]
        else:
            finished.append(drawn)
            done = rows.stop
            continue
        # Only here is the failed run's traceback gone, and with it the tensors that its frames held.
        sampling.release_cached_memory()
        size = halve(len(rows), per_sprite, sampling.available_bytes(run.model), torch_words)
        notes.append(f"Out of memory with {len(rows)} at once after {done} finished sprites: went on with {size}")
        _remembered.remember(key, size)
    return finished, notes


class _Run:
    """The inputs of one execution, cut into micro-batches on demand."""

    def __init__(
        self,
        model: Any,
        positive: list[Any],
        negative: list[Any],
        samples: torch.Tensor,
        noise_mask: torch.Tensor | None,
        batch_index: list[int] | None,
        request: SpriteRequest,
    ) -> None:
        self.model = model
        self._positive = positive
        self._negative = negative
        self._samples = samples
        self._noise_mask = noise_mask
        self._batch_index = batch_index
        self._request = request
        self.seeds = sprite_seeds(request.seed_mode, request.seed, request.seed_list, request.count)
        self._sigmas = sampling.schedule(model, request.sampler_name, request.scheduler, request.steps, request.denoise)
        self.num_steps = max(len(self._sigmas) - 1, 0)
        self.num_ticks = max(self.num_steps, 1) * request.count

    def draw(self, rows: range, callback: sampling.StepCallback) -> torch.Tensor:
        """Sample the sprites `rows` together: [len(rows), C, H, W]."""
        seeds = self.seeds[rows.start : rows.stop]
        # Every sprite needs a row of its own here, also where one latent serves all.
        samples = self._samples[[row % len(self._samples) for row in rows]]
        index = self._batch_index
        batch_index = None if index is None else [index[row % len(index)] for row in rows]
        controls: dict[int, Any] = {}
        return sampling.sample(
            self.model,
            sampling.own_noise(samples, seeds, batch_index),
            sampling.own_noise_sampler(self._request.sampler_name, STEP_NOISE[self._request.sampler_name].value, seeds),
            self._sigmas,
            self._request.cfg,
            sampling.conditioning_rows(self._positive, rows, controls),
            sampling.conditioning_rows(self._negative, rows, controls),
            samples,
            None if self._noise_mask is None else sampling.mask_rows(self._noise_mask, rows),
            callback,
            seeds[0],
        )


def _checked_samples(model: Any, latent: dict[str, Any], count: int) -> torch.Tensor:
    if latent["samples"].is_nested:
        raise BadInputError("The latent holds several streams (a video model's); connect a latent of pictures.")
    samples = sampling.fitted_latent(model, latent)
    channels = sampling.latent_channels(model)
    if samples.ndim != 4 or samples.shape[1] != channels:
        raise BadInputError(
            f"The latent is shaped {list(samples.shape)}, but the model wants [pictures, {channels}, height, width]; "
            "encode the picture with this model's own VAE."
        )
    if len(samples) > count:
        raise BadInputError(
            f"The latent holds {len(samples)} pictures and count is {count}; raise count to {len(samples)} "
            "or take fewer pictures with LatentFromBatch."
        )
    return samples


def _facts(model: Any, samples: torch.Tensor) -> SamplingFacts:
    return SamplingFacts(
        is_sdxl=sampling.is_sdxl(model),
        latent_area=samples.shape[-1] * samples.shape[-2],
        element_size=sampling.compute_element_size(model),
        memory_usage_factor=sampling.memory_usage_factor(model),
    )


def _coupling(request: SpriteRequest, conditioning: list[Any]) -> str | None:
    if any("unclip_conditioning" in options for _, options in conditioning):
        return "unCLIP conditioning draws its noise from one seed per batch"
    return COUPLED_SAMPLERS.get(request.sampler_name)


def _seed_words(request: SpriteRequest, seeds: tuple[int, ...]) -> str:
    if request.seed_mode == "increment" and len(seeds) > 4:
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds))


def _report_to(bar: progress.SamplingProgress, rows: range, count: int, num_steps: int, started: float) -> sampling.StepCallback:
    def callback(step: int, denoised: torch.Tensor, _x: torch.Tensor, _total: int) -> None:
        # dpm_adaptive takes as many steps as it likes.
        steps_done = min(step + 1, num_steps)
        ticks = rows.start * num_steps + steps_done * len(rows)
        left_s = (time.perf_counter() - started) / ticks * (count * num_steps - ticks)
        bar.show(
            ticks,
            denoised,
            f"sprites {rows.start + 1}-{rows.stop} of {count}, step {steps_done}/{num_steps}, {left_s:.0f} s left",
        )

    return callback


def _batch_latent(latent: dict[str, Any], samples: torch.Tensor, count: int) -> dict[str, Any]:
    out = {key: value for key, value in latent.items() if not key.startswith("downscale_ratio")}
    out["samples"] = samples
    if "noise_mask" in latent:
        out["noise_mask"] = sampling.mask_rows(latent["noise_mask"], range(count))
    if "batch_index" in latent:
        index = latent["batch_index"]
        out["batch_index"] = [index[row % len(index)] for row in range(count)]
    return out
