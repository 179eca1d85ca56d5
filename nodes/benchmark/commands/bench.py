"""`fast-sprites bench`: measures stock ComfyUI against the optimiser nodes, and reports and compares what was measured."""

import argparse
import sys
from pathlib import Path
from typing import Any

from ..bench.scenarios import BATCHES, SCENARIOS
from . import bench_measure, bench_reports

EXAMPLES = """\
examples:
  fast-sprites bench run                                 a running ComfyUI on this machine: one sprite, and a batch of 8
  fast-sprites bench run --scenarios single lora --lora pixel.safetensors
  fast-sprites bench run --workflow mine.json            your own workflow (API format), the optimisers put in after its loaders
  fast-sprites bench run --start ~/ComfyUI               start that ComfyUI with its own models and packs, and stop it
  fast-sprites bench ladder                              which technique brings how much on this card
  fast-sprites bench scaling --batches 1 2 4 8           time and memory against the batch
  fast-sprites bench compare before.json after.json      status 3 if something got slower by more than 5 %
  fast-sprites bench report record.json --out page.svg   Markdown or plots of an old record
"""


def add_parser(commands: Any) -> None:
    """Add the command and its kinds to the subparsers `commands`."""
    command = commands.add_parser(
        "bench",
        help="measure stock ComfyUI against the optimiser nodes",
        description="Measures stock ComfyUI against the optimiser nodes, in turn on one server, with the likeness of the pictures.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = command.add_subparsers(dest="bench", required=True, metavar="KIND")
    _add_ours(_add_run(kinds, "run", "stock against ours, scenario by scenario", ["single", "batch8"], bench_measure.run))
    _add_run(kinds, "ladder", "stock, then one technique added at a time", ["single"], bench_measure.run_ladder)
    what = "stock against ours from one picture a batch to many"
    scaling = kinds.add_parser("scaling", help=what, description=what[0].upper() + what[1:] + ".")
    scaling.add_argument(
        "--batches", nargs="+", type=int, metavar="N", default=list(BATCHES), choices=BATCHES, help=_default(BATCHES)
    )
    _add_measuring(scaling)
    _add_ours(scaling)
    scaling.set_defaults(run=bench_measure.run_scaling)

    compare = kinds.add_parser(
        "compare",
        help="what got faster or slower between two records",
        description="Says what got faster or slower beyond the noise. Status 0, or 3 if something got slower by more than the threshold.",
    )
    compare.add_argument("old", type=Path, metavar="OLD", help="a record")
    compare.add_argument("new", type=Path, metavar="NEW", help="a later record of the same scenarios")
    compare.add_argument(
        "--threshold-pct", type=float, metavar="PCT", default=5.0, help="slow-down that is a regression (default 5)"
    )
    compare.add_argument(
        "--relative", action="store_true", help="compare ratios to stock instead of seconds: for records of two machines"
    )
    compare.set_defaults(run=bench_reports.run_compare)

    report = kinds.add_parser("report", help="tables and plots from a record", description="Tables and plots from a record.")
    report.add_argument("record", type=Path, metavar="RECORD", help="a JSON file that bench wrote")
    report.add_argument("--out", type=Path, nargs="+", metavar="FILE", default=[], help=".md, .png or .svg files to write")
    report.set_defaults(run=bench_reports.run_report)


def _default(values: Any) -> str:
    return "default " + " ".join(str(value) for value in values)


def _add_run(kinds: Any, name: str, what: str, default: list[str], run: Any) -> argparse.ArgumentParser:
    parser = kinds.add_parser(name, help=what, description=what[0].upper() + what[1:] + ".")
    parser.add_argument(
        "--scenarios",
        nargs="+",
        metavar="NAME",
        default=default,
        help=f"{_default(default)}; there are {', '.join(scenario.name for scenario in SCENARIOS)}",
    )
    parser.add_argument(
        "--workflow",
        type=Path,
        metavar="FILE",
        help="instead: a workflow of your own in API format, the optimisers put in after its loaders",
    )
    _add_measuring(parser)
    parser.set_defaults(run=run)
    return parser


def _add_ours(parser: argparse.ArgumentParser) -> None:
    ours = parser.add_argument_group("our side")
    ours.add_argument(
        "--model",
        nargs="+",
        metavar="NAME=VALUE",
        default=[],
        help="inputs of Optimize Model that are not to be at their defaults",
    )
    ours.add_argument("--vae", nargs="+", metavar="NAME=VALUE", default=[], help="inputs of Optimize VAE, likewise")


def _add_measuring(parser: argparse.ArgumentParser) -> None:
    where = parser.add_argument_group("the server")
    where.add_argument(
        "--server", metavar="URL", help=f"a running ComfyUI with the pack (default {bench_measure.DEFAULT_SERVER})"
    )
    where.add_argument(
        "--start", type=Path, metavar="DIR", help="start the ComfyUI of this folder for the benchmark, and stop it"
    )
    where.add_argument("--python", type=Path, metavar="FILE", default=Path(sys.executable), help="its Python (default: this one)")
    where.add_argument(
        "--server-flags",
        metavar="FLAGS",
        default="",
        help='its flags in one argument: --server-flags="--fast --front-end-root DIR"',
    )
    where.add_argument(
        "--pack",
        type=Path,
        nargs="+",
        metavar="DIR",
        help="run it with these custom nodes and the named files alone, in a folder of its own",
    )
    what = parser.add_argument_group("what is drawn")
    what.add_argument("--checkpoint", metavar="FILE", help="a name that the server has; with --pack the path of a file")
    what.add_argument("--lora", metavar="FILE", help="for the scenario lora, likewise")
    what.add_argument("--controlnet", metavar="FILE", help="for the scenario controlnet, likewise")
    what.add_argument("--size", type=int, metavar="PIXELS", help="width and height instead of the workflow's")
    what.add_argument("--steps", type=int, metavar="N", help="steps instead of the workflow's")
    what.add_argument("--cfg", type=float, metavar="X", help="guidance instead of the workflow's")
    how = parser.add_argument_group("how it is measured")
    how.add_argument(
        "--budget-s",
        type=float,
        metavar="S",
        default=600.0,
        help="seconds for the whole benchmark (default 600), shared evenly by the scenarios; each gets a round at least, however long",
    )
    how.add_argument(
        "--tight-pct", type=float, metavar="PCT", default=1.0, help="stop when medians are known within this (default 1)"
    )
    how.add_argument("--max-rounds", type=int, metavar="N", default=40, help="at most so many runs of each side (default 40)")
    how.add_argument(
        "--no-first-runs", action="store_true", help="skip the runs from an empty card, and the memory peaks with them"
    )
    how.add_argument("--seed", type=int, metavar="N", help="first seed; by default one that the server cannot have cached")
    out = parser.add_argument_group("what is written")
    out.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="the record (default fast-sprites-bench-DATE.json), Markdown beside it, and the log of a server that was started",
    )
