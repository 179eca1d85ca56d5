"""Hostile requests against a real server: whatever is sent, it answers with one sentence or 403, writes nothing outside, and goes on."""

import asyncio
import gzip
import http.client
import itertools
import json
import os
import re
import urllib.parse
from pathlib import Path
from typing import Any

import aiohttp
import pytest

pytest.importorskip("hypothesis", reason="the fuzz tests need hypothesis: pip install hypothesis")

from fast_sprites.nodes.benchmark.client import PromptRefusedError
from fast_sprites.nodes.benchmark.server import ComfyServer
from hypothesis import example, given
from hypothesis import strategies as st

from ..conftest import PACK_ROOT
from ..unit.security.hostile import DEEP, json_values, texts
from .conftest import TIMEOUT_S, Comfy, png_texts
from .test_memory_routes import EVENT

SOURCE = (PACK_ROOT / "nodes" / "engine" / "memory" / "run_timeline.py").read_text(encoding="utf-8")
GETS, POSTS = (re.findall(rf'routes\.add_{method}\("(/fast-sprites/\w+)"', SOURCE) for method in ("get", "post"))
REFUSALS = {400, 403, 404, 405, 413, 415}
FOREIGN = (
    "http://evil.example",
    "https://127.0.0.1.evil.example",
    "http://127.0.0.1:1",
    "http://localhost",
    "http://[::1]",
    "file:///x",
)
JSON = {"Content-Type": "application/json"}
colours = itertools.count(1)


@pytest.fixture(scope="module", autouse=True)
def log_before(server: ComfyServer) -> int:
    """The length of the server's log before this module."""
    return len(server.log_text())


class Raw:
    """One connection at a time, below urllib and aiohttp, which would tidy a hostile request up."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)

    def send(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
        """Status and body of the answer."""
        try:
            self._connection.request(method, path, body, headers or {})
            answer = self._connection.getresponse()
            return answer.status, answer.read()
        except (http.client.RemoteDisconnected, ConnectionError):  # after a 413 the server reads no further
            self._connection.close()
            return self.send(method, path, body, headers)
        finally:
            if body is not None and len(body) > 4096:
                self._connection.close()


@pytest.fixture
def raw(server: ComfyServer) -> Raw:
    return Raw(server.port)


def assert_answered(status: int, body: bytes, *, refused: set[int] = REFUSALS) -> None:
    assert status == 200 or status in refused, (status, body[:200])
    assert len(body) < 2_000_000
    if status in (400, 413, 415) and body.startswith(b"{"):
        (sentence,) = json.loads(body).values()
        assert len(sentence) < 300
        assert "Traceback" not in sentence


def test_all_routes_are_known_here():
    assert (len(GETS), len(POSTS)) == (4, 2)
    others = [
        path for path in (PACK_ROOT / "nodes").rglob("*.py") if re.search(r"add_(get|post)\(\"", path.read_text(encoding="utf-8"))
    ]
    assert [path.name for path in others] == ["run_timeline.py"]


names = st.sampled_from(["since", "limit", "rate_hz", "runs", "run", "device"]) | texts


@given(
    path=st.sampled_from(GETS),
    query=st.lists(st.tuples(names, st.one_of(texts, st.integers(-(2**70), 2**70).map(str))), max_size=4),
)
@example(path=GETS[0], query=[("device", "\u0661")])
@example(path=GETS[1], query=[("since", "9" * 15), ("limit", "\ud800")])
def test_any_query_is_answered(raw: Raw, path: str, query: list[tuple[str, str]]):
    encoded = urllib.parse.urlencode(query, errors="surrogatepass")
    assert_answered(*raw.send("GET", f"{path}?{encoded}"))


@given(
    path=st.sampled_from(GETS + POSTS),
    tail=texts,
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"]),
)
@example(path=GETS[0], tail="/../../../../etc/passwd", method="GET")
@example(path=GETS[0], tail="/%2e%2e/%2e%2e/internal/logs", method="GET")
def test_any_path_below_ours_is_answered(raw: Raw, path: str, tail: str, method: str):
    quoted = urllib.parse.quote(tail, safe="/%.?#&=;", errors="surrogatepass")
    status, body = raw.send(method, path + quoted, headers=JSON)
    assert_answered(status, body)
    assert b"root:" not in body


bodies = st.one_of(
    json_values.map(lambda value: json.dumps(value).encode()),
    st.dictionaries(st.sampled_from(["peak", "history", "models", "results", "__class__"]), json_values, max_size=4).map(
        lambda value: json.dumps(value).encode()
    ),
    st.binary(max_size=300),
    texts.map(lambda text: text.encode(errors="surrogatepass")),
    st.sampled_from(
        [
            b"",
            DEEP[:4096].encode(),
            DEEP.encode(),
            b'{"peak": NaN}',
            b'{"peak": true, "peak": 1}',
            b"x" * 5_000_000,
            "{}".encode("utf-16"),
        ]
    ),
)
kinds = st.sampled_from(
    [
        "application/json",
        "application/json; charset=utf-8",
        "application/json; charset=nonsense",
        "text/plain",
        "",
        "a/b/c",
        "application/json\u00e9",
    ]
)


@given(path=st.sampled_from(POSTS), body=bodies, kind=kinds)
def test_any_body_is_answered(raw: Raw, path: str, body: bytes, kind: str):
    assert_answered(*raw.send("POST", path, body, {"Content-Type": kind} if kind else {}))


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "nonsense"])
def test_a_packed_body_is_not_unpacked_without_end(raw: Raw, path: str, encoding: str):
    bomb = gzip.compress(bytes(50_000_000))
    assert len(bomb) < 60_000
    status, _ = raw.send("POST", path, bomb, {**JSON, "Content-Encoding": encoding})
    assert status in REFUSALS


@pytest.mark.parametrize("prefix", ["", "/api"])
@pytest.mark.parametrize("path", GETS + POSTS)
def test_other_sites_are_refused_on_every_route(raw: Raw, path: str, prefix: str):
    method, body = ("POST", b"{}") if path in POSTS else ("GET", None)
    for origin in FOREIGN:
        if origin != "file:///x":  # names no host, which ComfyUI lets through; a page of a file has the origin null
            assert raw.send(method, prefix + path, body, {**JSON, "Origin": origin})[0] == 403, origin
    assert raw.send(method, prefix + path, body, {**JSON, "Sec-Fetch-Site": "cross-site"})[0] == 403
    # A form of another site needs no permission to be sent, and cannot have this type.
    if method == "POST":
        assert raw.send(method, prefix + path, body, {"Content-Type": "text/plain", "Origin": "null"})[0] == 415


def test_nothing_allows_another_site_to_read(raw: Raw, server: ComfyServer):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=TIMEOUT_S)
    for path in GETS:
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        assert "Access-Control-Allow-Origin" not in answer.headers
        assert answer.headers["Content-Type"].startswith("application/json")
    connection.close()


def files_outside(base: Path) -> dict[str, int]:
    """Files below the base folder and their sizes, without those that ComfyUI writes by itself and what Python compiles."""
    found: dict[str, int] = {}
    for folder, subfolders, files in os.walk(base):
        if Path(folder) == base:
            subfolders[:] = [name for name in subfolders if name not in ("output", "temp", "user")]
        found |= {
            os.path.join(folder, name): os.path.getsize(os.path.join(folder, name))
            for name in files
            if not name.endswith((".log", ".pyc"))
        }
    return found


def save(comfy: Comfy, prefix: str, **extra_pnginfo: Any) -> list[Any]:
    """Pictures saved by both saving nodes under the prefix; raises PromptRefusedError or returns nothing where a node refused it."""
    prompt = {
        "image": comfy.node("EmptyImage", width=8, height=8, color=next(colours)),  # another each time, or nothing would run
        "save": comfy.node("SaveSprites", images=["image", 0], filename=prefix),
        "sheet": comfy.node("SpriteSheet", image=["image", 0], filename_prefix=prefix, godot="SpriteFrames (.tres)"),
    }

    async def run(client: Any) -> list[Any]:
        prompt_id = await client.queue(prompt, extra_data={"extra_pnginfo": extra_pnginfo})
        events = [event async for event in client.follow(prompt_id)]
        history = await client.history(prompt_id)
        if not history.succeeded:
            assert "leaves ComfyUI's output folder" in events[-1].message
        return [item for output in history.outputs.values() for item in output.get("files", output.get("images", ()))]

    return comfy.ask(run)


@given(prefix=texts)
@example(prefix="../../custom_nodes/evil")
@example(prefix="/tmp/evil")
@example(prefix="C:\\Windows\\evil")
@example(prefix="a\0b")
@example(prefix="\ud800")
@example(prefix="con/aux.txt/nul")
@example(prefix="a" * 5000)
def test_nothing_is_written_outside_the_output_folder(comfy: Comfy, server: ComfyServer, prefix: str):
    base = server.setup.base_directory
    before = files_outside(base)
    saved = [item for item in save(comfy, prefix) if item["type"] == "output"]
    assert files_outside(base) == before
    for item in saved:
        path = base / "output" / item["subfolder"] / item["filename"]
        assert path.is_file()
        assert path.resolve().is_relative_to((base / "output").resolve())
        path.unlink()


def test_a_link_out_of_the_output_folder_is_not_followed(comfy: Comfy, server: ComfyServer, tmp_path: Path):
    link = server.setup.base_directory / "output" / "link"
    link.symlink_to(tmp_path, target_is_directory=True)
    try:
        prompt = {
            "image": comfy.node("EmptyImage", width=8, height=8),
            "save": comfy.node("SaveSprites", images=["image", 0], filename="link/sprite"),
        }
        events, history = comfy.ask(lambda client: client.run(prompt))
        assert not history.succeeded
        assert "outside ComfyUI's output folder" in events[-1].message  # type: ignore[union-attr]
        assert list(tmp_path.iterdir()) == []
    finally:
        link.unlink()


@pytest.mark.parametrize(
    "name", ["../server.log", "/etc/hostname", "..\\..\\x.hex", "palette.hex [output]", "\0.hex", "\ud800.hex"]
)
def test_a_palette_file_outside_the_list_is_refused(comfy: Comfy, name: str):
    prompt = {
        "image": comfy.node("EmptyImage", width=8, height=8),
        "palette": comfy.node("PixelPalette", image=["image", 0], source="file", palette_file=name),
        "save": comfy.node("SaveImage", images=["palette", 0]),
    }
    with pytest.raises(PromptRefusedError, match="Value not in list"):
        comfy.ask(lambda client: client.queue(prompt))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_names_in_the_input_folder_may_be_no_text(comfy: Comfy, server: ComfyServer):
    path = os.fsencode(server.setup.base_directory / "input") + b"/\xff\xfe.hex"
    with open(path, "wb") as file:
        file.write(b"ff0000")
    try:
        listed = comfy.ask(lambda client: client.object_info("PixelPalette"))
        assert "\udcff\udcfe.hex" in json.dumps(listed, ensure_ascii=False)
    finally:
        os.unlink(path)


@given(workflow=json_values)
@example(workflow=None)
@example(workflow="text")
@example(workflow=json.loads("[" * 90 + "]" * 90))
def test_a_sprite_is_saved_whatever_workflow_a_client_sends(comfy: Comfy, server: ComfyServer, workflow: Any):
    saved = [item for item in save(comfy, "hostile", workflow=workflow) if item["type"] == "output"]
    paths = [server.setup.base_directory / "output" / item["subfolder"] / item["filename"] for item in saved]
    written = [set(png_texts(path.read_bytes())) for path in paths if path.suffix == ".png"]
    assert {"prompt", "workflow", "fast_sprites"} in written
    assert len(written) == 2
    for path in paths:
        path.unlink()


@pytest.mark.parametrize("key", ["", "k" * 80, "\u6728", "a\0b", "a\nb"])
def test_a_key_that_no_picture_takes_is_refused_before_anything_is_drawn(comfy: Comfy, key: str):
    prompt = {
        "image": comfy.node("EmptyImage", width=8, height=8),
        "save": comfy.node("SaveSprites", images=["image", 0], filename="never"),
    }

    async def run(client: Any) -> Any:
        prompt_id = await client.queue(prompt, extra_data={"extra_pnginfo": {key: 1}})
        return [event async for event in client.follow(prompt_id)][-1]

    assert "extra_pnginfo has the key" in comfy.ask(run).message


def test_hostile_websocket_messages_leave_the_events_alone(comfy: Comfy, server: ComfyServer):
    async def run() -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{server.address}/ws?clientId=%ff%00<script>") as socket,
        ):
            for text in (
                "",
                "x",
                DEEP,
                "[]",
                '{"type": 1}',
                '{"type": "feature_flags", "data": [1]}',
                '{"type": "fast-sprites.memory"}',
            ):
                await socket.send_str(text)
            await socket.send_bytes(bytes(100_000))
            async with session.get(f"{server.address}/fast-sprites/history?rate_hz=10") as answer:
                assert answer.status == 200
            async for message in socket:
                if message.type is aiohttp.WSMsgType.TEXT and json.loads(message.data)["type"] == EVENT:
                    return

    asyncio.run(asyncio.wait_for(run(), TIMEOUT_S))


def test_the_server_goes_on_and_its_log_holds_no_trace_of_ours(server: ComfyServer, log_before: int, goes_on: None):
    """The last of this module: everything above is behind it."""
    traces = re.findall(r"Traceback \(most recent call last\):\n(?: .*\n)+", server.log_text()[log_before:])
    raised_in = {re.findall(r'File "([^"]+)"', trace)[-1] for trace in traces}
    # Nodes raise their refusals, and ComfyUI logs them.
    ours = {Path(name).name for name in raised_in if "custom_nodes/fast-sprites/" in name}
    assert ours <= {"file_names.py", "run_saving.py"}
