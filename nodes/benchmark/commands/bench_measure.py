"""The measuring kinds of `fast-sprites bench`: run, ladder and scaling."""

import argparse
import asyncio
import importlib.util
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

from ...engine.errors import BadInputError, PackError
from ..bench.method import Limits
from ..bench.record import Record, without_folder
from ..bench.scenarios import LADDER, OURS, STOCK, Choices, Scenario, Side, find_scenarios
from ..client import ClientError, base_url
from ..pack import pack_version
from ..server import ComfyServer, ServerError, ServerSetup, known_flags
from ..urls import without_password
from .bench_reports import write_reports

DEFAULT_SERVER = "http://127.0.0.1:8188"
# A server of its own neither asks the network nor keeps a database.
OWN_FLAGS = ("--disable-api-nodes", "--database-url=sqlite:///:memory:")
WRITTEN_BESIDE = (".md", ".png", ".log")
DEATH_S = 1.0  # connections of a process that dies break before it has ended
FILES = {"checkpoint": "checkpoints", "lora": "loras", "controlnet": "controlnet"}


def run(options: argparse.Namespace) -> int:
    """`bench run`."""
    chosen = [] if options.workflow else find_scenarios(options.scenarios)
    return _measure(options, chosen, (STOCK, _ours(options)), options.workflow)


def run_ladder(options: argparse.Namespace) -> int:
    """`bench ladder`."""
    return _measure(options, [] if options.workflow else find_scenarios(options.scenarios), LADDER, options.workflow)


def run_scaling(options: argparse.Namespace) -> int:
    """`bench scaling`."""
    return _measure(options, find_scenarios([f"batch{size}" for size in options.batches]), (STOCK, _ours(options)), None)


def _ours(options: argparse.Namespace) -> Side:
    """Our side, with the inputs that the user named."""
    if not options.model and not options.vae:
        return OURS
    return Side(
        "ours",
        f"Optimize Model and Optimize VAE, {' '.join([*options.model, *options.vae])}",
        _widgets(options.model),
        _widgets(options.vae),
    )


def _widgets(pairs: Sequence[str]) -> dict[str, str | int]:
    found: dict[str, str | int] = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign:
            raise BadInputError(f"{pair!r} is no setting: write NAME=VALUE, for instance attention=sdpa.")
        found[name] = int(value) if value.isascii() and value.isdigit() else value
    return found


def _measure(options: argparse.Namespace, chosen: Sequence[Scenario], sides: Sequence[Side], workflow: Path | None) -> int:
    """Measure and write the reports, whatever ends it; 0, 1 after an error, 130 after Ctrl-C."""
    for package, name in (("numpy", "numpy"), ("PIL", "Pillow")):
        if importlib.util.find_spec(package) is None:
            raise PackError(f"Comparing pictures needs {name}, which is not installed: pip install {name}.")
    if not (options.budget_s >= 0 and options.tight_pct >= 0 and options.max_rounds >= 1):
        raise BadInputError(
            f"--budget-s {options.budget_s:g}, --tight-pct {options.tight_pct:g}, --max-rounds {options.max_rounds}: "
            "seconds and percent must be at least 0, rounds at least 1."
        )
    from ..bench.campaign import Plan, run_plan, utc_now
    from ..bench.terminal import make_progress

    plan = Plan(
        scenarios=chosen,
        sides=sides,
        workflow=workflow,
        choices=_choices(options),
        limits=Limits(budget_s=options.budget_s, tight=options.tight_pct / 100, max_rounds=options.max_rounds),
        first_runs=not options.no_first_runs,
        seed=options.seed,
    )
    if options.json is not None and (options.json.suffix in WRITTEN_BESIDE or options.json.is_dir()):
        raise BadInputError(
            f"--json {options.json} is a folder, or would be overwritten by what is written beside the record: "
            "name a file that ends in .json."
        )
    path = options.json or Path(datetime.now(timezone.utc).strftime("fast-sprites-bench-%Y%m%d-%H%M%S.json"))
    record = Record(
        command=shlex.join(["fast-sprites", *_shareable(sys.argv[1:])]),
        started_utc=utc_now(),
        pack_version=pack_version(),
        machine={},
        method=plan.method(),
    )
    status = 0
    try:
        with _stopped_in_order(), _server(options, path.with_suffix(".log")) as address, make_progress() as progress:
            asyncio.run(run_plan(address, plan, record, progress, lambda: record.write(path)))
    except PackError as error:
        record.partial, status = str(error), 1
        if isinstance(error, ServerError) and error.log_tail:
            print(error.log_tail, file=sys.stderr)
    except KeyboardInterrupt:
        record.partial, status = "stopped by Ctrl-C or SIGTERM", 130
    if record.partial:
        print(f"fast-sprites bench: {record.partial}", file=sys.stderr)
    if not record.scenarios:
        return status
    record.finished_utc = utc_now()
    write_reports(record, path)
    return status


@contextmanager
def _stopped_in_order() -> Generator[None, None, None]:
    """Let SIGTERM, which batch systems send, end the block as Ctrl-C does: with a report, and no server left behind."""

    def stop(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # timeout(1) sends it to the process, then to its group
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _shareable(arguments: list[str]) -> list[str]:
    """The command without passwords and the folders of this machine, which are nobody's business in a record that is sent on."""
    shown = [without_password(argument) for argument in arguments]
    return [part if part.startswith(("http:", "https:")) else without_folder(part) for part in shown]


def _choices(options: argparse.Namespace) -> Choices:
    names = {name: Path(value).name if (value := getattr(options, name)) and options.pack else value for name in FILES}
    return Choices(**names, size=options.size, steps=options.steps, cfg=options.cfg)


@contextmanager
def _server(options: argparse.Namespace, log: Path) -> Generator[str, None, None]:
    """The address of the server to measure, which is started for the block if the user asks for it; it then prints into `log`."""
    if options.start is None:
        if options.server_flags or options.pack:
            raise BadInputError(
                "--server-flags and --pack are for a server that this command starts: name its folder with --start."
            )
        address = (options.server or DEFAULT_SERVER).rstrip("/")
        if not address.startswith(("http://", "https://")):
            raise BadInputError(f"--server {without_password(address)} is no address: write http://HOST:PORT.")
        yield base_url(address)
        return
    if options.server:
        raise BadInputError("--server and --start were both given: choose one.")
    comfyui = options.start.resolve()
    if not (comfyui / "main.py").is_file():
        raise BadInputError(f"{options.start} is no ComfyUI folder (it has no main.py): name one with --start.")
    with tempfile.TemporaryDirectory(prefix="fast-sprites-bench-", ignore_cleanup_errors=True) as temporary:
        base = _own_base(options, Path(temporary)) if options.pack else comfyui
        flags = (*known_flags(comfyui, OWN_FLAGS), *_words(options.server_flags))
        setup = ServerSetup(options.python, comfyui, base, log, flags)
        with ComfyServer(setup) as server:
            try:
                yield server.address
            except ClientError:
                time.sleep(DEATH_S)
                server.require_alive()
                raise


def _words(flags: str) -> list[str]:
    try:
        return shlex.split(flags.replace("\\", "\\\\") if sys.platform == "win32" else flags)  # there it parts folders
    except ValueError as error:
        raise BadInputError(f"--server-flags {flags!r} cannot be taken apart: {error}.") from error


def _own_base(options: argparse.Namespace, base: Path) -> Path:
    """A base folder with links to the packs and files that the user named."""
    (base / "custom_nodes").mkdir()
    for pack in options.pack:
        _link(base / "custom_nodes", pack.resolve())
    for name, folder in FILES.items():
        (base / "models" / folder).mkdir(parents=True)
        if value := getattr(options, name):
            file = Path(value).resolve()
            if not file.is_file():
                raise BadInputError(f"There is no file {value}: with --pack, --{name} is the path of a file.")
            _link(base / "models" / folder, file)
    return base


def _link(folder: Path, target: Path) -> None:
    """Make a file or folder appear in `folder`."""
    try:
        (folder / target.name).symlink_to(target, target_is_directory=target.is_dir())
    except OSError as error:
        raise PackError(
            f"{target} cannot be linked into {folder} ({error.strerror}): Windows wants its Developer Mode for that; else measure without "
            "--pack."
        ) from error
