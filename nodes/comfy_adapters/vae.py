"""What the pack reads from and does to a VAE; a copy shares weights with the original and nothing else."""

import contextlib
import copy
import functools
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, TypeVar

import torch

from .internals import lacking, optional
from .model_patcher import dtype_name, on_detach
from .progress import check_cancelled
from .weights import WeightsSeen, author, evict_unheld

autoencoder_module = optional("comfy.ldm.models.autoencoder")
blocks_module = optional("comfy.ldm.modules.diffusionmodules.model")
management = optional("comfy.model_management")
utils = optional("comfy.utils")

T = TypeVar("T")

VAE_NAMES = (
    "first_stage_model", "patcher", "output_device", "vae_dtype", "latent_channels", "downscale_ratio", "disable_offload",
    "process_output", "memory_used_decode",
)  # fmt: skip


def describe_vae(vae: Any) -> dict[str, Any]:
    """Return the fields of VaeFacts for a VAE, read off its structure."""
    model = getattr(vae, "first_stage_model", None)
    lacks = lacking("vae") or next((f"this ComfyUI's VAE has no {name}" for name in VAE_NAMES if not hasattr(vae, name)), "")
    if lacks:
        return {"vae_class": type(model).__name__, "lacks": lacks}
    not_sdxl_because = _why_not_sdxl(vae, model)
    return {
        "vae_class": type(model).__name__,
        "decode_replaced_by": f"another node{author(vars(vae)['decode'])}" if "decode" in vars(vae) else "",
        "decoder_lacks": lacking("vae decoder") or ("" if not_sdxl_because else why_not_read(model)),
        "keeping_lacks": lacking("vae decoder between decodes"),
        "not_sdxl_because": not_sdxl_because,
        "dtype": dtype_name(vae.vae_dtype),
        "decoder_channels": getattr(getattr(model, "decoder", None), "ch", 128),
    }


def _why_not_sdxl(vae: Any, model: Any) -> str:
    if not isinstance(model, autoencoder_module.AutoencoderKL):
        return f"it is a {type(model).__name__}"
    if vae.latent_channels != 4 or vae.downscale_ratio != 8:
        return f"it has {vae.latent_channels} latent channels and scales by {vae.downscale_ratio}"
    return ""


def why_not_read(model: Any) -> str:
    """Tell what the decoder of an AutoencoderKL holds that another implementation of SDXL's would not compute; "" if nothing."""
    decoder = model.decoder
    if any(len(level.attn) for level in decoder.up):
        return "the VAE's decoder has attention between its levels"
    blocks = [decoder.mid.block_1, decoder.mid.block_2, *(block for level in decoder.up for block in level.block)]
    upsamplers = [level.upsample for level in decoder.up if hasattr(level, "upsample")]
    of_kinds = (
        (blocks_module.ResnetBlock, blocks),
        (blocks_module.AttnBlock, [decoder.mid.attn_1]),
        (blocks_module.Upsample, upsamplers),
    )
    for kind, modules in of_kinds:
        for module in modules:
            if type(module) is not kind:
                return f"the VAE's decoder has a {type(module).__name__} in place of a {kind.__name__}"
    return ""


def is_vae(value: Any) -> bool:
    """Tell a VAE from what else comes through a socket of any type, such as Memory Probe's."""
    return hasattr(value, "decode")


def is_empty(vae: Any) -> bool:
    """Tell whether ComfyUI found no VAE in the checkpoint: what it hands out then has neither a device nor a patcher."""
    return getattr(vae, "first_stage_model", vae) is None


def load_device(vae: Any) -> torch.device:
    """Return the device that the VAE computes on."""
    return vae.device


def patcher(vae: Any) -> Any:
    """Return the VAE's ModelPatcher."""
    return vae.patcher


def output_device(vae: Any) -> torch.device:
    """Return the device that ComfyUI keeps pictures on."""
    return vae.output_device


def loaded_dtype(vae: Any) -> torch.dtype:
    """Return the dtype of the VAE's weights."""
    return vae.vae_dtype


def autoencoder(vae: Any) -> Any:
    """Return the AutoencoderKL module."""
    return vae.first_stage_model


@functools.cache
def _decoding_class(stock: Any) -> Any:
    def decode(vae: Any, samples_in: torch.Tensor, vae_options: dict[str, Any] | None = None) -> torch.Tensor:
        return vae.fast_sprites_decoder(vae, samples_in, vae_options or {})

    return type(stock.__name__, (stock,), {"decode": decode, "stock_class": stock})


def _stock_class(vae: Any) -> Any:
    return getattr(type(vae), "stock_class", type(vae))


def with_decode(vae: Any, decoder: Any, unloaded: Callable[[], None]) -> Any:
    """Return a VAE with a ModelPatcher clone of its own over the same weights that answers `decode` with `decoder(itself, latents, options)`.

    `decode_each` asks the decoder's `each`. Itself, because other nodes copy a VAE and give the copy another device and model (Select VAE
    Device). `unloaded` is called when ComfyUI takes the weights off the device, and whenever it loads them for this or another copy.
    """
    copied = copy.copy(vae)
    copied.patcher = vae.patcher.clone()
    if not lacking("vae decoder between decodes"):
        on_detach(copied.patcher, lambda *_: unloaded())
    copied.__class__ = _decoding_class(_stock_class(vae))
    copied.fast_sprites_decoder = decoder
    return copied


def decode_each(vae: Any, samples: torch.Tensor, finish: Callable[[torch.Tensor], T]) -> Generator[T]:
    """Decode as this VAE does, whatever node has replaced that, and yield in order what `finish` makes of pictures [n, H, W, C].

    They are on any device. Optimize VAE's decoder gives them out as they are decoded, any other VAE all at once. Close the generator where
    it is not used up.
    """
    if "stock_class" in vars(type(vae)) and "decode" not in vars(vae):
        yield from vae.fast_sprites_decoder.each(vae, samples, {}, finish)
    else:
        yield finish(vae.decode(samples, vae_options={}))


def core_decode(vae: Any, samples: torch.Tensor, vae_options: dict[str, Any]) -> torch.Tensor:
    """Decode as ComfyUI does."""
    return _stock_class(vae).decode(vae, samples, vae_options=vae_options)


def core_decode_bytes(vae: Any, samples: torch.Tensor) -> int:
    """Return the memory that ComfyUI reserves for decoding one of `samples`."""
    return int(vae.memory_used_decode((1, *samples.shape[1:]), vae.vae_dtype))


def make_room(vae: Any, needed_bytes: int) -> int:
    """Load the VAE, evicting other models only as far as `needed_bytes` ask for, and return the free bytes."""
    management.load_models_gpu([vae.patcher], memory_required=needed_bytes, force_full_load=vae.disable_offload)
    return int(vae.patcher.get_free_memory(vae.device))


def make_room_beside(vae: Any, needed_bytes: int) -> int:
    """Evict other models as far as a decode of `needed_bytes` asks for, without loading the VAE, and return the free bytes."""
    if vae.device.type != "cpu":
        wanted_bytes = max(management.minimum_inference_memory(), needed_bytes + management.extra_reserved_memory())
        itself = [loaded for loaded in management.current_loaded_models if loaded.model is vae.patcher]
        management.free_memory(wanted_bytes, vae.device, keep_loaded=itself, for_dynamic=vae.patcher.is_dynamic())
    return int(vae.patcher.get_free_memory(vae.device))


def weights_seen(vae: Any, modules: Iterable[torch.nn.Module]) -> WeightsSeen:
    """Return what `modules` hold now, to be compared later."""
    return WeightsSeen(vae.patcher, vae.device, modules)


def give_back_weights(vae: Any) -> None:
    """Give back the device memory of the VAE's own weights, where ComfyUI loads them again by itself."""
    evict_unheld(vae.patcher, vae.device)


def on_device(vae: Any) -> contextlib.AbstractContextManager[Any]:
    """Return the context in which ComfyUI runs this VAE's kernels."""
    return management.cuda_device_context(vae.device)


def stock_decoder(vae: Any, vae_options: dict[str, Any]) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return ComfyUI's decoder as a function from latents to [N, H, W, 3]."""

    def decode(latents: torch.Tensor) -> torch.Tensor:
        return vae.first_stage_model.decode(latents, **vae_options).movedim(1, -1)

    return decode


def to_output(vae: Any, pictures: torch.Tensor) -> torch.Tensor:
    """Return decoded pictures in ComfyUI's picture dtype and range."""
    return vae.process_output(pictures.to(dtype=vae.vae_output_dtype(), copy=True))


def decode_tiled(
    vae: Any, samples: torch.Tensor, decode: Callable[[torch.Tensor], torch.Tensor], dtype: torch.dtype, tile: int, overlap: int
) -> Iterator[torch.Tensor]:
    """Decode one picture after the other in square tiles of `tile` latents, one pass, seams blended over `overlap` latents."""

    def decode_tile(latents: torch.Tensor) -> torch.Tensor:
        check_cancelled()
        return decode(latents.to(device=vae.device, dtype=dtype)).movedim(-1, 1).to(vae.vae_output_dtype())

    steps = samples.shape[0] * utils.get_tiled_scale_steps(samples.shape[3], samples.shape[2], tile, tile, overlap)
    bar = utils.ProgressBar(steps)
    for one in samples.split(1):
        picture = utils.tiled_scale(
            one, decode_tile, tile, tile, overlap, upscale_amount=8, output_device=vae.output_device, pbar=bar
        )
        yield vae.process_output(picture.movedim(1, -1))
