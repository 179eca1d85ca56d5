"""Starting and stopping a server, and the client's messages, on a stand-in that answers as ComfyUI does."""

import asyncio
import json
import os
import signal
import socket
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fast_sprites.nodes.benchmark import client as client_module
from fast_sprites.nodes.benchmark.client import (
    Cached,
    Cancelled,
    ClientError,
    Failed,
    ImageRef,
    NodeDone,
    NodeStarted,
    Started,
    Step,
    Succeeded,
    connect,
    images_of,
    parse_event,
    refusal_reasons,
)
from fast_sprites.nodes.benchmark.server import ComfyServer, ServerError, ServerSetup, free_port, known_flags, require_free

posix = pytest.mark.skipif(sys.platform == "win32", reason="process groups differ on Windows")

ANSWERS = """
import http.server, json, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"system": {"argv": sys.argv}}).encode()
        self.send_response(200); self.end_headers(); self.wfile.write(body)
port = int(sys.argv[sys.argv.index("--port") + 1])
print("listening", flush=True)
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""
DIES = "import sys\nprint('ModuleNotFoundError: no such module')\nsys.exit(3)\n"
HANGS = "import time\ntime.sleep(600)\n"
DEAF = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + ANSWERS
WITH_CHILD = (
    "import subprocess, sys\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    "print('child', child.pid, flush=True)\n" + ANSWERS
)

MakeServer = Callable[..., ComfyServer]


@pytest.fixture
def make_server(tmp_path: Path) -> MakeServer:
    def make(main: str, start_timeout_s: float = 30.0, port: int | None = None) -> ComfyServer:
        comfyui = tmp_path / "comfyui"
        (comfyui / "comfy").mkdir(parents=True, exist_ok=True)
        (comfyui / "main.py").write_text(main)
        (comfyui / "comfy" / "cli_args.py").write_text('parser.add_argument("--cpu", action="store_true")\n')
        setup = ServerSetup(Path(sys.executable), comfyui, tmp_path / "base", tmp_path / "logs" / "server.log", ("--cpu",), port)
        return ComfyServer(setup, start_timeout_s)

    return make


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_server_is_up_inside_the_block_and_gone_after_it(make_server: MakeServer):
    with make_server(ANSWERS) as server:
        pid = server.pid
        server.require_alive()
        assert "listening" in server.log_text()
        with pytest.raises(ServerError, match="in use"):
            require_free(server.port)
    assert not is_alive(pid)
    require_free(server.port)
    server.stop()
    with pytest.raises(ServerError, match="not started"):
        _ = server.pid


def test_server_is_stopped_when_the_block_fails(make_server: MakeServer):
    server, pids = make_server(ANSWERS), list[int]()

    def use() -> None:
        with server:
            pids.append(server.pid)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        use()
    assert not is_alive(pids[0])


@posix
def test_children_of_the_server_end_too(make_server: MakeServer):
    with make_server(WITH_CHILD) as server:
        child = int(server.log_text().split()[1])
        assert is_alive(child)
    deadline = time.monotonic() + 60
    while is_alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_alive(child)


@posix
def test_a_server_that_does_not_listen_is_killed(make_server: MakeServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("fast_sprites.nodes.benchmark.server.STOP_TIMEOUT_S", 0.5)
    with make_server(DEAF) as server:
        pid = server.pid
    assert not is_alive(pid)


def test_a_server_that_dies_at_start_shows_its_log(make_server: MakeServer):
    with pytest.raises(ServerError, match=r"ended by itself with status 3: its log is .*server\.log") as died:
        make_server(DIES).start()
    assert died.value.log_tail == "ModuleNotFoundError: no such module"


def test_a_server_that_hangs_is_given_up_and_stopped(make_server: MakeServer, monkeypatch: pytest.MonkeyPatch):
    server = make_server(HANGS, start_timeout_s=1.0)
    seen: list[int] = []
    monkeypatch.setattr(server, "require_alive", lambda: seen.append(server.pid))
    with pytest.raises(ServerError, match="did not answer on http://127"):
        server.start()
    assert not is_alive(seen[0])


def test_relative_paths_are_those_of_whoever_starts_it(make_server: MakeServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """ComfyUI runs in its own folder."""
    monkeypatch.chdir(tmp_path)
    server = make_server(ANSWERS)
    python = Path(os.path.relpath(sys.executable))
    server.setup = replace(server.setup, python=python, comfyui=Path("comfyui"), base_directory=Path("base"))
    with server, urllib.request.urlopen(f"{server.address}/system_stats") as answer:
        arguments = json.load(answer)["system"]["argv"]
    assert arguments[:3] == [str(tmp_path / "comfyui" / "main.py"), "--base-directory", str(tmp_path / "base")]


@posix
def test_a_server_that_ends_later_is_noticed(make_server: MakeServer):
    with make_server(ANSWERS) as server:
        os.kill(server.pid, signal.SIGKILL)
        deadline = time.monotonic() + 60
        while is_alive(server.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        with pytest.raises(ServerError, match="status -9"):
            server.require_alive()


@posix
def test_a_server_that_ended_is_stopped_on_macos_too(make_server: MakeServer, monkeypatch: pytest.MonkeyPatch):
    """Where killpg is not permitted for a group of processes that have ended and are not waited for."""

    def refuse(group: int, number: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    server = make_server(ANSWERS)
    server.start()
    pid = server.pid
    os.kill(pid, signal.SIGKILL)
    monkeypatch.setattr(os, "killpg", refuse)
    server.stop()
    assert not is_alive(pid)


def test_a_port_in_use_is_refused_before_the_start(make_server: MakeServer):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ServerError, match=f"Port {port} of 127.0.0.1 is in use: .*choose another"):
            make_server(ANSWERS, port=port).start()
    assert free_port() > 1024


def test_flags_that_a_version_does_not_know_are_left_out(make_server: MakeServer):
    server = make_server(ANSWERS)
    assert known_flags(server.setup.comfyui, ("--cpu", "--newer=1")) == ("--cpu",)


def test_a_proxy_is_not_asked_for_the_loopback(make_server: MakeServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with make_server(ANSWERS):
        pass


def test_no_server_is_a_sentence():
    async def ask() -> None:
        async with connect(f"http://127.0.0.1:{free_port()}"):
            pass

    with pytest.raises(ClientError, match=r"^No ComfyUI answers at http://127"):
        asyncio.run(ask())


@pytest.mark.parametrize(
    ("kind", "data", "event"),
    [
        ("execution_start", {}, Started()),
        ("execution_cached", {"nodes": ["1", "2"]}, Cached(("1", "2"))),
        ("executing", {"node": "3"}, NodeStarted("3")),
        ("executing", {"node": None}, None),
        ("progress", {"node": "3", "value": 4, "max": 20}, Step("3", 4, 20)),
        ("executed", {"node": "9", "output": None}, NodeDone("9", {})),
        ("execution_success", {}, Succeeded()),
        ("execution_interrupted", {"node_id": "3"}, Cancelled()),
        (
            "execution_error",
            {"node_id": "3", "node_type": "KSampler", "exception_type": "ValueError", "exception_message": "no\n"},
            Failed("3", "KSampler", "ValueError", "no"),
        ),
        ("progress_state", {}, None),
    ],
)
def test_events(kind: str, data: dict[str, Any], event: object):
    assert parse_event(kind, {"prompt_id": "p", **data}) == event


def test_refusals_are_one_sentence_per_cause():
    error = {"message": "Value 0 smaller than min of 1", "details": "steps"}
    body = {
        "error": {"message": "Prompt outputs failed validation", "details": ""},
        "node_errors": {"5": {"class_type": "KSampler", "errors": [error, error]}},
    }
    assert refusal_reasons(body) == ("KSampler (node 5): Value 0 smaller than min of 1: steps",) * 2
    assert refusal_reasons({"error": {"message": "Prompt has no outputs", "details": ""}}) == ("Prompt has no outputs",)
    assert "ComfyUI refused the workflow: a; b" in str(client_module.PromptRefusedError(("a", "b")))


def test_saved_pictures_are_told_from_previews():
    outputs = {
        "1": {"images": [{"filename": "p.png", "subfolder": "", "type": "temp"}], "text": ["x"]},
        "2": {"images": [{"filename": "a.png", "subfolder": "s", "type": "output"}]},
        "3": {"text": ["y"]},
    }
    assert images_of(outputs) == (ImageRef("a.png", "s", "output"),)
