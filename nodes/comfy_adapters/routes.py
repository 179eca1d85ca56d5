"""Routes and events of ComfyUI's server."""

import json
from collections.abc import Callable, Mapping
from typing import Any

MAX_BODY_BYTES = 4096
WAKE_INTERVAL_S = 1.0


def _server() -> Any:
    """Return the running server, or None in a process without one."""
    from server import PromptServer  # imports aiohttp and the whole application

    return getattr(PromptServer, "instance", None)


def is_server_there() -> bool:
    """Whether this process runs a server."""
    return _server() is not None


def add_get(path: str, answer: Callable[[Mapping[str, str]], Any]) -> None:
    """Serve what `answer` returns for a query as JSON; a ValueError is status 400 with its sentence.

    ComfyUI serves the path with /api before it too, and refuses requests of other origins before they come here.
    """
    from aiohttp import web

    async def handle(request: web.Request) -> web.Response:
        if len(set(request.query)) != len(request.query):
            return _refusal("Every name may be given once.")
        return _answer(answer, dict(request.query))

    _server().routes.get(path)(handle)


def add_post(path: str, answer: Callable[[Any], Any]) -> None:
    """Serve what `answer` returns for a small JSON body, as `add_get` does for a query."""
    from aiohttp import web

    async def handle(request: web.Request) -> web.Response:
        # A form from another site cannot have this type, and a script there must ask first.
        if request.content_type != "application/json":
            return _refusal("The body must be sent as application/json.", status=415)
        body = b""
        try:
            async for chunk in request.content.iter_chunked(MAX_BODY_BYTES):
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    return _refusal(f"The body has more than {MAX_BODY_BYTES} bytes.", status=413)
        except web.RequestPayloadError:
            return _refusal("The body cannot be unpacked as its Content-Encoding says.")
        try:
            parsed = json.loads(body)
        except (ValueError, RecursionError):
            return _refusal("The body is no JSON.")
        return _answer(answer, parsed)

    _server().routes.post(path)(handle)


def _answer(answer: Callable[[Any], Any], question: Any) -> Any:
    from aiohttp import web

    try:
        return web.json_response(answer(question))
    except ValueError as error:
        return _refusal(str(error))


def _refusal(sentence: str, status: int = 400) -> Any:
    from aiohttp import web

    return web.json_response({"error": sentence}, status=status)


def broadcast(event: str, data: Any) -> bool:
    """Send an event to every open tab; returns False when the server is gone."""
    server = _server()
    if server is None:
        return False
    try:
        server.send_sync(event, data)
    except RuntimeError:  # its event loop is closed
        return False
    return True


def num_tabs() -> int:
    """Return the number of open WebSockets: tabs, and programs that follow their prompts."""
    server = _server()
    return 0 if server is None else len(server.sockets)


def request_free(*, models: bool, results: bool) -> None:
    """Set the flags that ComfyUI's own /free sets; the prompt worker acts on them within a second or two, once no prompt runs."""
    server = _server()
    with server.prompt_queue.not_empty:  # or the worker takes the first flag alone, and the second one waits as below
        if models:
            server.prompt_queue.set_flag("unload_models", True)
        if results:
            server.prompt_queue.set_flag("free_memory", True)
    _WORKER_CALL.start(server)


class _WorkerCall:
    """Wakes the prompt worker every second until it has taken the flags.

    A flag wakes a worker that waits. One that is busy collecting garbage after a prompt does not look again before it waits for the
    next prompt, up to 1000 s (main.py, prompt_worker, ComfyUI 0.30).
    """

    def __init__(self) -> None:
        self._is_due = False

    def start(self, server: Any) -> None:
        if not self._is_due:
            self._is_due = True
            server.loop.call_later(WAKE_INTERVAL_S, self._wake, server)

    def _wake(self, server: Any) -> None:
        queue = server.prompt_queue
        with queue.not_empty:
            self._is_due = bool(queue.get_flags(reset=False))
            if self._is_due:
                queue.not_empty.notify()
                server.loop.call_later(WAKE_INTERVAL_S, self._wake, server)


_WORKER_CALL = _WorkerCall()
