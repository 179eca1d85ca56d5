"""Runs other programs in the foreground."""

import contextlib
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

GRACE_S = 30
# torch's CPU threads otherwise wait by spinning: beside other work on the same two cores 20 steps of the tiny model took
# 80 s, with this they take 3 s.
SHARE_THE_CPU = ("OMP_WAIT_POLICY", "PASSIVE")


def run(command: Sequence[str | Path], cwd: Path | None = None, env: Mapping[str, str] | None = None) -> int:
    """Exit status of `command`, which shares our terminal.

    On Ctrl-C the program, which the terminal interrupts too, gets time to clean up before it is ended.
    """
    process = subprocess.Popen([str(part) for part in command], cwd=cwd, env=env)
    try:
        return process.wait()
    except KeyboardInterrupt:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)
        raise
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
