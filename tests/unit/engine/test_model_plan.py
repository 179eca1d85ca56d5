"""What OptimizeModel would do on machines that people have, as values."""

import itertools
from dataclasses import replace

import pytest
from fast_sprites.nodes.engine.facts import MachineFacts
from fast_sprites.nodes.engine.model.plan import ATTENTIONS, ENGINES, PRECISIONS, SWITCHES, ModelFacts, ModelSettings, plan_model
from fast_sprites.nodes.engine.report import Decision, report_text

from ..machines import CPU, GB10, GTX_1080, H100

AUTO = ModelSettings()
SDXL = ModelFacts(model_class="SDXL", attention_functions=("pytorch", "split", "sub_quad"))
RTX_4090 = replace(H100, device_name="NVIDIA GeForce RTX 4090", capability=(8, 9), memory_total_gib=23.5)
RTX_5090 = replace(H100, device_name="NVIDIA GeForce RTX 5090", capability=(12, 0), memory_total_gib=31.4)
ROCM = MachineFacts(
    device_type="rocm", device_name="AMD Radeon RX 7900 XTX", memory_total_gib=24.0, torch_version=(2, 11), triton_missing=""
)
FP32 = replace(SDXL, weight_dtype="fp32", compute_dtype="fp32", core_attention="sub_quad")


def outcomes(plan) -> dict[str, str]:
    return {decision.technique: decision.outcome for decision in plan.decisions}


def reason(plan, technique: str) -> str:
    return next(decision.reason for decision in plan.decisions if decision.technique == technique)


@pytest.mark.parametrize(
    ("machine", "engine", "graph", "attention"),
    [
        (H100, "fast", True, "cudnn"),
        (RTX_4090, "fast", True, None),
        (RTX_5090, "fast", True, None),
        (GB10, "fast", True, None),
        (replace(H100, triton_missing="is not installed"), "eager", True, "cudnn"),
        (GTX_1080, "eager", True, None),
        (ROCM, "off", False, None),
        (replace(CPU, device_type="mps", device_name="MPS"), "off", False, None),
    ],
    ids=lambda value: getattr(value, "device_name", str(value)),
)
def test_auto_is_decided_from_facts(machine, engine, graph, attention):
    plan = plan_model(AUTO, machine, SDXL)
    assert (plan.engine, plan.cuda_graph, plan.attention) == (engine, graph, attention)
    assert plan.known_sigmas == ("sampler" in outcomes(plan)) == graph
    assert plan.precision is None
    assert not plan.cudnn_autotune
    assert not plan.fp16_accumulation


@pytest.mark.parametrize(
    "machine",
    [ROCM, *(replace(CPU, device_type=kind, device_name=kind.upper(), triton_missing="") for kind in ("xpu", "mps", "cpu"))],
    ids=lambda machine: machine.device_type,
)
def test_no_choice_applies_what_needs_cuda_elsewhere(machine):
    model = replace(SDXL, attention_functions=("pytorch", "xformers", "sage"))
    for engine, precision, attention, switch in itertools.product(ENGINES, PRECISIONS, ATTENTIONS, SWITCHES):
        settings = ModelSettings(
            engine=engine,
            precision=precision,
            attention=attention,
            channels_last=switch,
            cudnn_autotune=switch,
            fp16_accumulation=switch,
        )
        plan = plan_model(settings, machine, model)
        assert plan.engine in ("eager", "off")
        assert plan.attention in ("sdpa", None)
        assert not any((plan.cuda_graph, plan.fp8, plan.cudnn_autotune, plan.fp16_accumulation))


def test_auto_on_a_cpu_changes_nothing_and_says_why():
    plan = plan_model(AUTO, CPU, FP32)
    assert plan.changes_nothing
    assert (
        reason(plan, "engine")
        == "fast needs a CUDA device, this is CPU; eager gains nothing measured here, choose it by name to try"
    )


def test_whatever_is_asked_for_by_name_is_applied_or_refused_with_a_reason():
    for machine in (H100, RTX_4090, GTX_1080, ROCM, CPU):
        for attention in ATTENTIONS[1:]:
            settings = ModelSettings(
                engine="fast",
                precision="bf16",
                attention=attention,
                channels_last="on",
                cudnn_autotune="on",
                fp16_accumulation="on",
            )
            plan = plan_model(settings, machine, SDXL)
            assert all(decision.reason for decision in plan.decisions)
            kept = {technique for technique, outcome in outcomes(plan).items() if outcome == "kept"}
            assert kept <= {"attention"}  # SDPA where ComfyUI already uses it


@pytest.mark.parametrize(
    ("settings", "machine", "model", "technique", "expected"),
    [
        (ModelSettings(precision="bf16"), GTX_1080, SDXL, "precision", "bf16 needs compute capability 8.0, this device has 6.1"),
        (ModelSettings(precision="fp8"), replace(H100, capability=(8, 6)), SDXL, "precision", "fp8 needs compute capability 8.9, this device has 8.6"),
        (ModelSettings(precision="fp8"), replace(H100, torch_version=(2, 10)), SDXL, "precision", "fp8 needs torch 2.11, this is 2.10"),
        (ModelSettings(precision="fp8", engine="eager"), H100, SDXL, "precision", "fp8 needs the fast engine, here it is eager"),
        (ModelSettings(precision="fp8"), CPU, FP32, "precision", "fp8 needs the fast engine, here it is off"),
        (ModelSettings(precision="fp8"), GB10, SDXL, "precision", "FP8 is known to lose to fp16 on NVIDIA GB10; choose engine fast by name to use it all the same"),
        (ModelSettings(precision="fp16"), CPU, FP32, "precision", "fp16 was asked for; CPUs compute it slower than fp32 and less exactly"),
        (ModelSettings(engine="fast"), GTX_1080, SDXL, "engine", "fast needs compute capability 8.0, this device has 6.1"),
        (ModelSettings(engine="fast"), H100, FP32, "engine", "fast has kernels for fp16 and bf16, the model computes in fp32"),
        (ModelSettings(precision="bf16"), H100, SDXL, "engine", "weights are fp16 but computing is bf16: every layer has to cast"),
        (ModelSettings(), H100, replace(SDXL, weight_dtype="float8_e4m3fn", compute_dtype="float8_e4m3fn"), "engine", "weights are float8_e4m3fn; fp16, bf16 and fp32 are supported"),
        (ModelSettings(), H100, replace(SDXL, replaced_by="torch.compile"), "engine", "another node already replaced the UNet (torch.compile); remove one of the two"),
        (ModelSettings(engine="off", channels_last="on"), H100, SDXL, "channels-last", "needs the engine: ComfyUI's GroupNorm returns to NCHW at every layer, which costs more than it gains"),
        (ModelSettings(engine="fast"), replace(H100, triton_missing="needs a C compiler, and there is none on the PATH"), SDXL, "engine", "fast needs Triton, which needs a C compiler, and there is none on the PATH"),
        (ModelSettings(attention="sage"), H100, SDXL, "attention", "sage is not available in this ComfyUI (pip package sageattention)"),
        (ModelSettings(attention="xformers"), CPU, replace(FP32, attention_functions=("xformers",)), "attention", "xformers needs a CUDA device, this is CPU"),
        (ModelSettings(attention="cudnn"), GTX_1080, SDXL, "attention", "cuDNN attention needs compute capability 8.0, this device has 6.1"),
        (ModelSettings(attention="cudnn"), H100, FP32, "attention", "cuDNN attention computes in fp16 or bf16, the model in fp32"),
        (ModelSettings(fp16_accumulation="on"), H100, SDXL, "fp16 accumulation", "pays on consumer Ada and Blackwell (8.9, 12.0), this device has 9.0"),
        (ModelSettings(fp16_accumulation="on"), replace(RTX_4090, torch_version=(2, 6)), SDXL, "fp16 accumulation", "needs torch 2.7, this is 2.6"),
        (ModelSettings(channels_last="off"), H100, SDXL, "channels-last", "off was asked for; the engine works channels-last, choose engine off"),
        (ModelSettings(engine="eager", channels_last="off"), H100, SDXL, "channels-last", "off was asked for; the engine works channels-last, choose engine off"),
        (ModelSettings(cudnn_autotune="on"), CPU, FP32, "cuDNN autotune", "needs a CUDA device, this is CPU"),
    ],
)  # fmt: skip
def test_refusals(settings, machine, model, technique, expected):
    plan = plan_model(settings, machine, model)
    assert outcomes(plan)[technique] == "refused"
    assert reason(plan, technique) == expected


@pytest.mark.parametrize("machine", [RTX_4090, RTX_5090])
def test_fp16_accumulation_is_applied_where_it_pays(machine):
    assert plan_model(ModelSettings(fp16_accumulation="on"), machine, SDXL).fp16_accumulation


@pytest.mark.parametrize("machine", [H100, RTX_4090, RTX_5090])
def test_fp8_is_opt_in_and_says_what_it_costs(machine):
    assert not plan_model(AUTO, machine, SDXL).fp8
    plan = plan_model(ModelSettings(precision="fp8"), machine, SDXL)
    assert (plan.fp8, plan.engine, plan.precision) == (True, "fast", None)
    assert (
        reason(plan, "precision")
        == "FP8 for linears of 1024 input channels and more, a scale per row; the rest stays fp16; near-lossless"
    )


def test_fp8_is_forced_on_gb10_by_naming_the_engine():
    plan = plan_model(ModelSettings(precision="fp8", engine="fast"), GB10, SDXL)
    assert plan.fp8
    assert reason(plan, "precision").endswith("near-lossless; known to lose on NVIDIA GB10")
    assert not plan_model(ModelSettings(precision="fp8"), GB10, SDXL).fp8


def test_sage_is_applied_where_installed():
    plan = plan_model(ModelSettings(attention="sage"), RTX_4090, replace(SDXL, attention_functions=("pytorch", "sage")))
    assert plan.attention == "sage"
    assert reason(plan, "attention") == "sage, near-lossless"


def test_another_node_stays_in_charge_of_attention():
    plan = plan_model(ModelSettings(attention="cudnn"), H100, replace(SDXL, has_attention_override=True))
    assert plan.attention is None
    assert outcomes(plan)["attention"] == "kept"


def test_a_model_that_is_not_sdxl_is_named_with_the_reason():
    plan = plan_model(AUTO, H100, ModelFacts(model_class="Flux", not_sdxl_because="its diffusion model is a Flux"))
    assert plan.changes_nothing
    assert plan.decisions == (
        Decision.refused("all", "Flux is not an SDXL UNet (its diffusion model is a Flux); passed through untouched"),
    )


def test_report_counts_and_lists_every_decision():
    text = report_text("CPU", [Decision.done("a", "x"), Decision.refused("b", "y"), Decision.kept("c", "z")], ["w"])
    assert text.splitlines() == ["CPU: 1 applied, 1 refused", "applied: a: x", "refused: b: y", "kept: c: z", "note: w"]
