"""`fast-sprites bench`: measures stock ComfyUI against the optimiser nodes, and reports and compares what was measured."""

import argparse
import asyncio
import contextlib
import importlib.metadata
import shlex
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ...engine.errors import BadInputError, PackError
from ..bench import scenarios, terminal
from ..bench.campaign import Plan, run_plan, utc_now
from ..bench.markdown import markdown
from ..bench.method import Limits
from ..bench.record import Record
from ..bench.scenarios import BATCHES, LADDER, SCENARIOS, TWO_SIDES, Choices, find_scenarios
from ..server import ComfyServer, ServerError, ServerSetup, known_flags

DEFAULT_SERVER = "http://127.0.0.1:8188"
# A server of its own neither asks the network nor keeps a database.
OWN_FLAGS = ("--disable-api-nodes", "--database-url=sqlite:///:memory:")


def add_parser(commands: Any) -> None:
    """Add the command and its subcommands to the subparsers `commands`."""
    command = commands.add_parser(
        "bench",
        help="measure stock ComfyUI against the optimiser nodes",
        description="Measures stock ComfyUI against the optimiser nodes, in turn on one server, with the likeness of the pictures.",
    )
    kinds = command.add_subparsers(dest="bench", required=True, metavar="KIND")
    run_parser = kinds.add_parser("run", help="stock against ours, scenario by scenario")
    run_parser.add_argument(
        "--scenarios",
        nargs="+",
        metavar="NAME",
        default=["single", "batch8"],
        help=f"from {', '.join(s.name for s in SCENARIOS)}",
    )
    run_parser.add_argument(
        "--workflow", type=Path, metavar="FILE", help="a workflow of your own in API format instead, with the optimisers put in"
    )
    _add_measuring(run_parser)
    run_parser.set_defaults(run=run)
    ladder_parser = kinds.add_parser("ladder", help="stock, then one technique added at a time")
    ladder_parser.add_argument("--scenarios", nargs="+", metavar="NAME", default=["single"], help="as for run")
    ladder_parser.add_argument("--workflow", type=Path, metavar="FILE", help="as for run")
    _add_measuring(ladder_parser)
    ladder_parser.set_defaults(run=run_ladder)
    scaling_parser = kinds.add_parser("scaling", help="stock against ours from one picture a batch to many")
    scaling_parser.add_argument("--batches", nargs="+", type=int, metavar="N", default=list(BATCHES), choices=BATCHES)
    _add_measuring(scaling_parser)
    scaling_parser.set_defaults(run=run_scaling)


def _add_measuring(parser: argparse.ArgumentParser) -> None:
    where = parser.add_argument_group("the server")
    where.add_argument("--server", metavar="URL", help=f"a running ComfyUI with the pack (default {DEFAULT_SERVER})")
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
    how.add_argument("--budget-s", type=float, metavar="S", default=600.0, help="seconds for the whole benchmark (default 600)")
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
        "--json", type=Path, metavar="FILE", help="the record (default fast-sprites-bench-DATE.json), Markdown beside it"
    )


def run(options: argparse.Namespace) -> int:
    """`bench run`."""
    chosen = [] if options.workflow else find_scenarios(options.scenarios)
    return _measure(options, chosen, TWO_SIDES, options.workflow)


def run_ladder(options: argparse.Namespace) -> int:
    """`bench ladder`."""
    chosen = [] if options.workflow else find_scenarios(options.scenarios)
    return _measure(options, chosen, LADDER, options.workflow)


def run_scaling(options: argparse.Namespace) -> int:
    """`bench scaling`."""
    return _measure(options, find_scenarios([f"batch{size}" for size in options.batches]), TWO_SIDES, None)


def _measure(
    options: argparse.Namespace,
    chosen: list[scenarios.Scenario],
    sides: tuple[scenarios.Side, ...],
    workflow: Path | None,
) -> int:
    """Measure and write the reports, whatever ends it; 0, 1 after an error, 130 after Ctrl-C."""
    plan = Plan(
        scenarios=chosen,
        sides=sides,
        workflow=workflow,
        choices=_choices(options),
        limits=Limits(budget_s=options.budget_s, tight=options.tight_pct / 100, max_rounds=options.max_rounds),
        first_runs=not options.no_first_runs,
        seed=options.seed,
    )
    path = options.json or Path(datetime.now(timezone.utc).strftime("fast-sprites-bench-%Y%m%d-%H%M%S.json"))
    record = _new_record(plan)
    status = 0
    try:
        with _server(options) as address:
            asyncio.run(run_plan(address, plan, record, terminal.PlainProgress(), lambda: record.write(path)))
    except PackError as error:
        record.partial, status = str(error), 1
        if isinstance(error, ServerError) and error.log_tail:
            print(error.log_tail, file=sys.stderr)
    except KeyboardInterrupt:
        record.partial, status = "stopped by Ctrl-C", 130
    if record.partial:
        print(f"fast-sprites bench: {record.partial}", file=sys.stderr)
    if not record.scenarios:
        return status
    record.finished_utc = utc_now()
    record.write(path)
    path.with_suffix(".md").write_text(markdown(record), encoding="utf-8")
    terminal.summary(record)
    print(f"\nRecord: {path}\nReport: {path.with_suffix('.md')}")
    return status


def _new_record(plan: Plan) -> Record:
    limits = plan.limits
    return Record(
        command=shlex.join(["fast-sprites", *_without_folders(sys.argv[1:])]),
        started_utc=utc_now(),
        pack_version=_pack_version(),
        machine={},
        method={
            "order": "all sides in turn, round by round, with the round's seed",
            "checkpoint": plan.choices.checkpoint,
            "size": plan.choices.size,
            "steps": plan.choices.steps,
            "cfg": plan.choices.cfg,
            "budget_s": limits.budget_s,
            "tight": limits.tight,
            "min_rounds": limits.min_rounds,
            "max_rounds": limits.max_rounds,
            "num_warm_ups": limits.num_warm_ups,
            "first_runs": plan.first_runs,
            "previews": "off",
        },
    )


def _without_folders(arguments: list[str]) -> list[str]:
    """The command without the folders of this machine, which are nobody's business in a record that is sent on."""
    return [
        part if part.startswith(("http:", "https:")) else part.replace("\\", "/").rsplit("/", 1)[-1] or part for part in arguments
    ]


def _pack_version() -> str:
    project = scenarios.WORKFLOWS.parents[1] / "pyproject.toml"
    if not project.is_file():
        return importlib.metadata.version("fast-sprites")
    lines = project.read_text(encoding="utf-8").splitlines()
    return next(line.split('"')[1] for line in lines if line.startswith("version"))


def _choices(options: argparse.Namespace) -> Choices:
    names = {name: Path(value).name if (value := getattr(options, name)) and options.pack else value for name in FILES}
    return Choices(**names, size=options.size, steps=options.steps, cfg=options.cfg)


FILES = {"checkpoint": "checkpoints", "lora": "loras", "controlnet": "controlnet"}


@contextmanager
def _server(options: argparse.Namespace) -> Generator[str, None, None]:
    """The address of the server to measure, which is started for the block if the user asks for it."""
    if options.start is None:
        if options.server_flags or options.pack:
            raise BadInputError(
                "--server-flags and --pack are for a server that this command starts: name its folder with --start."
            )
        yield (options.server or DEFAULT_SERVER).rstrip("/")
        return
    if options.server:
        raise BadInputError("--server and --start were both given: choose one.")
    comfyui = options.start.resolve()
    if not (comfyui / "main.py").is_file():
        raise BadInputError(f"{options.start} is no ComfyUI folder (it has no main.py): name one with --start.")
    with tempfile.TemporaryDirectory(prefix="fast-sprites-bench-", ignore_cleanup_errors=True) as temporary:
        base = _own_base(options, Path(temporary)) if options.pack else comfyui
        flags = (*known_flags(comfyui, OWN_FLAGS), *shlex.split(options.server_flags))
        setup = ServerSetup(options.python, comfyui, base, Path(temporary) / "server.log", flags)
        with ComfyServer(setup) as server:
            try:
                yield server.address
            except PackError:
                with contextlib.suppress(ServerError):
                    print(server.log_tail(), file=sys.stderr)
                server.require_alive()
                raise


def _own_base(options: argparse.Namespace, base: Path) -> Path:
    """A base folder with links to the packs and files that the user named."""
    (base / "custom_nodes").mkdir()
    for pack in options.pack:
        (base / "custom_nodes" / pack.resolve().name).symlink_to(pack.resolve(), target_is_directory=True)
    for name, folder in FILES.items():
        (base / "models" / folder).mkdir(parents=True)
        if value := getattr(options, name):
            file = Path(value).resolve()
            if not file.is_file():
                raise BadInputError(f"There is no file {value}: with --pack, --{name} is the path of a file.")
            (base / "models" / folder / file.name).symlink_to(file)
    return base
