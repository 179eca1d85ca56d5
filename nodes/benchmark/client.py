"""Talks to a ComfyUI server: queues prompts over HTTP and follows them over the WebSocket."""

import asyncio
import json
import math
import re
import urllib.parse
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import aiohttp

from ..engine.errors import BadInputError, PackError
from .urls import without_password

HISTORY_TIMEOUT_S = 10.0
POLL_S = 0.05
GONE_POLL_S = 1.0  # how often a waiting prompt is looked for at the most
SILENCE_S = 60.0  # a connection to a machine that lost power or network is silent for ever
MIN_TIMEOUT_S = 0.001
HOST = re.compile(r"([\w.-]*\w[\w.-]*|\[[0-9A-Fa-f:.]+(%[\w.-]+)?\])(:[0-9]+)?")

Prompt = Mapping[str, Any]  # API format: node id -> {class_type, inputs, _meta}


class ClientError(PackError):
    """The server refused a request, could not be reached or went away."""


class UnreachableError(ClientError):
    """The server does not answer, or no longer."""


class PromptRefusedError(ClientError):
    """The server's validation refused a prompt; `reasons` holds one sentence for each cause."""

    def __init__(self, reasons: tuple[str, ...]) -> None:
        """Join the reasons into the message."""
        self.reasons = reasons
        super().__init__("ComfyUI refused the workflow: " + "; ".join(reasons))


@dataclass(frozen=True)
class Started:
    """The server began to work on the prompt."""


@dataclass(frozen=True)
class Cached:
    """Nodes whose results are taken from an earlier run."""

    node_ids: tuple[str, ...]


@dataclass(frozen=True)
class NodeStarted:
    """A node began to run."""

    node_id: str


@dataclass(frozen=True)
class Step:
    """A node reported progress: `value` of `maximum`."""

    node_id: str
    value: int
    maximum: int


@dataclass(frozen=True)
class NodeDone:
    """An output node finished with what it shows."""

    node_id: str
    output: Mapping[str, Any]


@dataclass(frozen=True)
class Succeeded:
    """The prompt is done, its history can be read."""


@dataclass(frozen=True)
class Failed:
    """A node raised an error, which ended the prompt."""

    node_id: str
    node_type: str
    exception_type: str
    message: str


@dataclass(frozen=True)
class Cancelled:
    """The prompt was cancelled, while it ran or while it waited."""


Event = Started | Cached | NodeStarted | Step | NodeDone | Succeeded | Failed | Cancelled


@dataclass(frozen=True)
class ImageRef:
    """Where the server keeps a picture."""

    filename: str
    subfolder: str
    kind: str  # "output", "temp" or "input"


@dataclass(frozen=True)
class History:
    """What a finished prompt left: `outputs` maps node ids to what they show."""

    outputs: Mapping[str, Mapping[str, Any]]
    succeeded: bool
    images: tuple[ImageRef, ...] = field(default=())


def parse_event(kind: str, data: Mapping[str, Any]) -> Event | None:
    """The typed form of one WebSocket message, None for kinds that are not followed."""
    match kind:
        case "execution_start":
            return Started()
        case "execution_cached":
            return Cached(tuple(data["nodes"]))
        case "executing":
            return None if data["node"] is None else NodeStarted(data["node"])
        case "progress":
            return Step(data["node"], int(data["value"]), int(data["max"]))
        case "executed":
            return NodeDone(data["node"], data["output"] or {})
        case "execution_success":
            return Succeeded()
        case "execution_error":
            return Failed(data["node_id"], data["node_type"], data["exception_type"], data["exception_message"].strip())
        case "execution_interrupted":
            return Cancelled()
        case _:
            return None


def refusal_reasons(body: Mapping[str, Any]) -> tuple[str, ...]:
    """One sentence for each cause in the body of a refused POST /prompt."""
    nodes: dict[str, dict[str, Any]] = body.get("node_errors") or {}
    reasons = [
        f"{node['class_type']} (node {node_id}): {error['message']}: {error['details']}"
        for node_id, node in nodes.items()
        for error in node["errors"]
    ]
    whole: dict[str, Any] = body.get("error") or {}
    return tuple(reasons) or (f"{whole.get('message', 'no reason given')} {whole.get('details', '')}".strip(),)


def images_of(outputs: Mapping[str, Mapping[str, Any]]) -> tuple[ImageRef, ...]:
    """The pictures that a prompt saved, in the order of its nodes; previews are left out."""
    found = (item for output in outputs.values() for item in output.get("images", ()))
    refs = (ImageRef(item["filename"], item.get("subfolder", ""), item["type"]) for item in found)
    return tuple(ref for ref in refs if ref.kind == "output")


class ComfyClient:
    """One client of one server, with a WebSocket open for as long as it lives; made by `connect`."""

    def __init__(self, session: aiohttp.ClientSession, socket: "aiohttp.ClientWebSocketResponse[bool]", client_id: str) -> None:
        """Use `connect`, which opens and closes both."""
        self._session, self._socket, self._client_id = session, socket, client_id

    async def queue(
        self, prompt: Prompt, workflow: Mapping[str, Any] | None = None, extra_data: Mapping[str, Any] | None = None
    ) -> str:
        """Queue a prompt and return its id; `workflow`, the UI form, goes into the pictures' metadata.

        `extra_data` is ComfyUI's for one prompt, for instance `{"preview_method": "none"}`.
        Raises PromptRefusedError also where the server would run the prompt without the outputs that it refuses.
        """
        extra: dict[str, Any] = dict(extra_data or {})
        if workflow is not None:
            extra["extra_pnginfo"] = {"workflow": workflow}
        body = {"prompt": prompt, "client_id": self._client_id, "extra_data": extra}
        async with self._request("POST", "/prompt", json=body) as response:
            answer = await _object(response, "/prompt")
        if response.status != 200:
            raise PromptRefusedError(refusal_reasons(answer))
        prompt_id: str = answer["prompt_id"]
        if answer.get("node_errors"):
            await self.cancel(prompt_id)
            raise PromptRefusedError(refusal_reasons(answer))
        return prompt_id

    async def follow(self, prompt_id: str) -> AsyncIterator[Event]:
        """The events of a queued prompt until it has ended; the last is Succeeded, Failed or Cancelled.

        Raises UnreachableError if the server goes away, which is asked after a long silence. Events of other prompts are dropped.
        """
        outcome: Event | None = None
        now = asyncio.get_running_loop().time
        waits, ask_at, asked_at = True, now() + SILENCE_S, -math.inf
        while True:
            if ask_at <= now():
                if await self._is_gone(prompt_id):
                    yield Cancelled()  # the queue was cleared; nothing else tells so
                    return
                asked_at = now()
                ask_at = asked_at + SILENCE_S
            content = await self._receive(ask_at - now())
            if content is None:
                continue
            data: dict[str, Any] = content["data"]
            if waits and content["type"] == "status":  # the queue changed, on a busy server many times a second
                ask_at = min(ask_at, max(now(), asked_at + GONE_POLL_S))
            if data.get("prompt_id") != prompt_id:
                continue
            waits, ask_at = False, now() + SILENCE_S
            if content["type"] == "executing" and data["node"] is None and outcome is not None:
                yield outcome  # only now the history is complete
                return
            event = parse_event(content["type"], data)
            if isinstance(event, Succeeded | Failed | Cancelled):
                outcome = event
            elif event is not None:
                yield event

    async def _receive(self, timeout_s: float) -> dict[str, Any] | None:
        """The next message, None for a preview and where none comes in time; raises UnreachableError if the server goes away."""
        try:
            # To aiohttp 0 is no timeout.
            message = await self._socket.receive(max(timeout_s, MIN_TIMEOUT_S))
        except asyncio.TimeoutError:  # the builtin one only from Python 3.11 on
            return None
        if message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSING, aiohttp.WSMsgType.CLOSED):
            raise UnreachableError("ComfyUI went away while it was working: see the end of its log.")
        return json.loads(message.data) if message.type is aiohttp.WSMsgType.TEXT else None

    async def run(self, prompt: Prompt, workflow: Mapping[str, Any] | None = None) -> tuple[list[Event], History]:
        """Queue a prompt, wait for its end, and return its events and what it left."""
        prompt_id = await self.queue(prompt, workflow)
        events = [event async for event in self.follow(prompt_id)]
        return events, await self.history(prompt_id)

    async def history(self, prompt_id: str) -> History:
        """What a finished prompt left; raises ClientError if the server does not know it within a few seconds."""
        deadline = asyncio.get_running_loop().time() + HISTORY_TIMEOUT_S
        while prompt_id not in (found := await self._json(f"/history/{prompt_id}")):
            if asyncio.get_running_loop().time() > deadline:
                raise ClientError(f"ComfyUI has no history of prompt {prompt_id}: it is unknown or still running.")
            await asyncio.sleep(POLL_S)
        entry = found[prompt_id]
        return History(entry["outputs"], entry["status"]["completed"], images_of(entry["outputs"]))

    async def job(self, prompt_id: str) -> dict[str, Any]:
        """The server's record of a prompt: status, and its start and end in milliseconds (GET /api/jobs/{id})."""
        return await self._json(f"/api/jobs/{prompt_id}")

    async def _is_gone(self, prompt_id: str) -> bool:
        async with self._request("GET", f"/api/jobs/{prompt_id}") as response:
            return response.status == 404

    async def image(self, ref: ImageRef) -> bytes:
        """The file of a picture as the server saved it, metadata included."""
        query = {"filename": ref.filename, "subfolder": ref.subfolder, "type": ref.kind}
        async with self._request("GET", "/view", params=query) as response:
            if response.status != 200:
                raise ClientError(f"ComfyUI has no picture {ref.filename}: HTTP {response.status}.")
            return await response.read()

    async def system_stats(self) -> dict[str, Any]:
        """Versions, memory and devices of the server."""
        return await self._json("/system_stats")

    async def queue_length(self) -> int:
        """Prompts that wait or run, whoever queued them."""
        return int((await self._json("/prompt"))["exec_info"]["queue_remaining"])

    async def object_info(self, node_type: str | None = None) -> dict[str, Any]:
        """The declarations of all node types, or of one."""
        return await self._json(f"/object_info/{node_type}" if node_type else "/object_info")

    async def cancel(self, prompt_id: str) -> None:
        """Cancel a prompt, whether it waits or runs; one that has ended stays as it is."""
        async with self._request("POST", f"/api/jobs/{prompt_id}/cancel") as response:
            if response.status != 200:
                raise ClientError(f"ComfyUI did not cancel prompt {prompt_id}: HTTP {response.status}.")

    async def free(self) -> None:
        """Ask the server to unload its models and forget cached results; it does so between prompts."""
        async with self._request("POST", "/free", json={"unload_models": True, "free_memory": True}) as response:
            if response.status != 200:
                raise ClientError(f"ComfyUI did not free its memory: HTTP {response.status}.")

    async def _json(self, path: str) -> dict[str, Any]:
        async with self._request("GET", path) as response:
            if response.status != 200:
                raise ClientError(f"ComfyUI answered GET {path} with HTTP {response.status}.")
            return await _object(response, path)

    @asynccontextmanager
    async def _request(self, method: str, path: str, **arguments: Any) -> AsyncGenerator[aiohttp.ClientResponse, None]:
        try:
            async with self._session.request(method, path, **arguments) as response:
                yield response
        except aiohttp.ClientError as error:
            raise UnreachableError(f"ComfyUI does not answer {method} {path} ({error}): see the end of its log.") from error


async def _object(response: aiohttp.ClientResponse, path: str) -> dict[str, Any]:
    """The JSON object in an answer; raises ClientError for anything else, which some other server gives."""
    try:
        # As Python reads JSON: nodes of other packs declare Infinity.
        answer: Any = json.loads(await response.read())
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise ClientError(f"What {response.host} answers for {path} is none of ComfyUI's answers: check the address.")
    return cast(dict[str, Any], answer)


def base_url(address: str) -> str:
    """The server's URL, of `host:port` too; raises BadInputError for anything else."""
    url = address if "://" in address else f"http://{address}"
    try:
        parts = urllib.parse.urlsplit(url)
        named = HOST.fullmatch(parts.netloc.rpartition("@")[2])
        usable = parts.scheme in ("http", "https") and named and (parts.port or 1) and parts.path in ("", "/")
    except ValueError:  # a port that is no number, or half a pair of brackets
        parts, usable = None, False
    if parts is None or not usable:
        raise BadInputError(f"The server is {without_password(address)!r}; name it as host:port or http://host:port.")
    return f"{parts.scheme}://{parts.netloc}"


@asynccontextmanager
async def connect(address: str) -> AsyncGenerator[ComfyClient, None]:
    """A client of the server at `address` (http://host:port), closed at the end of the block."""
    client_id = uuid.uuid4().hex
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
    async with aiohttp.ClientSession(address, timeout=timeout) as session:
        try:
            socket = await session.ws_connect(f"/ws?clientId={client_id}", max_msg_size=0)
        except aiohttp.ClientError as error:
            shown = without_password(address)
            raise UnreachableError(f"No ComfyUI answers at {shown} ({error}): start it, or check the address.") from error
        async with socket:
            yield ComfyClient(session, socket, client_id)
