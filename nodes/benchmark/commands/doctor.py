"""`fast-sprites doctor`: this machine's facts, and what OptimizeModel would make of SDXL on it; no ComfyUI needed."""

import argparse
from typing import Any

from ...engine.report import report_text


def add_parser(commands: Any) -> None:
    """Add the command's arguments to the subparsers `commands`."""
    command = commands.add_parser("doctor", help="say what this machine is and what the optimiser nodes would do on it")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print facts and plan; 0."""
    import torch

    from ...engine.facts import read_machine_facts
    from ...engine.model.plan import ModelFacts, ModelSettings, plan_model

    machine = read_machine_facts(torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu"))
    dtype = "fp32" if machine.device_type == "cpu" else "fp16"
    plan = plan_model(ModelSettings(), machine, ModelFacts(model_class="SDXL", weight_dtype=dtype, compute_dtype=dtype))
    print(report_text(machine.label, plan.decisions))
    return 0
