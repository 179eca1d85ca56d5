"""The half of `demo` and `serve` that runs in the prepared Python: starts ComfyUI and uses it."""

import argparse
import importlib.util
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dev_tools.console import say
from dev_tools.errors import DevError
from dev_tools.pack import pack_module
from dev_tools.processes import SHARE_THE_CPU
from dev_tools.workspace import TINY_CHECKPOINT, Workspace

NEEDED_MODULES = ("torch", "aiohttp", "PIL", "psutil")


def cuda_device() -> str | None:
    """The name of the CUDA device that torch sees here, if any."""
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None


def server_flags(comfyui: Path, with_cuda: bool) -> tuple[str, ...]:
    """How ComfyUI is started here: nothing leaves the machine, and its database stays out of its own folder."""
    wanted = ("--disable-api-nodes", "--database-url=sqlite:///:memory:", "--disable-auto-launch")
    return (*pack_module("nodes.benchmark.server").known_flags(comfyui, wanted), *(() if with_cuda else ("--cpu",)))


def make_server(options: argparse.Namespace, device: str | None) -> Any:
    """A server, not yet started, on the workspace's base directory."""
    server = pack_module("nodes.benchmark.server")
    workspace = Workspace(options.workspace)
    return server.ComfyServer(
        server.ServerSetup(
            python=Path(sys.executable),
            comfyui=options.comfyui,
            base_directory=workspace.base,
            log=workspace.root / "logs" / f"{options.command}.log",
            flags=server_flags(options.comfyui, device is not None),
            port=options.port,
        )
    )


def serve(server: Any, checkpoint: str) -> int:
    """Keep the server up until Ctrl-C or until it ends by itself."""
    with server:
        say(f"ComfyUI runs at {server.address} with the checkpoint {checkpoint}; Ctrl-C stops it.")
        say("Templates > Extensions > fast-sprites holds the workflows.")
        while True:
            server.require_alive()
            time.sleep(0.5)


def arguments() -> argparse.ArgumentParser:
    """What command_line.py passes on."""
    parser = argparse.ArgumentParser(prog="dev.py drive")
    parser.add_argument("command", choices=("demo", "serve"))
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--comfyui", type=Path, required=True)
    parser.add_argument("--checkpoint-name", required=True)
    parser.add_argument("--port", type=int)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--workflow", action="append")
    return parser


def main(argv: Sequence[str]) -> int:
    """Run one command; shows the end of the server's log and raises DevError if that fails."""
    options = arguments().parse_args(argv)
    missing = [name for name in NEEDED_MODULES if importlib.util.find_spec(name) is None]
    if missing:
        raise DevError(
            f"{sys.executable} has no {', '.join(missing)}: name the Python that ComfyUI is installed with by --python."
        )
    from dev_tools import demo

    device = cuda_device()
    if device is None:
        os.environ.setdefault(*SHARE_THE_CPU)
    server = make_server(options, device)
    pack_error, server_error = pack_module("nodes.engine.errors").PackError, pack_module("nodes.benchmark.server").ServerError
    try:
        if options.command == "serve":
            return serve(server, options.checkpoint_name)
        tiny = options.checkpoint_name == TINY_CHECKPOINT
        return demo.run_demo(server, options.checkpoint_name, tiny, options.workflow, options.output, device)
    except pack_error as error:
        tail = error.log_tail if isinstance(error, server_error) else server.log_tail()
        if tail:
            print(f"--- the end of {server.setup.log}:\n{tail}\n---", file=sys.stderr)
        raise DevError(str(error)) from error
