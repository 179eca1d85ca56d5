"""Starts a ComfyUI server as a process of its own and stops it again."""

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from ..engine.errors import PackError

LOOPBACK = "127.0.0.1"
STOP_TIMEOUT_S = 15.0
POLL_S = 0.2
# A proxy named in the environment must not be asked for the loopback interface.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ServerError(PackError):
    """ComfyUI did not start, or did not stay up; `log_tail` holds the end of its log."""

    def __init__(self, message: str, log_tail: str = "") -> None:
        """Keep the end of the log apart, so that callers decide where to show it."""
        super().__init__(message)
        self.log_tail = log_tail


@dataclass(frozen=True)
class ServerSetup:
    """What a server is started from."""

    python: Path
    comfyui: Path
    base_directory: Path
    log: Path
    flags: tuple[str, ...] = ()
    port: int | None = None
    ends_with_parent: bool = False
    """Linux alone: the kernel kills the server when the thread that started it ends, even by a kill."""


def _end_with_parent() -> Callable[[], object]:
    """What the new process does before it becomes ComfyUI: prctl(PR_SET_PDEATHSIG, SIGKILL)."""
    prctl = ctypes.CDLL(None).prctl  # looked up before the fork, after which another thread may hold a lock for ever
    return lambda: prctl(1, int(signal.SIGKILL))


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def require_free(port: int) -> None:
    """Raise ServerError if somebody listens on this port of the loopback interface."""
    with socket.socket() as probe:
        if sys.platform != "win32":  # there the option would let two servers share the port
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise ServerError(
                f"Port {port} of {LOOPBACK} is in use: stop the program that listens there, choose another port, "
                "or name none to get a free one."
            ) from error


def known_flags(comfyui: Path, flags: Sequence[str]) -> tuple[str, ...]:
    """Those of `flags` that this version of ComfyUI knows; `--name=value` counts by its name."""
    source = (comfyui / "comfy" / "cli_args.py").read_text(encoding="utf-8")
    return tuple(flag for flag in flags if f'"{flag.partition("=")[0]}"' in source)


class ComfyServer:
    """A running ComfyUI; as a context manager it is up inside the block and stopped after it, whatever happens."""

    def __init__(self, setup: ServerSetup, start_timeout_s: float = 300.0) -> None:
        """Nothing is started before `start` or the `with` block."""
        self.setup = setup
        self.port = setup.port or free_port()
        self._start_timeout_s = start_timeout_s
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Base URL of the server."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def pid(self) -> int:
        """Process id of the server; raises ServerError before it is started."""
        if self._process is None:
            raise ServerError("The server is not started: call start() first.")
        return self._process.pid

    def start(self) -> None:
        """Start ComfyUI and return once it answers; raises ServerError if it dies, hangs or the port is taken."""
        require_free(self.port)
        self.setup.log.parent.mkdir(parents=True, exist_ok=True)
        python = self.setup.python  # a file, or a name on the search path
        command = [
            str(python.absolute() if python.is_file() else python),
            "-u",
            str(self.setup.comfyui.absolute() / "main.py"),
            *("--base-directory", str(self.setup.base_directory.absolute())),
            *("--listen", LOOPBACK, "--port", str(self.port)),
            *self.setup.flags,
        ]
        with self.setup.log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self.setup.comfyui,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # A group of its own: Ctrl-C reaches us alone, and stop() reaches everything that the server started.
                start_new_session=sys.platform != "win32",
                preexec_fn=_end_with_parent() if self.setup.ends_with_parent and sys.platform == "linux" else None,
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            )
        try:
            self._wait_until_up()
        except BaseException:
            self.stop()
            raise

    def _wait_until_up(self) -> None:
        deadline = time.monotonic() + self._start_timeout_s
        while not self._answers():
            self.require_alive()
            if time.monotonic() > deadline:
                raise ServerError(
                    f"ComfyUI did not answer on {self.address} within {self._start_timeout_s:.0f} s: its log is {self.setup.log}.",
                    self.log_tail(),
                )
            time.sleep(POLL_S)

    def _answers(self) -> bool:
        try:
            with _DIRECT.open(f"{self.address}/system_stats", timeout=5) as response:
                return "system" in json.load(response)
        except (urllib.error.URLError, OSError, ValueError):
            return False

    def require_alive(self) -> None:
        """Raise ServerError with the end of the log if the process has ended."""
        status = self._process.poll() if self._process else None
        if status is not None:
            raise ServerError(f"ComfyUI ended by itself with status {status}: its log is {self.setup.log}.", self.log_tail())

    def log_text(self) -> str:
        """Everything that the server has printed so far."""
        return self.setup.log.read_text(encoding="utf-8", errors="replace")

    def log_tail(self, num_lines: int = 30) -> str:
        """The last lines that the server printed."""
        return "\n".join(self.log_text().splitlines()[-num_lines:])

    def stop(self) -> None:
        """End the server and every process that it started; does nothing if it is not running."""
        process = self._process
        if process is None:
            return
        self._signal(signal.SIGTERM)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self._signal(getattr(signal, "SIGKILL", signal.SIGTERM))
            process.wait()
            self._process = None

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        if sys.platform == "win32":
            self._process.terminate()
        else:
            # macOS does not permit it where all that is left has ended and is not waited for.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    def __enter__(self) -> "ComfyServer":
        """Start the server."""
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop the server."""
        self.stop()
