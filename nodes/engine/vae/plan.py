"""Decides what OptimizeVAE applies: settings and facts in, a frozen plan out."""

from dataclasses import dataclass

from ..facts import MachineFacts
from ..report import Decision

PRECISIONS = ("auto", "bf16", "fp16", "fp32")
SWITCHES = ("auto", "on", "off")


@dataclass(frozen=True, kw_only=True)
class VaeSettings:
    """What the user chose on the node; `pictures_per_pass` 0 means as many as fit."""

    precision: str = "auto"
    channels_last: str = "auto"
    pictures_per_pass: int = 0


@dataclass(frozen=True, kw_only=True)
class VaeFacts:
    """The loaded VAE: `not_sdxl_because` is empty for every AutoencoderKL of SDXL's shape (4 latent channels, 8x)."""

    vae_class: str
    not_sdxl_because: str = ""
    dtype: str = "bf16"
    decoder_channels: int = 128


@dataclass(frozen=True, kw_only=True)
class VaePlan:
    """What will be done to a copy of the VAE; `precision` is None where ComfyUI's choice stays."""

    precision: str | None = None
    channels_last: bool = False
    pictures_per_pass: int = 0
    exact_memory: bool = False
    decisions: tuple[Decision, ...] = ()


def plan_vae(settings: VaeSettings, machine: MachineFacts, vae: VaeFacts) -> VaePlan:
    """Decide from facts alone what to apply to `vae` on `machine`."""
    if vae.not_sdxl_because:
        refusal = Decision.refused(
            "all", f"{vae.vae_class} is not an SDXL VAE ({vae.not_sdxl_because}); passed through untouched"
        )
        return VaePlan(decisions=(refusal,))
    precision, precision_decision = _precision(settings, machine, vae)
    layout_decision = _channels_last(settings, machine)
    count = settings.pictures_per_pass
    amount = f"{count} as chosen" if count else "as many as fit into free memory"
    return VaePlan(
        precision=precision,
        channels_last=layout_decision.applied,
        pictures_per_pass=count,
        exact_memory=True,
        decisions=(
            precision_decision,
            layout_decision,
            Decision.done("pictures per pass", amount),
            Decision.done("memory estimate", "measured need of a decode instead of ComfyUI's, which is 3.4 times it"),
        ),
    )


def _precision(settings: VaeSettings, machine: MachineFacts, vae: VaeFacts) -> tuple[str | None, Decision]:
    name = "precision"
    if settings.precision == "auto":
        return None, Decision.kept(name, f"{vae.dtype}, as ComfyUI loaded it")
    if settings.precision == vae.dtype:
        return None, Decision.kept(name, f"already {vae.dtype}")
    if settings.precision == "bf16" and machine.capability is not None and machine.capability < (8, 0):
        has = f"{machine.capability[0]}.{machine.capability[1]}"
        return None, Decision.refused(name, f"bf16 needs compute capability 8.0, this device has {has}")
    if settings.precision == "fp16" and machine.device_type == "cpu":
        return None, Decision.refused(name, "fp16 was asked for; CPUs compute it slower than fp32 and less exactly")
    if settings.precision == "fp16":
        return "fp16", Decision.done(name, "fp16; SDXL's own VAE overflows in it (black pictures), use a VAE made for fp16")
    return settings.precision, Decision.done(name, settings.precision)


def _channels_last(settings: VaeSettings, machine: MachineFacts) -> Decision:
    name = "channels-last"
    if settings.channels_last == "off":
        return Decision.kept(name, "off, as chosen")
    if settings.channels_last == "on":
        return Decision.done(name, "convolution weights and pictures")
    if machine.device_type != "cuda":
        return Decision.kept(name, f"off: no gain measured on {machine.device_name}")
    # Eager channels-last decodes in 142 ms where NCHW takes 101 ms on an H100: torch's GroupNorm returns to NCHW each time.
    return Decision.kept(name, "off: torch's GroupNorm undoes it at every layer")
