"""Carries a ModelPlan out on a clone of the model."""

import contextlib
import logging
from functools import partial
from typing import Any

from ...comfy_adapters import model_patcher
from ...comfy_adapters.progress import send_text
from ..errors import BadInputError
from ..facts import read_machine_facts
from ..report import report_text
from .known_sigmas import known_sigmas
from .plan import ModelFacts, ModelPlan, ModelSettings, plan_model
from .run_unet_engine import UNetEngine

log = logging.getLogger("fast_sprites")


def optimize_model(patcher: Any, settings: ModelSettings, node_id: str) -> tuple[Any, str]:
    """Return an optimised clone of a MODEL and the report; `patcher` itself is never touched.

    Raises BadInputError for anything else than a MODEL.
    """
    if not model_patcher.is_model(patcher):
        raise BadInputError(f"Optimize Model was given a {type(patcher).__name__}: connect a MODEL, from a checkpoint loader.")
    machine = read_machine_facts(model_patcher.load_device(patcher))
    clean = model_patcher.clone(patcher)
    facts = ModelFacts(**model_patcher.describe_model(clean))
    plan = plan_model(settings, machine, facts)
    report = report_text(machine.label, plan.decisions)
    if plan.changes_nothing:
        return (patcher if facts.lacks or facts.not_sdxl_because else clean), report
    clone = apply_model_plan(clean, plan, node_id)
    log.info("OptimizeModel %s: %s", node_id, report.replace("\n", "; "))
    return clone, report


def apply_model_plan(patcher: Any, plan: ModelPlan, node_id: str) -> Any:
    """Return a clone of `patcher` that samples as `plan` says; what happens in its runs is shown on node `node_id`."""
    clone = model_patcher.clone(patcher)
    if plan.precision is not None:
        model_patcher.set_compute_dtype(clone, plan.precision)
    if plan.engine != "off":
        engine = UNetEngine(plan, partial(send_text, node_id=node_id))
        model_patcher.wrap_run(clone, engine.run)
        model_patcher.wrap_forward(clone, engine.forward)
        model_patcher.on_detach(clone, engine.detached)
        if plan.known_sigmas:
            model_patcher.wrap_schedule(clone, known_sigmas)
    elif plan.attention is not None:
        model_patcher.set_attention(clone, plan.attention)
    if plan.cudnn_autotune or plan.fp16_accumulation:

        def switches(_guider: Any) -> contextlib.AbstractContextManager[None]:
            return model_patcher.torch_switches(cudnn_benchmark=plan.cudnn_autotune, fp16_accumulation=plan.fp16_accumulation)

        model_patcher.wrap_run(clone, switches)
    return clone
