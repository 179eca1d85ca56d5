"""Decides what OptimizeVAE applies: settings and facts in, a frozen plan out."""

from dataclasses import dataclass

from ..facts import MachineFacts
from ..report import Decision

PRECISIONS = ("auto", "bf16", "fp16", "fp32")
SWITCHES = ("auto", "on", "off")

# Peak of one decode with its weights, bytes per output pixel and byte of the dtype, for a decoder 128 channels wide: ComfyUI's takes
# 2.14 GiB for 1024x1024 in bf16 (H100, tests/gpu/measure_vae.py); ComfyUI reserves 2178. Ours took 1.84, 1.63 of them in pictures where
# there are 1.0 now (tests/comfy/test_live_memory.py counts them). On torch alone a GroupNorm makes pictures in fp32, so there the
# older need is kept.
DECODE_BYTES_PER_PIXEL = 630
EAGER_DECODE_BYTES_PER_PIXEL = 950
STOCK_DECODE_BYTES_PER_PIXEL = 1110
# The largest picture on the way, of which no more than two are alive at once.
LARGEST_BYTES_PER_PIXEL = 256
MIN_TILE = 32


@dataclass(frozen=True, kw_only=True)
class VaeSettings:
    """What the user chose on the node; `pictures_per_pass` 0 means one, which gives the same bits in every batch."""

    precision: str = "auto"
    channels_last: str = "auto"
    pictures_per_pass: int = 0


@dataclass(frozen=True, kw_only=True)
class VaeFacts:
    """The loaded VAE: `not_sdxl_because` is empty for every AutoencoderKL of SDXL's shape (4 latent channels, 8x).

    `decode_replaced_by` names who else has replaced this VAE's decode; `lacks` tells what this ComfyUI does not have for any technique,
    `decoder_lacks` for the decoder, `keeping_lacks` for its weights' staying between decodes; "" when everything is there.
    """

    vae_class: str
    lacks: str = ""
    decode_replaced_by: str = ""
    decoder_lacks: str = ""
    keeping_lacks: str = ""
    not_sdxl_because: str = ""
    dtype: str = "bf16"
    decoder_channels: int = 128


@dataclass(frozen=True, kw_only=True)
class VaePlan:
    """What will be done to a copy of the VAE.

    `decoder` is "fast" (Triton), "eager" (the same on torch) or "stock" (ComfyUI's module); `precision` is the dtype to decode in.
    `keeps_weights` tells whether the decoder's weights stay between decodes; `bytes_per_pixel` is what a decode takes of each output
    pixel and byte of the dtype, None where it was not measured.
    """

    decoder: str = "stock"
    precision: str = "bf16"
    keeps_weights: bool = False
    bytes_per_pixel: int | None = DECODE_BYTES_PER_PIXEL
    decoder_channels: int = 128
    pictures_per_pass: int = 0
    decisions: tuple[Decision, ...] = ()


def plan_vae(settings: VaeSettings, machine: MachineFacts, vae: VaeFacts) -> VaePlan:
    """Decide from facts alone what to apply to `vae` on `machine`."""
    if vae.lacks:
        return VaePlan(decisions=(Decision.refused("all", f"{vae.lacks}; passed through untouched"),))
    if vae.not_sdxl_because:
        refusal = Decision.refused(
            "all", f"{vae.vae_class} is not an SDXL VAE ({vae.not_sdxl_because}); passed through untouched"
        )
        return VaePlan(decisions=(refusal,))
    if vae.decode_replaced_by:
        refusal = Decision.refused("all", f"its decode was replaced by {vae.decode_replaced_by}, which stays in charge")
        return VaePlan(decisions=(refusal,))
    precision, precision_decision = _precision(settings, machine, vae)
    decoder, layout_decision = _decoder(settings, machine, precision, vae)
    keeping = _keeping(decoder, vae)
    bytes_per_pixel, memory_decision = _memory(decoder, machine)
    count = settings.pictures_per_pass
    return VaePlan(
        decoder=decoder,
        precision=precision,
        keeps_weights=keeping is not None and keeping.applied,
        bytes_per_pixel=bytes_per_pixel,
        decoder_channels=vae.decoder_channels,
        pictures_per_pass=count,
        decisions=(
            layout_decision,
            precision_decision,
            *(() if keeping is None else (keeping,)),
            Decision.done(
                "pictures per pass",
                f"{count}, as chosen" if count else "one at a time, so that each has the same bits in every batch",
            ),
            memory_decision,
        ),
    )


def _keeping(decoder: str, vae: VaeFacts) -> Decision | None:
    name = "weights between decodes"
    if decoder == "stock":
        return None
    if vae.keeping_lacks:
        return Decision.refused(name, f"{vae.keeping_lacks}; ComfyUI loads the VAE for each decode")
    return Decision.done(name, "the decoder's stay until ComfyUI unloads the VAE, so that a decode need not load it")


def _memory(decoder: str, machine: MachineFacts) -> tuple[int | None, Decision]:
    name = "memory"
    if machine.device_type not in ("cuda", "cpu"):
        return None, Decision.kept(
            name, f"as ComfyUI reserves it: not measured on {machine.device_type}; tiled only after running out"
        )
    needed = {
        "fast": DECODE_BYTES_PER_PIXEL,
        "eager": EAGER_DECODE_BYTES_PER_PIXEL,
        "stock": STOCK_DECODE_BYTES_PER_PIXEL,
    }[decoder]
    return needed, Decision.done(
        name,
        f"the measured need of a decode is reserved (ComfyUI reserves {2178 / needed:.1f} times it); tiled only when one picture does not fit",
    )


def decode_bytes(pixels: int, dtype_bytes: int, decoder_channels: int, bytes_per_pixel: int = DECODE_BYTES_PER_PIXEL) -> int:
    """Return the memory that decoding one picture of `pixels` needs."""
    return int(bytes_per_pixel * pixels * dtype_bytes * decoder_channels / 128)


def lent_bytes(pixels: int, dtype_bytes: int, decoder_channels: int, slab_bytes: int) -> int:
    """Return how much of decode_bytes() a lent slab spares for certain: one or both of the largest pictures, as smaller ones lie in it too."""
    largest = decode_bytes(pixels, dtype_bytes, decoder_channels, LARGEST_BYTES_PER_PIXEL)
    return min(2, slab_bytes // largest) * largest


def pictures_per_pass(chosen: int, picture_bytes: int, free_bytes: int) -> int:
    """Return how many pictures to decode at once; 0 when not even one fits into `free_bytes`."""
    return min(chosen or 1, free_bytes // picture_bytes)


def tile_size(height: int, width: int, picture_bytes: int, free_bytes: int) -> int:
    """Return the largest square tile, in latents, whose decode fits into four fifths of `free_bytes`; never under MIN_TILE."""
    share = 0.8 * free_bytes / picture_bytes
    side = int((height * width * share) ** 0.5)
    return max(MIN_TILE, min(side // 8 * 8, max(height, width)))


def _precision(settings: VaeSettings, machine: MachineFacts, vae: VaeFacts) -> tuple[str, Decision]:
    name = "precision"
    if settings.precision == "auto":
        return vae.dtype, Decision.kept(name, f"{vae.dtype}, as ComfyUI loaded it")
    if settings.precision == vae.dtype:
        return vae.dtype, Decision.kept(name, f"already {vae.dtype}")
    if vae.decoder_lacks:
        return vae.dtype, Decision.refused(name, f"needs the channels-last decoder: {vae.decoder_lacks}")
    if settings.precision == "bf16" and machine.capability is not None and machine.capability < (8, 0):
        has = f"{machine.capability[0]}.{machine.capability[1]}"
        return vae.dtype, Decision.refused(name, f"bf16 needs compute capability 8.0, this device has {has}")
    if settings.precision == "fp16" and machine.device_type == "cpu":
        return vae.dtype, Decision.refused(name, "fp16 was asked for; CPUs compute it slower than fp32 and less exactly")
    if settings.precision == "fp16":
        return "fp16", Decision.done(name, "fp16; SDXL's own VAE overflows in it (black pictures), use a VAE made for fp16")
    return settings.precision, Decision.done(name, settings.precision)


def _decoder(settings: VaeSettings, machine: MachineFacts, precision: str, vae: VaeFacts) -> tuple[str, Decision]:
    name = "channels-last decoder"
    if vae.decoder_lacks:
        return "stock", Decision.refused(name, vae.decoder_lacks)
    kernels = machine.device_type == "cuda" and not machine.triton_missing and (machine.capability or (0, 0)) >= (8, 0)
    own = "fast" if kernels and precision != "fp32" else "eager"
    if precision != vae.dtype:
        # ComfyUI's decoder keeps the dtype that it was loaded in; ours reads a converted copy of the weights.
        return own, Decision.done(name, f"{own}, so that it can compute in {precision}")
    if settings.channels_last == "off":
        return "stock", Decision.kept(name, "off, as chosen: ComfyUI's decoder runs")
    if own == "fast":
        return own, Decision.done(name, "fast: fused GroupNorm and SiLU on Triton kernels")
    if settings.channels_last == "on":
        return own, Decision.done(name, "eager: on torch's own kernels")
    # Without a fused GroupNorm channels-last loses: 142 ms against 101 ms on an H100.
    return "stock", Decision.kept(name, f"off: without Triton kernels it gains nothing measured on {machine.device_name}")
