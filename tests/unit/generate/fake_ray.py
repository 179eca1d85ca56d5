"""A stand-in for Ray whose actors answer at once, and the workers behind them."""

import io
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
from fast_sprites.nodes.benchmark.generate.request import Job
from fast_sprites.nodes.benchmark.generate.shared import SharedOutput
from fast_sprites.nodes.benchmark.generate.storage import write_new
from fast_sprites.nodes.benchmark.generate.worker import DrawnJob, StoredJob, WorkerFacts
from PIL import Image


class TaskError(Exception):
    def __init__(self, cause: Exception) -> None:
        self.cause = cause


class ActorError(Exception):
    pass


def png(seed: int, shift: int = 0) -> bytes:
    picture = np.random.default_rng(seed).integers(0, 200, (8, 8, 3), dtype=np.uint8) + np.uint8(shift)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


class FakeWorker:
    """A node; its methods may be changed to what goes wrong there."""

    def __init__(self, name: str) -> None:
        self.node = name
        self.jobs: list[list[int]] = []
        self.never_answers = False
        self.known: dict[str, Any] = {"comfyui_version": "0.30.0", "pack_version": "0.1.0", "checkpoint_sha256": "abc"}
        self.shift = 0
        self.output: SharedOutput | None = None
        self.asked: list[tuple[Any, ...]] = []
        """What `store` was given."""
        self.num_written = 0

    def facts(self) -> WorkerFacts:
        return WorkerFacts(self.node, **self.known, device="cpu")

    def draw(self, job: Job) -> DrawnJob:
        self.jobs.append([sprite.index for sprite in job.sprites])
        return DrawnJob(self.node, [png(sprite.seed, self.shift) for sprite in job.sprites])

    def store(self, job: Job, names: list[str], checked: str) -> StoredJob:
        drawn = self.draw(job)
        if checked != self.node:
            return StoredJob(self.node, [])
        assert self.output is not None
        folder = self.output.open()
        self.num_written += len(names)
        return StoredJob(self.node, [write_new(folder, name, data) for name, data in zip(names, drawn.files, strict=True)])

    def stop(self) -> None:
        pass


class FakeRay:
    """Answers one question after the other, in the order in which they were asked."""

    exceptions = SimpleNamespace(RayTaskError=TaskError, RayActorError=ActorError)

    def __init__(self, workers: list[FakeWorker], resources: dict[str, float] | None = None) -> None:
        self._workers = list(workers)
        self._resources = resources or {"CPU": 3.0}
        self.num_waiting: list[int] = []
        self.killed: list[Any] = []

    def remote(self, _: type) -> Any:
        return SimpleNamespace(
            options=lambda **_: SimpleNamespace(remote=lambda _, __, output: self._actor(self._workers.pop(0), output))
        )

    def _actor(self, worker: FakeWorker, output: SharedOutput | None) -> Any:
        worker.output = output

        def method(name: str) -> Any:
            # The method is looked up when it is answered, as a worker may have changed by then.
            return SimpleNamespace(remote=lambda *arguments: ask(name, arguments), options=lambda **_: method(name))

        def ask(name: str, arguments: tuple[Any, ...]) -> Ref:
            worker.asked += [arguments] if name == "store" else []
            return Ref(worker, name, lambda: getattr(worker, name)(*arguments))

        return SimpleNamespace(**{name: method(name) for name in ("facts", "draw", "store", "stop")}, worker=worker)

    def wait(self, refs: list[Any], num_returns: int = 1, timeout: float = 0) -> tuple[list[Any], list[Any]]:
        self.num_waiting.append(len(refs))
        ready = [ref for ref in refs if not ref.worker.never_answers]
        assert ready, "the driver waits for ever"
        return ready[:num_returns], ready[num_returns:]

    def get(self, ref: Any) -> Any:
        return ref.answer()

    def kill(self, actor: Any) -> None:
        self.killed.append(actor.worker)

    def cluster_resources(self) -> dict[str, float]:
        return self._resources

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "NodeManagerHostname": f"host{number}"} for number in range(3)]

    def shutdown(self) -> None:
        pass


class Ref:
    def __init__(self, worker: FakeWorker, name: str, answer: Callable[[], Any]) -> None:
        self.worker, self.name, self.answer = worker, name, answer
