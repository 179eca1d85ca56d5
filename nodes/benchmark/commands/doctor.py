"""`fast-sprites doctor`: this machine's facts, the plans that the optimiser nodes make for SDXL on it, and a test of every kernel."""

import argparse
import dataclasses
import importlib.metadata
import json
import platform
import sys
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from ...engine.errors import PackError
from ...engine.report import Decision

if TYPE_CHECKING:
    from ...engine.facts import MachineFacts
    from ...engine.kernels.self_test import KernelResult

# Distributions that ComfyUI can take its attention from, by the name that ComfyUI gives the function.
ATTENTION_PACKAGES = {"xformers": "xformers", "sage": "sageattention", "flash": "flash-attn"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What the command prints; `kernels_untested_because` is "" where the kernels were tested."""

    facts: dict[str, str]
    unet_dtype: str
    vae_dtype: str
    model_decisions: tuple[Decision, ...]
    vae_decisions: tuple[Decision, ...]
    kernels: "tuple[KernelResult, ...]"
    kernels_untested_because: str

    @property
    def is_healthy(self) -> bool:
        """Tell whether every kernel that was tested agrees with torch."""
        return all(result.passed for result in self.kernels)


def add_parser(commands: Any) -> None:
    """Add the command's arguments to the subparsers `commands`."""
    command = commands.add_parser(
        "doctor",
        help="say what this machine is, what the optimiser nodes would do on it, and test every kernel",
        description="Says what this machine is and what the optimiser nodes would do with SDXL on it, and tests every kernel against "
        "torch. Needs torch, but no ComfyUI. Status 1 if a kernel fails.",
    )
    command.add_argument("--json", action="store_true", help="print everything as JSON")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the diagnosis; 0, or 1 if a kernel fails."""
    found = diagnose()
    print(json.dumps(as_json(found), indent=1) if options.json else as_text(found))
    return 0 if found.is_healthy else 1


def diagnose() -> Diagnosis:
    """Examine this machine; raises PackError where torch is missing."""
    try:
        import torch
    except ModuleNotFoundError as error:
        raise PackError(f"torch cannot be imported by {sys.executable} ({error}); use the Python that runs ComfyUI.") from error
    from ...engine.facts import read_machine_facts

    device = torch.device(device_name(torch))
    machine = read_machine_facts(device)
    attentions = {name: version for name, package in ATTENTION_PACKAGES.items() if (version := _version(package))}
    facts = machine_facts(machine, attentions) | {"torch": torch.__version__}
    return plans(machine, attentions, facts, device)


def device_name(torch: Any) -> str:
    """Return the device that ComfyUI computes on here, as torch names it."""
    kinds = {"cuda:0": torch.cuda, "xpu": torch.xpu, "mps": torch.backends.mps}
    return next((name for name, kind in kinds.items() if kind.is_available()), "cpu")


def plans(machine: "MachineFacts", attentions: dict[str, str], facts: dict[str, str], device: Any) -> Diagnosis:
    """Plan for SDXL as ComfyUI loads it on `machine`, and test the kernels where the plan would run them."""
    from ...engine.model.plan import ModelFacts, ModelSettings, plan_model
    from ...engine.vae.plan import VaeFacts, VaeSettings, plan_vae

    unet_dtype, vae_dtype = loaded_dtypes(machine)
    model = plan_model(
        ModelSettings(),
        machine,
        ModelFacts(
            model_class="SDXL",
            weight_dtype=unet_dtype,
            compute_dtype=unet_dtype,
            attention_functions=("pytorch", *attentions),
            core_attention=core_attention(machine, attentions),
        ),
    )
    vae = plan_vae(VaeSettings(), machine, VaeFacts(vae_class="AutoencoderKL", dtype=vae_dtype))
    untested = "" if model.engine == "fast" else next(d.reason for d in model.decisions if d.technique == "engine")
    return Diagnosis(
        facts=facts,
        unet_dtype=unet_dtype,
        vae_dtype=vae_dtype,
        model_decisions=model.decisions,
        vae_decisions=vae.decisions,
        kernels=() if untested else test_kernels(machine, device),
        kernels_untested_because=untested,
    )


def test_kernels(machine: "MachineFacts", device: Any) -> "tuple[KernelResult, ...]":
    """Compare every kernel with torch in fp16 and bf16, those for FP8 where the device has it."""
    import torch

    from ...engine.kernels.ops import engine_ops
    from ...engine.kernels.self_test import FP8_CAPABILITY, check_kernels

    with_fp8 = machine.capability is not None and machine.capability >= FP8_CAPABILITY
    with torch.inference_mode():
        return tuple(check_kernels(engine_ops("fast"), device, (torch.float16, torch.bfloat16), with_fp8=with_fp8))


def loaded_dtypes(machine: "MachineFacts") -> tuple[str, str]:
    """Return the dtypes in which ComfyUI 0.30 loads SDXL's UNet and VAE here (model_management.unet_dtype and vae_dtype)."""
    if machine.device_type == "cpu":
        return "fp32", "fp32"
    # AMD's GPUs before RDNA 3 and Apple's before macOS 14 have none either, which is not among the facts.
    has_bf16 = machine.capability is None or machine.capability >= (8, 0)
    return "fp16", "bf16" if has_bf16 else "fp32"


def core_attention(machine: "MachineFacts", attentions: Collection[str]) -> str:
    """Return the attention that ComfyUI 0.30 takes here without flags (comfy/ldm/modules/attention.py, its last lines)."""
    if machine.device_type == "cuda" and "xformers" in attentions:
        return "xformers"
    return "pytorch" if machine.device_type in ("cuda", "xpu") else "sub_quad"


def machine_facts(machine: "MachineFacts", attentions: dict[str, str]) -> dict[str, str]:
    """Return what is known of the machine, by the names that are printed."""
    found = {"device": machine.device_name}
    if machine.capability is not None:
        found["compute capability"] = ".".join(map(str, machine.capability))
    if machine.memory_total_gib:
        shared = ", shared with the system" if machine.is_integrated else ""
        found["memory"] = f"{machine.memory_total_gib:.1f} GiB{shared}"
    if machine.device_type == "cuda":
        found["driver"] = _driver()
    found["system"] = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    found["Triton"] = machine.triton_missing or _version("triton") or _version("triton-windows") or "version unknown"
    others = ", ".join(f"{ATTENTION_PACKAGES[name]} {version}" for name, version in attentions.items())
    found["attention packages"] = others or f"none of {', '.join(ATTENTION_PACKAGES.values())}"
    return found


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _driver() -> str:
    try:
        import pynvml  # pyright: ignore[reportMissingTypeStubs]
    except ImportError:
        return "version unknown (the package nvidia-ml-py is not installed)"
    try:
        pynvml.nvmlInit()
        version = pynvml.nvmlSystemGetDriverVersion()
        pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        return f"version unknown (NVML does not work here: {error})"
    return str(version)


def as_json(found: Diagnosis) -> dict[str, Any]:
    """Return the diagnosis as JSON's types."""
    return {**dataclasses.asdict(found), "is_healthy": found.is_healthy}


def as_text(found: Diagnosis) -> str:
    """Return the diagnosis as people read it."""
    width = max(map(len, found.facts)) + 2
    lines = ["machine", *(f"  {name:{width}}{value}" for name, value in found.facts.items())]
    for node, dtype, decisions in (
        ("OptimizeModel", f"SDXL in {found.unet_dtype}", found.model_decisions),
        ("OptimizeVAE", f"SDXL's VAE in {found.vae_dtype}", found.vae_decisions),
    ):
        lines += ["", f"{node}, everything on auto, {dtype}"]
        lines += [f"  {d.outcome:8} {d.technique}: {d.reason}" for d in decisions]
    lines.append("")
    if found.kernels_untested_because:
        lines.append(f"kernels: not tested; engine: {found.kernels_untested_because}")
        return "\n".join(lines)
    failed = sum(not result.passed for result in found.kernels)
    lines.append(
        f"kernels: {f'{failed} of {len(found.kernels)} FAILED' if failed else f'all {len(found.kernels)} agree with torch'}"
    )
    for result in found.kernels:
        error = "" if result.relative_error is None else f"{result.relative_error:.1e} of {result.tolerance:.0e} allowed"
        words = ("FAILED" if result.failure else "ok    ", result.kernel, result.dtype, error, result.failure)
        lines.append("  " + "  ".join(word for word in words if word))
    return "\n".join(lines)
