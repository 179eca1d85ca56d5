"""The `fast-sprites` command: measures, draws and examines from a terminal, against a running ComfyUI or none."""

import argparse
import sys
from collections.abc import Sequence

from ..engine.errors import PackError
from .commands import bench, doctor, generate

COMMANDS = (bench, doctor, generate)


def parser() -> argparse.ArgumentParser:
    """The arguments of every command; a command's module adds its own and names its `run`."""
    top = argparse.ArgumentParser(prog="fast-sprites", description="Game sprites from your SDXL in ComfyUI, fast.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(commands)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit status, 130 after Ctrl-C."""
    options = parser().parse_args(arguments)
    try:
        return options.run(options)
    except PackError as error:
        print(f"fast-sprites {options.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"fast-sprites {options.command}: stopped by Ctrl-C", file=sys.stderr)
        return 130
