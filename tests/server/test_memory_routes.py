"""The routes under /fast-sprites/: what they answer, what they refuse, and that the server stays up and quiet."""

import asyncio
import json
import time
import urllib.error
import urllib.request
from typing import Any

import aiohttp
import pytest
from fast_sprites.nodes.benchmark.server import ComfyServer

from .conftest import TIMEOUT_S, Comfy, eventually

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
EVENT = "fast-sprites.memory"


class Routes:
    """Calls of the pack's routes."""

    def __init__(self, address: str) -> None:
        self.address = address

    def call(self, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        """Status and JSON; a body makes it a POST."""
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"Content-Type": "application/json", **(headers or {})}
        request = urllib.request.Request(f"{self.address}/fast-sprites/{path}", data, sent)
        try:
            with DIRECT.open(request, timeout=TIMEOUT_S) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            text = error.read().decode()
            return error.code, json.loads(text) if text.startswith("{") else text

    def get(self, path: str) -> Any:
        status, answer = self.call(path)
        assert status == 200, answer
        return answer


@pytest.fixture
def routes(server: ComfyServer) -> Routes:
    return Routes(server.address)


def probed(comfy: Comfy, width: int) -> dict[str, Any]:
    return {
        "latent": comfy.node("EmptyLatentImage", width=width, height=64),
        "probe": comfy.node("MemoryProbe", value=["latent", 0], label="secret label"),
    }


def test_a_run_has_spans_a_table_and_the_probes_mark(comfy: Comfy, routes: Routes):
    prompt = probed(comfy, 64)
    comfy.ask(lambda client: client.run(prompt))
    assert eventually(lambda: routes.get("spans")["runs"][-1]["end_s"])  # the prompt is done a moment before its run
    last = routes.get("spans")["runs"][-1]
    assert [(span["node_id"], span["class_type"]) for span in last["spans"]] == [
        ("latent", "EmptyLatentImage"),
        ("probe", "MemoryProbe"),
    ]
    table = routes.get("table")
    assert table["run"] == last["run"]
    assert [row["node_id"] for row in table["rows"]] == ["latent", "probe"]
    assert table["rows"][0]["peak_process_gib"] > 0.05
    assert routes.get(f"table?run={last['run']}") == table
    history = routes.get("history")
    assert history["marks"][-1]["node_id"] == "probe"
    assert last["start_s"] <= history["marks"][-1]["time_s"] <= last["end_s"] <= history["now_s"]


def test_nothing_of_the_prompt_is_told(comfy: Comfy, routes: Routes, server: ComfyServer):
    prompt = probed(comfy, 128)
    comfy.ask(lambda client: client.run(prompt))
    told = json.dumps([routes.get(path) for path in ("history", "spans?runs=20", "table", "readings")])
    assert "secret" not in told
    assert str(server.setup.base_directory) not in told
    assert "prompt" not in told


def test_a_whole_reading(routes: Routes):
    reading = routes.get("readings")
    assert (reading["device"], reading["num_devices"], reading["torch"]) == ("cpu", 1, None)
    assert 0 < reading["host"]["process_gib"] < reading["host"]["ram_total_gib"]
    assert "GPU" in reading["missing"][0]
    assert routes.get("readings?device=0")["device"] == "cpu"


def test_the_same_under_api(routes: Routes, server: ComfyServer):
    with DIRECT.open(f"{server.address}/api/fast-sprites/spans", timeout=TIMEOUT_S) as response:
        assert json.load(response) == routes.get("spans")


@pytest.mark.parametrize(
    "path",
    [
        "history?limit=0", "history?limit=7201", "history?since=-1", "history?since=x", "history?rate_hz=3", "history?rate_hz=1000",
        "history?limit=1&limit=2", "history?path=/etc/passwd", "spans?runs=0", "spans?runs=21", "spans?x=1", "table?run=123456",
        "table?run=%00", "readings?device=1", "readings?device=cuda:0", "readings?device=" + "9" * 3000,
    ],
)  # fmt: skip
def test_bad_queries_get_one_sentence(routes: Routes, path: str):
    status, answer = routes.call(path)
    assert status == 400
    assert answer["error"].endswith((".", "yet"))
    assert len(answer["error"]) < 200


@pytest.mark.parametrize("path", ["reset", "free"])
@pytest.mark.parametrize("body", [[], "x", 1, {"other": True}, {"peak": 1, "models": 1}, b"", b"{", b"[" * 4000, b"\xff"])
def test_bad_bodies_change_nothing(routes: Routes, path: str, body: Any):
    status, answer = routes.call(path, body)
    assert (status, list(answer)) == (400, ["error"])


def test_writers_take_json_from_the_same_origin_alone(routes: Routes):
    assert routes.call("free", b"models=true", {"Content-Type": "application/x-www-form-urlencoded"})[0] == 415
    assert routes.call("free", b"{}" + b" " * 5000)[0] == 413
    assert routes.call("free", {}, {"Origin": "http://evil.example"})[0] == 403
    assert routes.call("reset", {}, {"Sec-Fetch-Site": "cross-site"})[0] == 403
    for reader in ("history", "spans", "table", "readings"):
        assert routes.call(reader, {})[0] == 405
    for writer in ("reset", "free"):
        assert routes.call(writer)[0] == 404  # ComfyUI looks for a file of its page


def test_free_unloads_the_models_and_drops_results(comfy: Comfy, routes: Routes, goes_on: None):
    prompt = comfy.sprites(count=1, seed=99)
    comfy.ask(lambda client: client.run(prompt))
    assert routes.get("readings")["comfyui"]["models"]
    assert routes.call("free", {}) == (200, {"requested": ["models", "results"]})
    assert eventually(lambda: not routes.get("readings")["comfyui"]["models"])
    comfy.ask(lambda client: client.run(prompt))
    assert eventually(lambda: routes.get("spans")["runs"][-1]["end_s"])
    assert {span["node_id"] for span in routes.get("spans")["runs"][-1]["spans"]} == set(prompt)  # none came from the cache


def test_reset_clears_the_history_only_when_asked(comfy: Comfy, routes: Routes):
    prompt = probed(comfy, 256)
    comfy.ask(lambda client: client.run(prompt))
    assert routes.call("reset", {}) == (200, {"reset": []})  # on a CPU torch keeps no peak
    assert routes.get("spans?runs=20")["runs"]
    assert routes.call("reset", {"peak": False, "history": True}) == (200, {"reset": ["history"]})
    history = routes.get("history")
    assert (history["runs"], history["marks"], history["rows"]) == ([], [], [])
    assert routes.get("table") == {"run": None, "rows": [], "num_left_out": 0, "leak": ""}


def test_samples_reach_every_tab_while_one_watches_and_stop_with_the_last(comfy: Comfy, routes: Routes, server: ComfyServer):
    routes.get("history?rate_hz=10")

    async def tabs() -> list[list[int]]:
        """Sequence numbers that two tabs receive until each has ten and has heard of an API client's prompt."""
        seen: list[list[int]] = [[], []]
        kinds: list[set[str]] = [set(), set()]

        async def listen(session: aiohttp.ClientSession, place: int) -> None:
            async with session.ws_connect(f"{server.address}/ws?clientId=tab{place}") as socket:
                async for message in socket:
                    if message.type is aiohttp.WSMsgType.TEXT:
                        event = json.loads(message.data)
                        kinds[place].add(event["type"])
                        if event["type"] == EVENT:
                            seen[place] += [row[0] for row in event["data"]["rows"]]
                            if "runs" in event["data"]:
                                kinds[place].add("spans")

        async with aiohttp.ClientSession() as session:
            listeners = [asyncio.create_task(listen(session, place)) for place in (0, 1)]
            while not all(kinds):  # the first message of a connection tells the queue
                await asyncio.sleep(0.05)
            prompt = probed(comfy, 320)
            async with session.post(f"{server.address}/prompt", json={"prompt": prompt, "client_id": "somebody else"}) as posted:
                assert posted.status == 200
            while not all(len(numbers) >= 10 and "spans" in kind for numbers, kind in zip(seen, kinds, strict=True)):
                await asyncio.sleep(0.05)
            for listener in listeners:
                listener.cancel()
            await asyncio.gather(*listeners, return_exceptions=True)
        assert all("executing" not in kind for kind in kinds)
        return seen

    seen = asyncio.run(asyncio.wait_for(tabs(), TIMEOUT_S))
    assert all(numbers == sorted(numbers) for numbers in seen)

    def is_still() -> bool:
        last = routes.get("history?limit=1")["rows"][-1][0]
        time.sleep(1)
        return routes.get("history?limit=1")["rows"][-1][0] == last

    assert eventually(is_still)  # no tab is open any more


def test_ten_thousand_questions_leave_the_server_up_and_its_log_quiet(routes: Routes, server: ComfyServer, goes_on: None):
    before = server.log_text()

    async def ask() -> None:
        connector = aiohttp.TCPConnector(limit=8)
        async with aiohttp.ClientSession(connector=connector) as session:

            async def one(path: str) -> None:
                async with session.get(f"{server.address}/fast-sprites/{path}") as response:
                    assert response.status in (200, 400)
                    assert len(await response.read()) < 2_000_000

            for start in range(0, 10_000, 200):
                paths = [("readings", "history?limit=5", "spans", "history?limit=x")[i % 4] for i in range(start, start + 200)]
                await asyncio.gather(*map(one, paths))

    asyncio.run(ask())
    assert server.log_text() == before
