"""Draws what is missing in a manifest on one ComfyUI server, over its HTTP API."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence

from ...engine.errors import PackError
from ..client import ClientError, ComfyClient, Failed, ImageRef, Step, Succeeded, connect
from .manifest import Manifest
from .progress import Progress
from .request import GenerateRequest, Job
from .workflow import Graph, check_server, configured, file_extension, job_graph, sprite_nodes

QUEUED_JOBS = 2
"""One that is drawn and one that waits, so that the server is never idle while results are fetched."""
CANCEL_TIMEOUT_S = 5.0

SIGNATURES = {".png": b"\x89PNG\r\n\x1a\n", ".webp": b"RIFF"}


class StoppedError(PackError):
    """The batch broke off; what is finished is kept and can be gone on with."""


async def generate(manifest: Manifest, address: str, job_size: int, progress: Progress) -> None:
    """Draw every missing sprite and put it on disk; raises StoppedError if the batch breaks off."""
    try:
        async with connect(address) as client:
            await _draw_all(ServerWorker(client, configured(manifest.request)), manifest, job_size, progress)
    except ClientError as error:
        raise StoppedError(str(error)) from error
    except OSError as error:
        raise StoppedError(f"{manifest.folder} cannot be written ({error.strerror}).") from error


async def require_server(address: str, request: GenerateRequest) -> None:
    """Raise ClientError if no ComfyUI answers, BadInputError if it lacks a node or the checkpoint of the request."""
    async with connect(address) as client:
        await check_server(client, address, configured(request))


async def _draw_all(worker: "ServerWorker", manifest: Manifest, job_size: int, progress: Progress) -> None:
    jobs = manifest.jobs(job_size)
    queued: deque[tuple[Job, str]] = deque()
    saving: asyncio.Task[None] | None = None

    async def fetch_and_save(job: Job, prompt_id: str) -> None:
        pictures = await worker.pictures(job, prompt_id)
        for sprite, picture in zip(job.sprites, pictures, strict=True):
            await asyncio.to_thread(manifest.add, sprite, picture, worker.extension)
            progress.show(manifest.num_finished)

    try:
        while True:
            while len(queued) < QUEUED_JOBS and (job := next(jobs, None)) is not None:
                queued.append((job, await worker.queue(job)))
            if not queued:
                break
            job, prompt_id = queued[0]
            await worker.wait(job, prompt_id, lambda drawn: progress.show(manifest.num_finished, drawn))
            queued.popleft()
            if saving is not None:
                await saving
            saving = asyncio.create_task(fetch_and_save(job, prompt_id))
        if saving is not None:
            await saving
    finally:
        # What is drawn already is still fetched if the server is there, and what was queued is taken back.
        if saving is not None:
            await asyncio.gather(saving, return_exceptions=True)
        with contextlib.suppress(ClientError, asyncio.TimeoutError):
            await asyncio.wait_for(worker.cancel([prompt_id for _, prompt_id in queued]), CANCEL_TIMEOUT_S)


class ServerWorker:
    """One server that draws jobs of one request."""

    def __init__(self, client: ComfyClient, graph: Graph) -> None:
        """Draw with `graph`, a configured workflow."""
        self._client = client
        self._graph = graph
        self._nodes = sprite_nodes(graph)
        self.extension = file_extension(graph, self._nodes)

    async def queue(self, job: Job) -> str:
        """Queue the job and return its prompt id."""
        return await self._client.queue(job_graph(self._graph, self._nodes, job))

    async def wait(self, job: Job, prompt_id: str, show: Callable[[float], None]) -> None:
        """Wait for the end of a job, calling `show` with the sprites that are drawn; raises ClientError if it fails or is cancelled."""
        outcome = None
        async for event in self._client.follow(prompt_id):
            if isinstance(event, Step) and event.node_id == self._nodes.save:
                show(len(job.sprites) * event.value / max(event.maximum, 1))
            outcome = event
        if isinstance(outcome, Failed):
            reason = (outcome.message.splitlines() or [outcome.exception_type])[0]  # assert without words has no message
            raise ClientError(f"{outcome.node_type} (node {outcome.node_id}) failed: {reason}")
        if not isinstance(outcome, Succeeded):
            raise ClientError("The job was cancelled on the server.")

    async def pictures(self, job: Job, prompt_id: str) -> list[bytes]:
        """The finished files of a job, in the order of its sprites."""
        history = await self._client.history(prompt_id)
        shown = history.outputs.get(self._nodes.save, {}).get("images", ())
        refs = [ImageRef(item["filename"], item.get("subfolder", ""), item["type"]) for item in shown]
        if len(refs) != len(job.sprites):
            raise ClientError(f"SaveSprites saved {len(refs)} files for {len(job.sprites)} sprites: see ComfyUI's log.")
        files = [await self._client.image(ref) for ref in refs]
        for ref, data in zip(refs, files, strict=True):
            if not data.startswith(SIGNATURES[self.extension]):
                raise ClientError(f"ComfyUI's answer for {ref.filename} is no {self.extension[1:].upper()} file: see its log.")
        return files

    async def cancel(self, prompt_ids: Sequence[str]) -> None:
        """Take queued jobs back."""
        for prompt_id in prompt_ids:
            await self._client.cancel(prompt_id)
