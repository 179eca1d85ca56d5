"""The command line of dev.py: reads the arguments, prepares the workspace, hands over to the prepared Python."""

import argparse
import errno
import io
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from dev_tools import checks, release
from dev_tools.checkpoint import require_sdxl
from dev_tools.comfyui import SDISTS, ComfyUI, find_comfyui, own_python, prepare_pinned
from dev_tools.environment import prepare_environment, prepare_versions
from dev_tools.errors import DevError
from dev_tools.processes import run
from dev_tools.versions import chosen
from dev_tools.workspace import PACK_ROOT, TINY_CHECKPOINT, TINY_SDXL, Workspace, link_checkpoint, prepare_base

COMFYUI_HELP = """\
which ComfyUI is used, the first of these that there is:
  --comfyui DIR, or the environment variable COMFYUI_PATH
  the ComfyUI whose custom_nodes folder this pack stands in
  ComfyUI 0.30.0, fetched once into .workspace/
Your own ComfyUI is run with its own Python, nothing is installed into it and none of its files are changed.
Versions that are named get a folder with everything of their own in .workspace/versions/."""


def parser() -> argparse.ArgumentParser:
    """The arguments of every command."""
    top = argparse.ArgumentParser(
        prog="dev.py",
        description="Runs Fast Sprites in a real ComfyUI, and its checks. Everything that is fetched or made goes into .workspace/.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=COMFYUI_HELP,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    where = argparse.ArgumentParser(add_help=False)
    where.add_argument(
        "--comfyui", metavar="DIR", help=f"run this ComfyUI instead of the pinned one; or a version: {', '.join(SDISTS)}"
    )
    where.add_argument(
        "--python",
        metavar="FILE",
        help="run ComfyUI with this Python, into which nothing is installed; or a version, such as 3.12",
    )
    where.add_argument("--torch", metavar="VERSION", help="with this torch, such as 2.8.0, or newest")
    where.add_argument("--frontend", metavar="VERSION", help="with this comfyui-frontend-package, such as 1.58.1, or newest")

    server = argparse.ArgumentParser(add_help=False)
    server.add_argument(
        "--checkpoint", type=Path, metavar="FILE", help="an SDXL .safetensors file (default: a tiny one, made here)"
    )
    server.add_argument("--port", type=port_number, help="port on the loopback interface (default: a free one)")

    demo = commands.add_parser(
        "demo",
        parents=[where, server],
        help="draw the bundled workflows in a real ComfyUI and save the pictures",
        description="Starts ComfyUI with this pack, draws the bundled workflows over its HTTP API, saves the pictures with one contact "
        "sheet, prints what was done, and stops ComfyUI. Runs on the CUDA device if there is one, else on the CPU.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=COMFYUI_HELP,
    )
    demo.add_argument(
        "--workflow", action="append", metavar="NAME", help="draw only this workflow of workflows/api/ (may be repeated)"
    )
    demo.add_argument(
        "--output", type=Path, default=Path("output"), metavar="DIR", help="where the pictures go (default: ./output)"
    )

    commands.add_parser(
        "serve",
        parents=[where, server],
        help="run ComfyUI with this pack until Ctrl-C",
        description="Starts ComfyUI with this pack and prints its address; the workflows are in its Templates browser.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=COMFYUI_HELP,
    )
    commands.add_parser(
        "test",
        parents=[where],
        allow_abbrev=False,  # else pytest's own options are taken for ours
        help="run lint, types and every tier of tests that this machine can run",
        description="Runs ruff, pyright, node --test and pytest. All other arguments go to pytest: `dev.py test tests/unit -k grid`.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=COMFYUI_HELP,
    )
    commands.add_parser(
        "release",
        help="check whether this version can be published to the Comfy registry",
        description="Checks version, changelog, registry metadata, archive, benchmark record, the tests' result, comfy-cli and known "
        "vulnerabilities, and says what is missing. Changes nothing and publishes nothing.",
    )
    return top


def port_number(text: str) -> int:
    """A TCP port that needs no rights, for argparse."""
    if not text.isdecimal() or not 1024 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: give a number from 1024 to 65535")
    return int(text)


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The arguments, and for `test` those that pytest gets; exits with a usage message if they are wrong."""
    options, rest = parser().parse_known_args(arguments)
    if rest and options.command != "test":
        parser().error(f"unrecognized arguments: {' '.join(rest)}")
    return options, rest


def prepare(options: argparse.Namespace, with_tests: bool) -> tuple[Workspace, ComfyUI, Path]:
    """The workspace of the arguments, with ComfyUI and the Python to run it with, both ready to use."""
    workspace = Workspace()
    versions = chosen(options.comfyui, options.python, options.torch, options.frontend)
    if versions is not None:
        workspace = workspace.inner(versions.name)
        prepare_pinned(workspace, versions.comfyui)
        return workspace, ComfyUI(workspace.comfyui, is_pinned=True), prepare_versions(workspace, versions, with_tests)
    comfyui = find_comfyui(Path(options.comfyui) if options.comfyui else None, os.environ, PACK_ROOT, workspace)
    python = Path(options.python) if options.python else None
    if python is None and not comfyui.is_pinned and not with_tests:
        python = own_python(comfyui.path)
    if python is not None and not python.is_file():
        raise DevError(f"--python names {python}, which is not there: give the Python that ComfyUI is installed with.")
    if comfyui.is_pinned:
        prepare_pinned(workspace)
    return workspace, comfyui, python.absolute() if python else prepare_environment(workspace, comfyui, with_tests)


def checkpoint_name(options: argparse.Namespace, workspace: Workspace, python: Path) -> str:
    """The name under which ComfyUI lists the checkpoint: the one given, else the tiny one, made if it is not there."""
    if options.checkpoint is not None:
        return link_checkpoint(options.checkpoint, workspace.checkpoints)
    target = workspace.checkpoints / TINY_CHECKPOINT
    newest_source = max(path.stat().st_mtime for path in TINY_SDXL.rglob("*") if path.is_file() and path.suffix != ".pyc")
    if target.is_file() and target.stat().st_mtime > newest_source:
        return target.name
    if run([python, TINY_SDXL / "make_checkpoint.py", target]) != 0:
        raise DevError("The tiny checkpoint could not be made, the reason stands above: give a real one with --checkpoint.")
    return target.name


def run_server_command(options: argparse.Namespace) -> int:
    """Prepare everything and run the demo or the server in the prepared Python."""
    if options.checkpoint is not None:
        require_sdxl(options.checkpoint)
    workspace, comfyui, python = prepare(options, with_tests=False)
    prepare_base(workspace)
    name = checkpoint_name(options, workspace, python)
    driver = [python, PACK_ROOT / "dev.py", "drive", options.command, "--workspace", workspace.root]
    driver += ["--comfyui", comfyui.path, "--checkpoint-name", name]
    if options.port is not None:
        driver += ["--port", str(options.port)]
    if options.command == "demo":
        driver += ["--output", options.output]
        for workflow in options.workflow or ():
            driver += ["--workflow", workflow]
    return run(driver)


def run_tests(options: argparse.Namespace, pytest_arguments: list[str]) -> int:
    """Prepare everything and run every check."""
    workspace, comfyui, python = prepare(options, with_tests=True)
    tree = release.source_tree(PACK_ROOT)
    status = checks.run_all(python, comfyui.path, pytest_arguments, os.environ)
    # With CI=true a tier that did not run is a failure, so that nothing is left out of a success.
    is_whole = comfyui.is_pinned and not pytest_arguments and os.environ.get("CI", "").lower() in ("1", "true")
    if status == 0 and is_whole and tree and tree == release.source_tree(PACK_ROOT):
        release.write_stamp(workspace.root, tree)
    return status


def ended(signal_number: int, frame: FrameType | None) -> None:
    """Leave through the `finally` clauses, which stop what was started."""
    raise SystemExit(128 + signal_number)


def main(arguments: Sequence[str]) -> int:
    """Run one command; its exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # into a pipe Windows writes its code page, which lacks a tick
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP, and nohup wants it ignored
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, ended)
    inside = arguments[:1] == ["drive"]  # what demo and serve run in the prepared Python, which has aiohttp and Pillow
    try:
        if inside:
            from dev_tools import drive

            return drive.main(arguments[1:])
        options, rest = parse(arguments)
        if options.command == "release":
            return release.run_checklist(PACK_ROOT)
        return run_tests(options, rest) if options.command == "test" else run_server_command(options)
    except KeyboardInterrupt:
        if not inside:
            print("dev.py: stopped by Ctrl-C", file=sys.stderr)
        return 0 if arguments[:1] == ["serve"] else 130  # for a server this is the way to end
    except DevError as error:
        print(f"dev.py: {error}", file=sys.stderr)
    except OSError as error:
        hint = ": free some space and run the same command again" if error.errno == errno.ENOSPC else ""
        print(f"dev.py: {error}{hint}", file=sys.stderr)
    return 1
