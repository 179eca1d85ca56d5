"""Carries a VaePlan out on a copy of the VAE."""

import logging
from functools import partial
from typing import Any

from ...comfy_adapters import vae as vae_adapter
from ...comfy_adapters.progress import send_text
from ..errors import BadInputError
from ..facts import read_machine_facts
from ..report import report_text
from .plan import VaeFacts, VaeSettings, plan_vae
from .run_decode import KeptDecoder, SpriteDecoder

log = logging.getLogger("fast_sprites")


def optimize_vae(vae: Any, settings: VaeSettings, node_id: str) -> tuple[Any, str]:
    """Return an optimised copy of a VAE and the report; `vae` itself is never touched.

    What a decode could not do as planned is shown on node `node_id`. Raises BadInputError for anything else than a VAE and for a
    checkpoint without one.
    """
    if not vae_adapter.is_vae(vae):
        raise BadInputError(f"Optimize VAE was given a {type(vae).__name__}: connect a VAE, from a checkpoint or VAE loader.")
    if vae_adapter.is_empty(vae):
        raise BadInputError("vae is empty: the checkpoint holds none; load one with Load VAE.")
    machine = read_machine_facts(vae_adapter.load_device(vae))
    plan = plan_vae(settings, machine, VaeFacts(**vae_adapter.describe_vae(vae)))
    report = report_text(machine.label, plan.decisions)
    if not any(decision.applied for decision in plan.decisions):
        return vae, report
    kept = KeptDecoder()
    decoder = SpriteDecoder(plan, kept, partial(send_text, node_id=node_id))
    log.info("OptimizeVAE: %s", report.replace("\n", "; "))
    return vae_adapter.with_decode(vae, decoder, kept.release), report
