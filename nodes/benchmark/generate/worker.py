"""A worker of a cluster: owns a ComfyUI on its node, and draws jobs on it."""

import asyncio
import hashlib
import os
import socket
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...engine.errors import PackError
from ..client import ClientError, UnreachableError, connect
from ..pack import pack_version
from ..server import ComfyServer, ServerSetup, free_port, known_flags
from .request import Job
from .run import ServerWorker
from .shared import SharedOutput
from .storage import Folder, StoredFile, write_new
from .workflow import Graph, check_server

START_TIMEOUT_S = 600.0
SERVER_FLAGS = ("--disable-auto-launch", "--database-url=sqlite:///:memory:")
"""Several servers on one node share ComfyUI's folder, but cannot share its database."""
HASHED_AT_ONCE = 1 << 24


class WorkerError(PackError):
    """A node that cannot draw; the message names it."""


@dataclass(frozen=True)
class WorkerSpec:
    """Where a worker finds its ComfyUI."""

    address: str
    """Of a ComfyUI that runs on every node, if `comfyui` is None."""
    comfyui: str | None = None
    """A folder with ComfyUI on every node, which the worker starts."""
    base_directory: str | None = None
    """ComfyUI's folder of models and custom nodes, if it is not `comfyui` itself."""
    python: str | None = None
    """The Python that ComfyUI runs on, if it is not the worker's own."""
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class WorkerFacts:
    """What must be the same on all nodes, and what names this one."""

    node: str
    comfyui_version: str
    pack_version: str
    checkpoint_sha256: str | None
    """None where the worker does not know where its ComfyUI keeps checkpoints."""
    device: str

    def of_batch(self) -> dict[str, Any]:
        """What must be the same on all nodes."""
        return {name: getattr(self, name) for name in _WORDS}


_WORDS = {"comfyui_version": "ComfyUI", "pack_version": "Fast Sprites", "checkpoint_sha256": "a checkpoint with SHA-256"}


def facts_differ(facts: WorkerFacts, batch: dict[str, Any]) -> str | None:
    """In what a worker differs from what the batch was begun with, in words; None if in nothing that is known of both."""
    for name, value in facts.of_batch().items():
        if value is not None and value != batch.get(name, value):
            return f"{facts.node} has {_WORDS[name]} {value}, and the batch was begun with {batch[name]}"
    return None


@dataclass(frozen=True)
class DrawnJob:
    """What a worker drew."""

    node: str
    """Another than that of the worker's facts if the worker was started anew in between."""
    files: list[bytes]


@dataclass(frozen=True)
class StoredJob:
    """What a worker drew and wrote by itself."""

    node: str
    files: list[StoredFile]
    """Empty if the driver has not checked this node yet."""


class SpriteWorker:
    """The actor: starts or adopts its ComfyUI when it is first asked for something, and again after a restart."""

    def __init__(self, spec: WorkerSpec, graph: Graph, output: SharedOutput | None = None) -> None:
        """Nothing is started yet, so that what goes wrong there reaches the driver as an answer; `output` is for `store` alone."""
        self._spec, self._graph, self._output = spec, graph, output
        self._folder: Folder | None = None
        self._writing = asyncio.Lock()
        self._server: ComfyServer | None = None
        self._address: str | None = None
        self._is_stopped = False
        self._starting = asyncio.Lock()
        self.node = f"{socket.gethostname()} (process {os.getpid()})"

    async def facts(self) -> WorkerFacts:
        """Check this node; raises WorkerError if it cannot draw."""
        address = await self._ready()
        async with connect(address) as client:
            stats = await client.system_stats()
        devices = ", ".join(device["name"] for device in stats["devices"])
        return WorkerFacts(self.node, stats["system"]["comfyui_version"], pack_version(), self._checkpoint_sha256(), devices)

    async def draw(self, job: Job) -> DrawnJob:
        """Draw a job; ends the process if ComfyUI is gone, so that Ray starts the actor anew and runs the job again.

        Raises WorkerError if the job fails in a running ComfyUI, or `stop` ends it.
        """
        return DrawnJob(self.node, await self._pictures(job))

    async def store(self, job: Job, names: list[str], checked: str) -> StoredJob:
        """Draw a job and write its files under these names; as `draw`, and raises WorkerError if they cannot be written.

        A file that is there stays, and the answer says what it is: it is that of another worker, which drew the job too. Nothing is
        written unless `checked`, the node that the driver knows, is still this one: after a restart it may draw other pictures.
        """
        pictures = await self._pictures(job)
        if checked != self.node:
            return StoredJob(self.node, [])
        try:
            async with self._writing:  # SFTP and FTP hang if two threads ask
                return StoredJob(self.node, await asyncio.to_thread(self._write, names, pictures))
        except OSError as error:
            raise WorkerError(f"{self.node}: {self._folder} cannot be written ({error.strerror}).") from None

    def _write(self, names: list[str], pictures: list[bytes]) -> list[StoredFile]:
        assert self._folder is not None
        files: list[StoredFile] = []
        for name, picture in zip(names, pictures, strict=True):
            if self._is_stopped:
                raise WorkerError(f"{self.node}: stopped.")
            files.append(write_new(self._folder, name, picture))
        return files

    async def _pictures(self, job: Job) -> list[bytes]:
        address = await self._ready()
        try:
            async with connect(address) as client:
                worker = ServerWorker(client, self._graph)
                prompt_id = await worker.queue(job)
                await worker.wait(job, prompt_id, lambda _: None)
                return await worker.pictures(job, prompt_id)
        except UnreachableError:
            if self._is_stopped:
                raise WorkerError(f"{self.node}: stopped.") from None
            if self._server is not None:
                self._server.stop()
            os._exit(1)
        except ClientError as error:
            raise WorkerError(f"{self.node}: {error}") from None

    def stop(self) -> None:
        """Stop a ComfyUI that this worker has started."""
        self._is_stopped = True
        if self._server is not None:
            self._server.stop()
            self._server = self._address = None

    async def _ready(self) -> str:
        async with self._starting:
            if self._address is None:
                try:
                    if self._output is not None:
                        self._folder = self._output.open()
                    address = self._spec.address if self._spec.comfyui is None else self._start()
                    async with connect(address) as client:
                        await check_server(client, address, self._graph)
                except (PackError, OSError) as error:
                    self.stop()
                    raise WorkerError(f"{self.node}: {error}") from None
                self._address = address
            return self._address

    def _start(self) -> str:
        # On this thread, which lasts as long as the process: the kernel ends the server together with it.
        comfyui = Path(self._spec.comfyui or "")
        if not (comfyui / "main.py").is_file():
            raise WorkerError(f"there is no ComfyUI in {comfyui}: install it there on every node, or name another folder.")
        port = free_port()
        setup = ServerSetup(
            python=Path(self._spec.python or sys.executable),
            comfyui=comfyui,
            base_directory=Path(self._spec.base_directory or comfyui),
            log=Path(tempfile.gettempdir()) / "fast-sprites" / f"comfyui-{port}.log",
            flags=(*known_flags(comfyui, SERVER_FLAGS), *self._spec.flags),
            port=port,
            ends_with_parent=True,
        )
        self._server = ComfyServer(setup, START_TIMEOUT_S)
        self._server.start()
        return self._server.address

    def _checkpoint_sha256(self) -> str | None:
        folder = self._spec.base_directory or self._spec.comfyui
        names = [node["inputs"]["ckpt_name"] for node in self._graph.values() if isinstance(node["inputs"].get("ckpt_name"), str)]
        if folder is None or len(names) != 1:
            return None
        path = Path(folder, "models", "checkpoints", names[0])
        if not path.is_file():  # in a folder of extra_model_paths.yaml
            return None
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while data := file.read(HASHED_AT_ONCE):
                digest.update(data)
        return digest.hexdigest()
