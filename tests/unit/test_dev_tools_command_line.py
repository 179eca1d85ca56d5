"""dev.py's arguments, messages and exit statuses."""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from dev_tools import command_line
from dev_tools.command_line import main, parse
from dev_tools.console import ProgressLine, bar, say
from dev_tools.processes import run
from dev_tools.workspace import PACK_ROOT

DEV = PACK_ROOT / "dev.py"


def dev(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(DEV), *arguments],
        capture_output=True,
        encoding="utf-8",
        check=False,
        env={**os.environ, **environment},
    )


def test_demo_arguments():
    options, rest = parse(["demo", "--workflow", "a", "--workflow", "b", "--port", "8190", "--output", "out"])
    assert (options.workflow, options.port, options.output, rest) == (["a", "b"], 8190, Path("out"), [])


def test_test_passes_the_rest_to_pytest_in_order():
    options, rest = parse(["test", "tests/unit", "-k", "grid", "-x", "--co", "--comfyui", "there"])
    assert options.comfyui == "there"
    assert rest == ["tests/unit", "-k", "grid", "-x", "--co"]


def test_a_tick_goes_into_a_pipe_of_windows(monkeypatch: pytest.MonkeyPatch):
    """Whose code page lacks it; node prints one for each test."""
    pipe = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(pipe, encoding="cp1252"))
    monkeypatch.setattr(command_line, "run_tests", lambda options, rest: say("\u2714 passed") or 0)
    assert main(["test"]) == 0
    assert pipe.getvalue().strip() == b"\\u2714 passed"


@pytest.mark.parametrize("arguments", [[], ["draw"], ["demo", "--prot", "1"], ["demo", "--port", "80"], ["serve", "--port", "x"]])
def test_wrong_arguments_end_with_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        parse(arguments)
    assert ended.value.code == 2
    assert "usage: dev.py" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["", "demo", "test", "serve"])
def test_help(command: str):
    shown = dev(*filter(None, [command]), "--help")
    assert shown.returncode == 0
    assert "COMFYUI_PATH" in shown.stdout


def test_bad_input_is_one_line_and_status_1(tmp_path: Path):
    for arguments in (["demo", "--checkpoint", str(tmp_path / "no.safetensors")], ["demo", "--comfyui", str(tmp_path)]):
        ended = dev(*arguments)
        assert ended.returncode == 1
        assert ended.stderr.startswith("dev.py: ")
        assert ended.stderr.count("\n") == 1


def test_a_python_that_is_not_there_is_refused(tmp_path: Path):
    (tmp_path / "main.py").write_text("")
    (tmp_path / "comfyui_version.py").write_text('__version__ = "0.30.0"')
    ended = dev("demo", "--comfyui", str(tmp_path), "--python", str(tmp_path / "no"))
    assert (ended.returncode, "which is not there" in ended.stderr) == (1, True)


def test_a_full_disk_is_a_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dev_tools.command_line.run_server_command", full)
    assert main(["demo"]) == 1
    assert "No space left on device: free some space" in capsys.readouterr().err


def test_old_pythons_can_read_dev_py():
    """Nothing newer than Python 2's syntax stands in dev.py, so that every Python reaches its message."""
    source = DEV.read_text(encoding="ascii")
    code = source.partition("sys.path.insert")[0]
    assert not any(sign in code for sign in ('f"', "f'", ":=", " -> ", "match "))


@pytest.mark.skipif(sys.platform == "win32", reason="signals differ on Windows")
def test_what_dev_py_started_ends_with_it(tmp_path: Path):
    """SIGTERM reaches the `finally` clauses of dev.py and of its child."""
    child = tmp_path / "child.py"
    child.write_text(
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))\n"
        "try:\n    pathlib.Path('up').touch(); time.sleep(60)\n"
        "finally:\n    pathlib.Path('cleaned').touch()\n"
    )
    parent = (
        "import signal, sys; sys.path.insert(0, sys.argv[1])\n"
        "from dev_tools.command_line import ended; from dev_tools.processes import run\n"
        "signal.signal(signal.SIGTERM, ended); run([sys.executable, 'child.py'])\n"
    )
    process = subprocess.Popen([sys.executable, "-c", parent, str(PACK_ROOT / ".ci")], cwd=tmp_path)
    deadline = time.monotonic() + 60
    while not (tmp_path / "up").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    assert (tmp_path / "cleaned").exists()


def test_run_gives_the_exit_status():
    assert run([sys.executable, "-c", "raise SystemExit(5)"]) == 5


def test_progress_in_a_pipe_is_one_line(capsys: pytest.CaptureFixture[str]):
    with ProgressLine("Fetching x", 4_000_000, unit="MB", scale=1e6) as line:
        line.advance(1_000_000)
        line.advance(3_000_000)
    assert capsys.readouterr().out == f"Fetching x  {bar(1)} 4.0/4.0 MB\n"


@pytest.mark.parametrize(("fraction", "drawn"), [(0, "[----]"), (0.5, "[##--]"), (1, "[####]"), (7, "[####]")])
def test_bar(fraction: float, drawn: str):
    assert bar(fraction, width=4) == drawn
