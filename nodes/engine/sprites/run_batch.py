"""Draw the sprites of BatchSpriteSampler in micro-batches, through ComfyUI's samplers."""

import time
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ...comfy_adapters import progress, sampling, saving
from ..errors import BadInputError, PackError
from .micro_batches import (
    MicroBatchPlan,
    RememberedSizes,
    SamplingFacts,
    graph_key,
    halve,
    plan_micro_batches,
    samples_per_sprite,
    sprite_bytes,
)
from .request import SpriteRequest, picture_number
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
    """What BatchSpriteSampler gives on."""

    latent: Any
    """A latent whose `samples` are [count, C, H, W] on ComfyUI's intermediate device, with the keys of the latent that came in; while the
    drawing is put off, a value that stops the node that it reaches."""
    seeds: tuple[int, ...]
    report: str
    stream: "SpriteStream"


def draw_sprites(
    model: Any,
    positive: list[Any],
    negative: list[Any],
    latent: dict[str, Any] | None,
    request: SpriteRequest,
    node_id: str,
    prompt: Mapping[str, Any] | None,
) -> SpriteBatch:
    """Sample `request.count` sprites; sprite i equals what KSampler draws with seed i for its prompt and its pictures.

    Sprite i takes row i of the prompts and row i, from `request.first_picture` on, of latent, masks and ControlNets' pictures.

    With `draw` set to "while saving" nothing is sampled yet: the batch's stream does it. Raises BadInputError for a latent or sampler that
    does not fit, OutOfMemoryError if a single sprite is too large and PackError where this ComfyUI lacks what it needs.
    """
    if request.sampler_name not in STEP_NOISE:
        raise BadInputError(
            f"sampler_name is {request.sampler_name!r}, which cannot give each sprite its own noise; choose one of {', '.join(sampler_names())}."
        )
    if lacks := sampling.lacks(STEP_NOISE[request.sampler_name].value):
        raise PackError(f"Sprites cannot be drawn with {request.sampler_name}: {lacks}.")
    if request.draw == "while saving" and (lacks := saving.lacks_blocker()):
        raise PackError(f"draw cannot be 'while saving': {lacks}; set it to 'now'.")
    latent = sampling.empty_latent(request.width, request.height) if latent is None else latent
    samples = _checked_samples(model, latent, request)
    run = _Run(model, positive, negative, samples, latent.get("noise_mask"), latent.get("batch_index"), request)
    key = f"{request.micro_batch}:{graph_key(node_id, prompt, tuple(samples.shape[1:]))}"
    stream = SpriteStream(run, key)
    if request.draw == "while saving":
        blocked = saving.blocked(
            "draw is 'while saving', which leaves no latent: connect sprites to Save Sprites, or set draw to 'now'."
        )
        return SpriteBatch(blocked, run.seeds, f"{stream.words}: drawn while Save Sprites saves them", stream)
    finished = torch.cat(list(stream.micro_batches(node_id)))
    return SpriteBatch(_batch_latent(latent, finished, run.pictures(range(request.count))), run.seeds, stream.report(), stream)


class SpriteStream:
    """Sprites that are drawn when they are asked for; the latents of those that are drawn are kept, so that none is drawn twice."""

    def __init__(self, run: "_Run", key: str) -> None:
        """Draw nothing yet; `key` names the graph whose smaller micro-batches are remembered."""
        self._run = run
        self._key = key
        self._finished: list[torch.Tensor] = []
        self._plan: MicroBatchPlan | None = None
        self._notes: list[str] = []
        self._seconds = 0.0
        self.half_saved: dict[Hashable, dict[int, Any]] = {}
        """The files of savings that were broken off: by what was asked for, and by the sprite's number."""
        self.seeds = run.seeds
        self.height, self.width = (sampling.pixels_per_latent(run.model) * side for side in run.samples.shape[-2:])
        """Pixels of a sprite."""
        request = run.request
        self.words = (
            f"{request.count} sprites of {self.width}x{self.height} pixels, {request.steps} steps of {request.sampler_name} "
            f"with {request.scheduler}, CFG {request.cfg:g}"
        )

    def micro_batches(self, node_id: str) -> Iterator[torch.Tensor]:
        """Draw the sprites in order and give each micro-batch's latents, [sprites, C, H, W]; `node_id` shows the progress.

        When memory runs out the size halves. Raises OutOfMemoryError if a single sprite is too large.
        """
        yield from self._finished
        run, count = self._run, len(self.seeds)
        done = sum(len(latents) for latents in self._finished)
        if done == count:
            return
        per_sprite = sprite_bytes(_facts(run.model, run.samples), samples_per_sprite(run.request.cfg, run.request.sampler_name))
        self._plan = plan_micro_batches(
            count,
            run.request.micro_batch,
            sampling.available_bytes(run.model),
            per_sprite,
            _remembered.get(self._key),
            _coupling(run.request, run.conditioning),
        )
        size = self._plan.size
        bar = progress.SamplingProgress(run.model, run.num_ticks, node_id)
        first, started = done, time.perf_counter()
        while done < count:
            rows = range(done, min(done + size, count))
            began = time.perf_counter()
            try:
                drawn = run.draw(rows, _report_to(bar, rows, count, run.num_steps, started, first))
            except RuntimeError as error:  # torch.OutOfMemoryError and AcceleratorError are RuntimeErrors
                if not sampling.is_out_of_memory(error):
                    raise
                torch_words = str(error).partition("\n")[0]
            else:
                self._finished.append(drawn)
                self._seconds += time.perf_counter() - began
                done = rows.stop
                yield drawn
                continue
            # Only here is the failed run's traceback gone, and with it the tensors that its frames held.
            sampling.release_cached_memory()
            size = halve(len(rows), per_sprite, sampling.available_bytes(run.model), torch_words)
            self._notes.append(f"Out of memory with {len(rows)} at once after {done} finished sprites: went on with {size}")
            _remembered.remember(self._key, size)

    def report(self) -> str:
        """What was drawn, how many at once and why, with which seeds, in how much time."""
        assert self._plan is not None
        seeds = _seed_words(self._run.request, self.seeds)
        return "\n".join(
            [
                self.words,
                f"Micro-batch: {self._plan.size} ({self._plan.reason})",
                *self._notes,
                f"Seeds: {seeds}",
                f"{self._seconds:.1f} s, {self._seconds / len(self.seeds):.2f} s per sprite",
            ]
        )


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
        self.samples = samples
        self._noise_mask = noise_mask
        self._batch_index = batch_index
        self.request = request
        self.seeds = sprite_seeds(request.seed_mode, request.seed, request.seed_list, request.count)
        self._sigmas = sampling.schedule(model, request.sampler_name, request.scheduler, request.steps, request.denoise)
        self.num_steps = max(len(self._sigmas) - 1, 0)
        self.conditioning = positive + negative
        self.num_ticks = max(self.num_steps, 1) * request.count

    def pictures(self, rows: range) -> range:
        """The rows of latent, masks and ControlNets' pictures for the sprites `rows`."""
        shift = picture_number(self.request.first_picture, 0) - 1
        return range(rows.start + shift, rows.stop + shift)

    def draw(self, rows: range, callback: sampling.StepCallback) -> torch.Tensor:
        """Sample the sprites `rows` together: [len(rows), C, H, W]."""
        seeds = self.seeds[rows.start : rows.stop]
        pictures = self.pictures(rows)
        # Every sprite needs a row of its own here, also where one latent serves all.
        samples = self.samples[[picture % len(self.samples) for picture in pictures]]
        index = self._batch_index
        batch_index = None if index is None else [index[picture % len(index)] for picture in pictures]
        controls: dict[int, Any] = {}
        return sampling.sample(
            self.model,
            sampling.own_noise(samples, seeds, batch_index),
            sampling.own_noise_sampler(self.request.sampler_name, STEP_NOISE[self.request.sampler_name].value, seeds),
            self._sigmas,
            self.request.cfg,
            sampling.conditioning_rows(self._positive, rows, pictures, controls),
            sampling.conditioning_rows(self._negative, rows, pictures, controls),
            samples,
            None if self._noise_mask is None else sampling.mask_rows(self._noise_mask, pictures),
            callback,
            seeds[0],
        )


def _checked_samples(model: Any, latent: dict[str, Any], request: SpriteRequest) -> torch.Tensor:
    if latent["samples"].is_nested:
        raise BadInputError("The latent holds several streams (a video model's); connect a latent of pictures.")
    if (dimensions := sampling.latent_dimensions(model)) != 2:
        raise BadInputError(
            f"This model's latents have {dimensions} dimensions, as those of video, audio and Qwen-Image; Batch Sprite Sampler draws "
            "pictures of height and width alone, so use KSampler."
        )
    samples = sampling.fitted_latent(model, latent)
    channels = sampling.latent_channels(model)
    if samples.ndim != 4 or samples.shape[1] != channels:
        raise BadInputError(
            f"The latent is shaped {list(samples.shape)}, but the model wants [pictures, {channels}, height, width]; "
            "encode the picture with this model's own VAE."
        )
    if len(samples) > request.count and not request.first_picture:
        raise BadInputError(
            f"The latent holds {len(samples)} pictures and count is {request.count}; raise count to {len(samples)}, or choose with "
            "first_picture which to begin with."
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
    if any(options.get("set_area_to_bounds") and len(options["mask"]) > 1 for _, options in conditioning):
        return "ComfyUI takes the bounds of a batch's masks together, and so one area for all"
    return COUPLED_SAMPLERS.get(request.sampler_name)


def _seed_words(request: SpriteRequest, seeds: tuple[int, ...]) -> str:
    if request.seed_mode == "increment" and len(seeds) > 4:
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds))


def _report_to(
    bar: progress.SamplingProgress, rows: range, count: int, num_steps: int, started: float, first: int
) -> sampling.StepCallback:
    """Show each step; `first` sprites had been drawn when the clock `started`."""

    def callback(step: int, denoised: torch.Tensor, _x: torch.Tensor, _total: int) -> None:
        # dpm_adaptive takes as many steps as it likes.
        steps_done = min(step + 1, num_steps)
        ticks = rows.start * num_steps + steps_done * len(rows)
        left_s = (time.perf_counter() - started) / (ticks - first * num_steps) * (count * num_steps - ticks)
        bar.show(
            ticks,
            denoised,
            f"sprites {rows.start + 1}-{rows.stop} of {count}, step {steps_done}/{num_steps}, {left_s:.0f} s left",
        )

    return callback


def _batch_latent(latent: dict[str, Any], samples: torch.Tensor, pictures: range) -> dict[str, Any]:
    out = {key: value for key, value in latent.items() if not key.startswith("downscale_ratio")}
    out["samples"] = samples
    if "noise_mask" in latent:
        out["noise_mask"] = sampling.mask_rows(latent["noise_mask"], pictures)
    if "batch_index" in latent:
        index = latent["batch_index"]
        out["batch_index"] = [index[picture % len(index)] for picture in pictures]
    return out
