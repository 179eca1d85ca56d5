"""The `fast-sprites` command: measures, draws and examines from a terminal, against a running ComfyUI or none."""

import argparse
import io
import sys
from collections.abc import Sequence

from ..engine.errors import PackError
from .urls import without_password


def parser() -> argparse.ArgumentParser:
    """The arguments of every command; a command's module adds its own and names its `run`."""
    from .commands import bench, doctor, generate  # here, so that main() can say which package they miss

    top = argparse.ArgumentParser(prog="fast-sprites", description="Game sprites from your SDXL in ComfyUI, fast.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in (bench, doctor, generate):
        command.add_parser(commands)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit status, 130 after Ctrl-C."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Into a pipe Windows writes its code page, which lacks letters of names.
        sys.stdout.reconfigure(errors="backslashreplace")  # pyright: ignore[reportUnknownMemberType]
    try:
        options = parser().parse_args(arguments)
    except ModuleNotFoundError as missing:
        print(
            f"fast-sprites: {sys.executable} lacks the package {missing.name}; use the Python that runs ComfyUI.", file=sys.stderr
        )
        return 1
    try:
        return options.run(options)
    except (PackError, OSError) as error:  # OSError: a file or folder of the user's, which its words name
        print(f"fast-sprites {options.command}: {without_password(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"fast-sprites {options.command}: stopped by Ctrl-C", file=sys.stderr)
        return 130
