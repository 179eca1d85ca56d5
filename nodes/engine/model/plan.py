"""Decides what OptimizeModel applies: settings and facts in, a frozen plan out."""

from dataclasses import dataclass

from ..facts import MachineFacts
from ..report import Decision

ENGINES = ("auto", "fast", "eager", "off")
PRECISIONS = ("auto", "fp16", "bf16", "fp32", "fp8")
ATTENTIONS = ("auto", "sdpa", "cudnn", "xformers", "sage")
SWITCHES = ("auto", "on", "off")

# The stock SDXL path spends its time in these; measured records are in docs/benchmarks/.
FP16_ACCUMULATION_CAPABILITIES = ((8, 9), (12, 0))
# torch._scaled_mm with a scale per row gives fp16 on every device from here on; older ones give bf16 alone on most.
FP8_TORCH = (2, 11)
FP8_LOSES_ON = ((12, 1),)  # GB10: bandwidth is its limit, and quantising adds passes
SAMPLER_DECISION = Decision.done(
    "sampler", "prepares a step while the one before runs: it need not ask the device for its sigmas"
)


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """What the user chose on the node."""

    engine: str = "auto"
    precision: str = "auto"
    attention: str = "auto"
    channels_last: str = "auto"
    cudnn_autotune: str = "auto"
    fp16_accumulation: str = "auto"


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """The loaded diffusion model, told by its structure.

    `not_sdxl_because` is empty for every UNet of the SDXL family. Dtypes are "fp16", "bf16", "fp32" or another torch name;
    `replaced_by` names what another node swapped the UNet or a part of it for, "" when nothing did. `lacks` tells what this ComfyUI
    does not have for any technique at all, the others what it does not have for that one; "" when everything is there.
    """

    model_class: str
    lacks: str = ""
    engine_lacks: str = ""
    attention_lacks: str = ""
    precision_lacks: str = ""
    not_sdxl_because: str = ""
    weight_dtype: str = "fp16"
    compute_dtype: str = "fp16"
    attention_functions: tuple[str, ...] = ("pytorch",)
    core_attention: str = "pytorch"
    replaced_by: str = ""
    has_attention_override: bool = False


@dataclass(frozen=True, kw_only=True)
class ModelPlan:
    """What will be done to one clone of the model, and every decision with its reason.

    `engine` is "fast" (Triton kernels), "eager" (the same forward on torch) or "off" (ComfyUI's own forward); `precision` and
    `attention` are None where ComfyUI's choice stays; `attention_yields` to one that another node has put in ComfyUI's place by the
    time of a run; `known_sigmas` lets samplers of ComfyUI prepare a step while the one before runs; `fp8` keeps the engine's large
    linears in FP8.
    """

    engine: str = "off"
    cuda_graph: bool = False
    known_sigmas: bool = False
    precision: str | None = None
    fp8: bool = False
    attention: str | None = None
    attention_yields: bool = False
    cudnn_autotune: bool = False
    fp16_accumulation: bool = False
    decisions: tuple[Decision, ...] = ()

    @property
    def changes_nothing(self) -> bool:
        """Tell whether the model can be passed on as it came."""
        return not any(decision.applied for decision in self.decisions)


def plan_model(settings: ModelSettings, machine: MachineFacts, model: ModelFacts) -> ModelPlan:
    """Decide from facts alone what to apply to `model` on `machine`; nothing is tried."""
    if model.lacks:
        return ModelPlan(decisions=(Decision.refused("all", f"{model.lacks}; passed through untouched"),))
    if model.not_sdxl_because:
        refusal = Decision.refused(
            "all", f"{model.model_class} is not an SDXL UNet ({model.not_sdxl_because}); passed through untouched"
        )
        return ModelPlan(decisions=(refusal,))
    precision, precision_decision = _precision(settings, machine, model)
    compute_dtype = precision or model.compute_dtype
    engine, engine_decision = _engine(settings, machine, model, compute_dtype)
    if settings.precision == "fp8":
        precision_decision = _fp8(settings, machine, compute_dtype, engine)
    attention, attention_decision = _attention(settings, machine, model, compute_dtype)
    layout_decision = _channels_last(settings, engine)
    graph_decision = _cuda_graph(settings, machine, engine)
    autotune_decision = _cudnn_autotune(settings, machine)
    accumulation_decision = _fp16_accumulation(settings, machine, compute_dtype)
    return ModelPlan(
        engine=engine,
        cuda_graph=graph_decision.applied,
        known_sigmas=graph_decision.applied,
        precision=precision,
        fp8=settings.precision == "fp8" and precision_decision.applied,
        attention=attention,
        attention_yields=settings.attention == "auto",
        cudnn_autotune=autotune_decision.applied,
        fp16_accumulation=accumulation_decision.applied,
        decisions=(
            engine_decision,
            graph_decision,
            *((SAMPLER_DECISION,) if graph_decision.applied else ()),
            layout_decision,
            attention_decision,
            precision_decision,
            autotune_decision,
            accumulation_decision,
        ),
    )


def _precision(settings: ModelSettings, machine: MachineFacts, model: ModelFacts) -> tuple[str | None, Decision]:
    name = "precision"
    if settings.precision in ("auto", "fp8"):
        return None, Decision.kept(name, f"{model.compute_dtype}, as ComfyUI loaded it")
    if settings.precision == model.compute_dtype:
        return None, Decision.kept(name, f"already {model.compute_dtype}")
    if model.precision_lacks:
        return None, Decision.refused(name, model.precision_lacks)
    if settings.precision == "fp16" and machine.device_type == "cpu":
        return None, Decision.refused(name, "fp16 was asked for; CPUs compute it slower than fp32 and less exactly")
    if settings.precision == "bf16" and machine.capability is not None and machine.capability < (8, 0):
        return None, Decision.refused(name, f"bf16 needs compute capability 8.0, this device has {_dotted(machine)}")
    reason = f"{settings.precision}; weights stay {model.weight_dtype} and are cast at every layer, which costs time"
    return settings.precision, Decision.done(name, reason)


def _fp8(settings: ModelSettings, machine: MachineFacts, compute_dtype: str, engine: str) -> Decision:
    name = "precision"
    if engine != "fast":
        return Decision.refused(name, f"fp8 needs the fast engine, here it is {engine}")
    if machine.capability is None or machine.capability < (8, 9):
        return Decision.refused(name, f"fp8 needs compute capability 8.9, this device has {_dotted(machine)}")
    if machine.torch_version < FP8_TORCH:
        torch_version = ".".join(map(str, machine.torch_version))
        return Decision.refused(name, f"fp8 needs torch {'.'.join(map(str, FP8_TORCH))}, this is {torch_version}")
    kept = f"FP8 for linears of 1024 input channels and more, a scale per row; the rest stays {compute_dtype}; near-lossless"
    if machine.capability in FP8_LOSES_ON:
        if settings.engine != "fast":
            reason = f"FP8 is known to lose to {compute_dtype} on {machine.device_name}; choose engine fast by name to use it all the same"
            return Decision.refused(name, reason)
        return Decision.done(name, f"{kept}; known to lose on {machine.device_name}")
    return Decision.done(name, kept)


def _engine(settings: ModelSettings, machine: MachineFacts, model: ModelFacts, compute_dtype: str) -> tuple[str, Decision]:
    name = "engine"
    if settings.engine == "off":
        return "off", Decision.kept(name, "off, as chosen: ComfyUI's own forward runs")
    if model.engine_lacks:
        return "off", Decision.refused(name, model.engine_lacks)
    if model.replaced_by:
        return "off", Decision.refused(
            name, f"another node already replaced the UNet ({model.replaced_by}); remove one of the two"
        )
    if model.weight_dtype != compute_dtype:
        return "off", Decision.refused(
            name, f"weights are {model.weight_dtype} but computing is {compute_dtype}: every layer has to cast"
        )
    if compute_dtype not in ("fp16", "bf16", "fp32"):
        return "off", Decision.refused(name, f"weights are {compute_dtype}; fp16, bf16 and fp32 are supported")
    if settings.engine == "eager":
        return "eager", Decision.done(name, "eager: resident weights, one pass over the UNet on torch's own kernels")
    missing = _why_not_fast(machine, compute_dtype)
    if not missing:
        return "fast", Decision.done(name, "fast: resident weights, channels-last blocks on Triton kernels")
    if settings.engine == "fast":
        return "off", Decision.refused(name, f"fast {missing}")
    if machine.device_type == "cuda":
        return "eager", Decision.done(name, f"eager, because fast {missing}")
    return "off", Decision.refused(name, f"fast {missing}; eager gains nothing measured here, choose it by name to try")


def _why_not_fast(machine: MachineFacts, compute_dtype: str) -> str:
    if machine.device_type != "cuda":
        return f"needs a CUDA device, this is {machine.device_name}"
    if machine.capability is not None and machine.capability < (8, 0):
        return f"needs compute capability 8.0, this device has {_dotted(machine)}"
    if machine.triton_missing:
        return f"needs Triton, which {machine.triton_missing}"
    if compute_dtype == "fp32":
        return "has kernels for fp16 and bf16, the model computes in fp32"
    return ""


def _cuda_graph(settings: ModelSettings, machine: MachineFacts, engine: str) -> Decision:
    name = "CUDA graph"
    if settings.engine == "off":
        return Decision.kept(name, "off with the engine")
    if engine == "off":
        return Decision.refused(name, "needs the engine")
    if machine.device_type != "cuda":
        return Decision.refused(name, f"needs a CUDA device, this is {machine.device_name}")
    return Decision.done(name, "one per shape, captured at its first step")


def _channels_last(settings: ModelSettings, engine: str) -> Decision:
    name = "channels-last"
    if engine != "off":
        if settings.channels_last == "off":
            return Decision.refused(name, "off was asked for; the engine works channels-last, choose engine off")
        return Decision.done(name, "whole UNet")
    if settings.channels_last == "off":
        return Decision.kept(name, "off, as chosen")
    if settings.engine == "off" and settings.channels_last == "auto":
        return Decision.kept(name, "off with the engine")
    return Decision.refused(
        name, "needs the engine: ComfyUI's GroupNorm returns to NCHW at every layer, which costs more than it gains"
    )


def _attention(
    settings: ModelSettings, machine: MachineFacts, model: ModelFacts, compute_dtype: str
) -> tuple[str | None, Decision]:
    name = "attention"
    if model.attention_lacks:
        return None, Decision.refused(name, model.attention_lacks)
    if model.has_attention_override:
        return None, Decision.kept(name, "another node chose the attention function; it stays in charge")
    if settings.attention == "auto":
        if machine.capability == (9, 0) and model.core_attention == "pytorch" and compute_dtype != "fp32":
            # sm_90 only: cuDNN is 1.4 to 1.6 times flash there and slower than flash on 8.x and 12.x (docs/optimization-guide.md).
            return "cudnn", Decision.done(name, "cuDNN first: the fastest on compute capability 9.0")
        return None, Decision.kept(name, f"ComfyUI's {model.core_attention}")
    if settings.attention == "sdpa":
        if model.core_attention == "pytorch":
            return None, Decision.kept(name, "ComfyUI already uses SDPA")
        return "sdpa", Decision.done(name, "torch SDPA")
    if settings.attention == "cudnn":
        if machine.device_type != "cuda":
            return None, Decision.refused(name, f"cuDNN attention needs a CUDA device, this is {machine.device_name}")
        if machine.capability is not None and machine.capability < (8, 0):
            return None, Decision.refused(
                name, f"cuDNN attention needs compute capability 8.0, this device has {_dotted(machine)}"
            )
        if compute_dtype == "fp32":
            return None, Decision.refused(name, "cuDNN attention computes in fp16 or bf16, the model in fp32")
        return "cudnn", Decision.done(name, "cuDNN first")
    return _installed_attention(settings.attention, machine, model, compute_dtype)


def _installed_attention(
    choice: str, machine: MachineFacts, model: ModelFacts, compute_dtype: str
) -> tuple[str | None, Decision]:
    name = "attention"
    package = {"xformers": "xformers", "sage": "sageattention"}[choice]
    if choice not in model.attention_functions:
        return None, Decision.refused(name, f"{choice} is not available in this ComfyUI (pip package {package})")
    if machine.device_type != "cuda":
        return None, Decision.refused(name, f"{choice} needs a CUDA device, this is {machine.device_name}")
    if choice == "sage" and compute_dtype == "fp32":
        return None, Decision.refused(name, "SageAttention computes in fp16 or bf16, the model in fp32")
    return choice, Decision.done(name, choice + (", near-lossless" if choice == "sage" else ""))


def _cudnn_autotune(settings: ModelSettings, machine: MachineFacts) -> Decision:
    name = "cuDNN autotune"
    if settings.cudnn_autotune == "off":
        return Decision.kept(name, "not turned on, as chosen")
    if machine.device_type != "cuda":
        return Decision.refused(name, f"needs a CUDA device, this is {machine.device_name}")
    if settings.cudnn_autotune == "auto":
        return Decision.kept(
            name, "not turned on: it gains at most a few percent and may ask for workspaces as large as the card"
        )
    return Decision.done(name, "on for the sampling run only")


def _fp16_accumulation(settings: ModelSettings, machine: MachineFacts, compute_dtype: str) -> Decision:
    name = "fp16 accumulation"
    if settings.fp16_accumulation == "off":
        return Decision.kept(name, "not turned on, as chosen")
    if settings.fp16_accumulation == "auto":
        return Decision.kept(name, "not turned on: near-lossless, so never chosen by auto")
    if machine.device_type != "cuda":
        return Decision.refused(name, f"needs a CUDA device, this is {machine.device_name}")
    if machine.torch_version < (2, 7):
        return Decision.refused(name, f"needs torch 2.7, this is {machine.torch_version[0]}.{machine.torch_version[1]}")
    if compute_dtype != "fp16":
        return Decision.refused(name, f"needs fp16, the model computes in {compute_dtype}")
    if machine.capability not in FP16_ACCUMULATION_CAPABILITIES:
        return Decision.refused(name, f"pays on consumer Ada and Blackwell (8.9, 12.0), this device has {_dotted(machine)}")
    return Decision.done(name, "on for the sampling run only; near-lossless")


def _dotted(machine: MachineFacts) -> str:
    return "none" if machine.capability is None else f"{machine.capability[0]}.{machine.capability[1]}"
