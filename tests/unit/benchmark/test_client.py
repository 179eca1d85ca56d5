"""The client follows a prompt by what the server tells, and asks little."""

import asyncio
import time

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from fast_sprites.nodes.benchmark import client as client_module
from fast_sprites.nodes.benchmark.client import Cancelled, Event, Succeeded, UnreachableError, connect

POLL_S = 0.4


class Server:
    """Tells of its queue `num_changes` times at once, then of what is in `then`; counts how often it is asked for the prompt."""

    def __init__(
        self, num_changes: int, then: tuple[dict[str, object], ...] = (), *, gone_after_s: float = 1e9, stays: bool = True
    ):
        self.num_changes, self.then, self.gone_after_s, self.stays = num_changes, then, gone_after_s, stays
        self.asked_at: list[float] = []

    async def socket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        for _ in range(self.num_changes):
            await socket.send_json({"type": "status", "data": {"status": {"exec_info": {"queue_remaining": 2}}}})
        await socket.send_bytes(b"a preview")
        for message in self.then:
            await socket.send_json(message)
        if self.stays:
            await socket.receive()
        return socket

    async def job(self, request: web.Request) -> web.Response:
        self.asked_at.append(time.monotonic())
        is_gone = self.asked_at[-1] - self.asked_at[0] >= self.gone_after_s
        return web.json_response({}, status=404 if is_gone else 200)

    def follow(self) -> list[Event]:
        async def inside() -> list[Event]:
            application = web.Application()
            application.router.add_get("/ws", self.socket)
            application.router.add_get("/api/jobs/p", self.job)
            async with TestServer(application) as server, connect(str(server.make_url("/")).rstrip("/")) as client:
                return [event async for event in client.follow("p")]

        return asyncio.run(asyncio.wait_for(inside(), timeout=20))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "GONE_POLL_S", POLL_S)


def test_a_busy_queue_is_asked_once_in_a_while_and_a_change_is_not_forgotten():
    server = Server(200, gone_after_s=0.5 * POLL_S)
    assert server.follow() == [Cancelled()]
    first, second = server.asked_at  # the second without any further message
    assert second - first >= 0.9 * POLL_S


def test_a_prompt_that_runs_is_not_asked_for_again():
    told = ({"type": "execution_start"}, {"type": "execution_success"}, {"type": "executing", "node": None})
    messages = tuple({"type": kind["type"], "data": {"prompt_id": "p", **kind}} for kind in told)
    server = Server(3, messages)
    assert server.follow()[-1] == Succeeded()
    assert len(server.asked_at) <= 1


@pytest.mark.parametrize("told", [(), ({"type": "execution_start", "data": {"prompt_id": "p"}},)], ids=["waits", "runs"])
def test_a_silent_server_is_asked_whether_it_is_still_there(told, monkeypatch: pytest.MonkeyPatch):
    """As a connection is whose other end lost its power."""
    monkeypatch.setattr(client_module, "SILENCE_S", 0.2)
    assert Server(0, told, gone_after_s=0.3).follow()[-1] == Cancelled()


def test_a_server_that_goes_away_is_said():
    with pytest.raises(UnreachableError, match="went away while it was working"):
        Server(0, stays=False).follow()
