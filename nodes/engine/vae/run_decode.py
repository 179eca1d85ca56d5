"""Decodes a batch of latents picture by picture: one can be copied to the host, or saved, while the next is computed."""

import contextlib
import logging
from collections.abc import Callable, Generator, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor

from ...comfy_adapters import vae as vae_adapter
from ...comfy_adapters.kept_memory import KeptMemory
from ...comfy_adapters.model_patcher import DTYPES
from ...comfy_adapters.progress import check_cancelled
from ...comfy_adapters.sampling import is_out_of_memory, release_cached_memory
from ...comfy_adapters.weights import HeldWeights, NotResidentError, WeightsSeen, require_plain_modules
from ..errors import OutOfMemoryError
from ..kernels.arena import lent_tensors
from ..kernels.ops import compile_failure, engine_ops
from .decoder import DecoderForward
from .plan import MIN_TILE, VaePlan, decode_bytes, lent_bytes, pictures_per_pass, tile_size

log = logging.getLogger("fast_sprites")

TILE_OVERLAP = 8
T = TypeVar("T")


class KeptDecoder:
    """The decoder's own weights from one decode to the next, 0.1 GiB for SDXL in 16 bits.

    Where they are at hand ComfyUI need not prepare the VAE's layers, and they need not be copied, for each decode. Between decodes they
    stand in ComfyUI's list of loaded models, and go when another model needs the room.
    """

    def __init__(self) -> None:
        self._kept = KeptMemory("OptimizeVAE", self.release)
        self.release()

    def release(self) -> None:
        """Let the weights go."""
        self.decoder: tuple[DecoderForward, WeightsSeen] | None = None
        self._kept.empty()

    @contextlib.contextmanager
    def in_use(self, vae: Any) -> Generator[None]:
        """Keep ComfyUI from asking for them while `vae` decodes with them."""
        self._kept.withdraw()
        try:
            yield
        finally:
            if self.decoder is not None:
                self._kept.offer(vae_adapter.patcher(vae), self.decoder[0].nbytes)

    def __deepcopy__(self, memo: Any) -> "KeptDecoder":
        """Return an empty one: a copied VAE has weights of its own."""
        return KeptDecoder()


class SpriteDecoder:
    """Stands in for VAE.decode on copies of a VAE; `kept` is released when ComfyUI unloads them."""

    def __init__(self, plan: VaePlan, kept: KeptDecoder, notify: Callable[[str], None]):
        self._notify = notify
        self._plan = plan
        self._kept = kept
        self._ops = engine_ops(plan.decoder)
        self._dtype = DTYPES[plan.precision]

    def __call__(self, vae: Any, samples_in: Tensor, vae_options: dict[str, Any]) -> Tensor:
        """Return pictures [N, H, W, 3] in 0..1 on ComfyUI's output device, as VAE.decode does."""
        if torch.is_grad_enabled() and samples_in.requires_grad:
            return self._leave(vae, samples_in, vae_options, "another node asked for gradients")
        collected = _Collected(samples_in.shape[0], vae_adapter.output_device(vae))
        for _ in self.each(vae, samples_in, vae_options, collected.add):
            pass
        return collected.pictures()

    def each(self, vae: Any, samples_in: Tensor, vae_options: dict[str, Any], finish: Callable[[Tensor], T]) -> Generator[T]:
        """Yield what `finish` makes of pictures [n, H, W, 3] in 0..1, in order; close the generator where it is not used up.

        Pictures come on the VAE's device, in the order of its stream, or on ComfyUI's output device. Memory that runs out, in `finish`
        too, is made up for; what was given out is not decoded again.
        """
        samples = samples_in[:, :, 0] if samples_in.ndim == 5 else samples_in
        with self._kept.in_use(vae):
            yield from self._each(vae, samples, vae_options, finish)

    def _each(self, vae: Any, samples: Tensor, vae_options: dict[str, Any], finish: Callable[[Tensor], T]) -> Generator[T]:
        count, tile = self._passes(vae, samples)
        done = 0
        with vae_adapter.on_device(vae):
            while True:
                try:
                    for pictures in self._decode(vae, samples[done:], count, tile, vae_options):
                        finished = finish(pictures)
                        done += pictures.shape[0]
                        yield finished
                    return
                except NotResidentError as error:
                    why = str(error)
                    break
                except self._ops.compile_errors as error:
                    log.warning("VAE decode: %s", error)
                    why = compile_failure(error)
                    break
                except RuntimeError as error:  # torch.OutOfMemoryError and AcceleratorError
                    if not is_out_of_memory(error):
                        raise
                    count, tile = self._smaller(count, tile, max(samples.shape[2:]), error)
                release_cached_memory()
            # Only here are the failed attempt's tensors gone: the exception held its frames.
            self._kept.release()
            yield finish(self._leave(vae, samples[done:], vae_options, why))

    def _leave(self, vae: Any, samples: Tensor, vae_options: dict[str, Any], why: str) -> Tensor:
        self._note(f"ComfyUI's own decoder ran: {why}")
        return vae_adapter.core_decode(vae, samples, vae_options)

    def _passes(self, vae: Any, samples: Tensor) -> tuple[int, int]:
        """Make room, and return how many pictures to decode at once and the side of tiles in latents, 0 for none."""
        height, width = samples.shape[2:]
        plan = self._plan
        if plan.bytes_per_pixel is None:  # nobody knows better than to try
            self._make_room(vae, vae_adapter.core_decode_bytes(vae, samples))
            return plan.pictures_per_pass or 1, 0
        size = 64 * height * width, self._dtype.itemsize, plan.decoder_channels
        picture_bytes = decode_bytes(*size, plan.bytes_per_pixel)
        spared_bytes = self._lent_bytes(vae, *size)
        free_bytes = self._make_room(vae, picture_bytes - spared_bytes)
        while (left_bytes := self._lent_bytes(vae, *size)) < spared_bytes:  # the owner of what is lent has just made way
            spared_bytes = left_bytes
            free_bytes = self._make_room(vae, picture_bytes - spared_bytes)
        free_bytes += spared_bytes
        count = pictures_per_pass(plan.pictures_per_pass, picture_bytes, free_bytes)
        return max(1, count), 0 if count else tile_size(height, width, picture_bytes, free_bytes)

    def _lent_bytes(self, vae: Any, pixels: int, dtype_bytes: int, decoder_channels: int) -> int:
        lent = lent_tensors(vae_adapter.load_device(vae))
        if lent is None or self._plan.decoder != "fast" or self._plan.pictures_per_pass > 1:
            return 0
        return lent_bytes(pixels, dtype_bytes, decoder_channels, lent.largest_bytes)

    def _make_room(self, vae: Any, picture_bytes: int) -> int:
        if self._kept.decoder is not None:
            forward, seen = self._kept.decoder
            if seen.same_as(vae_adapter.weights_seen(vae, forward.modules)):
                return vae_adapter.make_room_beside(vae, picture_bytes)
            self._kept.release()
        return vae_adapter.make_room(vae, picture_bytes)

    def _smaller(self, count: int, tile: int, side: int, error: RuntimeError) -> tuple[int, int]:
        if count > 1:
            self._note(f"{count} pictures at once did not fit, going on with {count // 2}")
            return count // 2, 0
        if tile == MIN_TILE:
            raise OutOfMemoryError(
                f"Decoding does not fit into memory even in tiles of {8 * MIN_TILE} pixels: {error}"
            ) from error
        smaller = max(MIN_TILE, (tile or side) // 2 // 8 * 8)
        self._note(f"one picture did not fit, going on in tiles of {8 * smaller} pixels")
        return 0, smaller

    def _note(self, what: str) -> None:
        log.info("VAE decode: %s", what)
        self._notify(what)

    def _decode(self, vae: Any, samples: Tensor, count: int, tile: int, vae_options: dict[str, Any]) -> Iterator[Tensor]:
        decode: Callable[[Tensor], Tensor]
        if self._plan.decoder == "stock":
            decode = vae_adapter.stock_decoder(vae, vae_options)
        else:
            decode = self._own_decoder(vae)
        if tile:
            return vae_adapter.decode_tiled(vae, samples, decode, self._dtype, tile, TILE_OVERLAP)
        return self._pictures(vae, samples, decode, count)

    def _own_decoder(self, vae: Any) -> DecoderForward:
        model = vae_adapter.autoencoder(vae)
        require_plain_modules(model)
        if why := vae_adapter.why_not_read(model):
            raise NotResidentError(why)
        if self._kept.decoder is not None:
            return self._kept.decoder[0]
        modules = DecoderForward.weighted_modules(model)
        held = HeldWeights(modules, vae_adapter.load_device(vae), vae_adapter.loaded_dtype(vae))
        try:
            forward = DecoderForward(model, self._ops, held.weights, self._dtype)
        finally:
            held.release()
        if self._plan.keeps_weights:
            vae_adapter.give_back_weights(vae)
            self._kept.decoder = forward, vae_adapter.weights_seen(vae, modules)
        return forward

    def _pictures(self, vae: Any, samples: Tensor, decode: Callable[[Tensor], Tensor], count: int) -> Iterator[Tensor]:
        # All at once: a copy to the device waits for the decode before it.
        for latents in samples.to(device=vae_adapter.load_device(vae), dtype=self._dtype).split(count):
            check_cancelled()
            yield vae_adapter.to_output(vae, decode(latents))


class _Collected:
    """Pictures collected on the output device; from CUDA each pass is copied through pinned memory while the next one runs."""

    def __init__(self, total: int, device: torch.device) -> None:
        self._total = total
        self._device = device
        self._out: Tensor | None = None
        self._staged: list[tuple[Tensor, Any, int]] = []
        self._done = 0

    def add(self, pictures: Tensor) -> None:
        """Take the next pictures [n, H, W, 3]."""
        count = pictures.shape[0]
        if self._out is None:
            if count == self._total and pictures.device == self._device:
                self._out = pictures
                return
            self._out = torch.empty((self._total, *pictures.shape[1:]), dtype=pictures.dtype, device=self._device)
        if pictures.device.type == "cuda" and self._device.type != "cuda":
            pinned = torch.empty(pictures.shape, dtype=pictures.dtype, pin_memory=True)
            pinned.copy_(pictures, non_blocking=True)
            copied = torch.cuda.Event()
            copied.record()
            self._staged.append((pinned, copied, self._done))
            if len(self._staged) > 1:
                self._unstage()
        else:
            self._out[self._done : self._done + count].copy_(pictures)
        self._done += count

    def _unstage(self) -> None:
        assert self._out is not None
        pinned, copied, at = self._staged.pop(0)
        copied.synchronize()
        self._out[at : at + pinned.shape[0]] = pinned

    def pictures(self) -> Tensor:
        """All of them, [total, H, W, 3]."""
        while self._staged:
            self._unstage()
        assert self._out is not None
        return self._out
