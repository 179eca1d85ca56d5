"""The command against something that is no ComfyUI: one sentence, whatever it answers."""

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web
from fast_sprites.nodes.benchmark.cli import main

ANSWERS = {
    "a page": b"<html>Welcome to nginx</html>",
    "nothing": b"",
    "half a document": b'{"SaveSprites": {"input":',
    "a list": b"[]",
    "a number": b"1e999",
    "endless nesting": b"[" * 100_000,
    "no text": b"\xff\xfe\x00",
    "no nodes": b"{}",
}


class ForeignServer:
    """Accepts WebSockets and answers every other request with `body`."""

    def __init__(self) -> None:
        self.body = b""
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._up = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        assert self._up.wait(10)

    def _serve(self) -> None:
        async def answer(request: web.Request) -> web.StreamResponse:
            if request.path != "/ws":
                return web.Response(body=self.body, content_type="application/json")
            socket = web.WebSocketResponse()
            await socket.prepare(request)
            await socket.receive()
            return socket

        async def start() -> None:
            application = web.Application()
            application.router.add_route("*", "/{path:.*}", answer)
            runner = web.AppRunner(application)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
            self._up.set()

        self._loop.run_until_complete(start())
        self._loop.run_forever()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)


@pytest.fixture(scope="module")
def foreign() -> Iterator[ForeignServer]:
    server = ForeignServer()
    yield server
    server.stop()


@pytest.mark.parametrize("answer", ANSWERS)
def test_generate_says_that_it_is_no_comfyui(
    foreign: ForeignServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], answer: str
):
    foreign.body = ANSWERS[answer]
    (tmp_path / "prompts.txt").write_text("sword\n", encoding="utf-8")
    words = [
        "generate",
        "--prompts",
        str(tmp_path / "prompts.txt"),
        "--output",
        str(tmp_path / "out"),
        "--server",
        f"127.0.0.1:{foreign.port}",
    ]
    assert main(words) == 1
    said = capsys.readouterr().err
    assert said.startswith("fast-sprites generate: ")
    assert ("is none of ComfyUI's answers" in said) == (answer != "no nodes")
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("flags", ['"', "--port 'x"])
def test_flags_that_cannot_be_taken_apart_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: str):
    (tmp_path / "main.py").touch()
    (tmp_path / "comfy").mkdir()
    (tmp_path / "comfy" / "cli_args.py").touch()
    record = tmp_path / "record.json"
    assert main(["bench", "run", "--start", str(tmp_path), f"--server-flags={flags}", "--json", str(record)]) == 1
    assert "cannot be taken apart" in capsys.readouterr().err
    assert not record.exists() or json.loads(record.read_text(encoding="utf-8"))
