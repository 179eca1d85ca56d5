"""Draws what is missing in a manifest on a Ray cluster: one worker with a ComfyUI for each GPU, the same jobs, the same manifest.

Ray places the workers, starts lost ones anew and runs their jobs again (https://docs.ray.io/en/latest/ray-core/fault_tolerance/actors.html);
jobs may run twice, for a sprite that is finished is not taken again.
"""

import contextlib
import importlib
import io
import math
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

from ...engine.errors import BadInputError, PackError
from ..pack import PACK_ROOT
from .manifest import Manifest
from .progress import Progress
from .request import Job, Sprite
from .run import QUEUED_JOBS, StoppedError
from .shared import SharedOutput, shared_output
from .storage import Folder, StoredFile
from .worker import DrawnJob, SpriteWorker, StoredJob, WorkerFacts, WorkerSpec, facts_differ
from .workflow import configured, file_extension, sprite_nodes

WAIT_S = 1.0
STOP_TIMEOUT_S = 20.0
JOB_RETRIES = 3
"""How often Ray runs a job again whose worker died; a job that takes ComfyUI down each time must not do so for ever."""
MAX_MEAN_DIFFERENCE = 4.0
"""Of 255: the first sprite, drawn by every worker. Cards of different kinds round differently, which the steps amplify."""


@dataclass(frozen=True)
class ClusterSpec:
    """The cluster and what a worker takes of it."""

    address: str
    """`local`, `auto`, `HOST:PORT` or `ray://HOST:PORT`."""
    worker: WorkerSpec
    num_workers: int = 0
    """0: as many as the cluster has room for now."""
    gpus_per_worker: float = 1.0
    resources: dict[str, float] = field(default_factory=dict[str, float])


@dataclass
class _Worker:
    """A worker as the driver sees it."""

    number: int
    actor: Any
    facts: WorkerFacts | None = None
    is_checked: bool = False
    """Whether it is the batch's kind and has drawn the batch's first sprite."""
    num_sprites: int = 0


@dataclass
class _Running:
    """A job on a worker; `job` is None for the question for its facts."""

    worker: _Worker
    job: Job | None
    node: str = ""
    """Whom the driver knew as the worker when it gave the job."""
    is_probe: bool = False


def open_cluster(spec: ClusterSpec) -> Any:
    """Connect to the cluster and return the module `ray`; raises BadInputError if there is none, or one of another version."""
    try:
        ray: Any = importlib.import_module("ray")
    except ImportError as error:
        raise BadInputError("--cluster needs Ray, which is not installed: pip install ray numpy Pillow.") from error
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if __name__.startswith("nodes."):  # a clone, which the workers cannot import by themselves
        options["runtime_env"] = {"py_modules": [str(PACK_ROOT / "nodes")]}
    if spec.address == "local":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster of ours reports to nobody
    try:
        ray.init(address=spec.address, **options)
    except Exception as error:  # Ray raises bare ones too, as for a node that does not start within its 30 s
        reason = " ".join(str(error).split())
        raise BadInputError(
            f"The cluster {spec.address!r} cannot be used ({reason}): start it (ray start --head), or name its address."
        ) from error
    return ray


def generate_on_cluster(ray: Any, manifest: Manifest, spec: ClusterSpec, job_size: int, progress: Progress) -> None:
    """Draw every missing sprite and put it on disk; raises BadInputError if no node has room, StoppedError if the batch breaks off."""
    with contextlib.ExitStack() as stack:
        stack.callback(ray.shutdown)
        with _storing(manifest.folder):
            output = stack.enter_context(shared_output(manifest.folder))
        _Batch(ray, manifest, spec, job_size, progress, output).run()


@contextlib.contextmanager
def _storing(folder: Folder) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise StoppedError(f"{folder} cannot be written ({error.strerror}).") from error


class _Batch:
    def __init__(
        self, ray: Any, manifest: Manifest, spec: ClusterSpec, job_size: int, progress: Progress, output: SharedOutput | None
    ) -> None:
        self._ray, self._manifest, self._spec, self._progress = ray, manifest, spec, progress
        self._output = output
        """Where the workers write by themselves; None if the driver writes."""
        self._given_twice: set[int] = set()
        """Sprites that more than one worker may write."""
        self._held: dict[int, Sprite] = {}
        """Of these the written ones, whose lines follow when nobody writes any more: then what lies there stays."""
        self._graph = configured(manifest.request)
        self._extension = file_extension(self._graph, sprite_nodes(self._graph))
        self._jobs: Iterator[Job] = manifest.jobs(job_size)
        self._again: deque[Job] = deque()
        self._unqueued = len(manifest.request) - manifest.num_finished
        """Missing sprites that no worker has yet."""
        self._running: dict[Any, _Running] = {}
        self._refused: list[str] = []
        self._workers: list[_Worker] = []

    def run(self) -> None:
        count = self._spec.num_workers or self._room()
        actor = self._ray.remote(SpriteWorker)
        self._workers = [_Worker(number, self._start(actor)) for number in range(1, count + 1)]
        for worker in self._workers:
            self._ask(worker)
        began = time.monotonic()
        try:
            while self._num_done() < len(self._manifest.request):
                self._hand_out()
                if not self._running:
                    raise StoppedError("No worker is left: " + " ".join(self._refused))
                done, _ = self._ray.wait(list(self._running), timeout=WAIT_S)
                for ref in done:
                    self._take(ref, self._running.pop(ref))
                self._progress.show(self._num_done())
        finally:
            self._stop()
            self._record_held()
        self._say_rates(time.monotonic() - began)

    def _num_done(self) -> int:
        return self._manifest.num_finished + len(self._held)

    def _room(self) -> int:
        """How many workers the cluster has resources for."""
        has = self._ray.cluster_resources()
        wants = {"GPU": self._spec.gpus_per_worker, **self._spec.resources}
        shares = [math.floor(has.get(name, 0.0) / amount) for name, amount in wants.items() if amount > 0]
        nodes = [node for node in self._ray.nodes() if node["Alive"]]
        if shares and min(shares) < 1:
            names = ", ".join(node["NodeManagerHostname"] for node in nodes)
            wanted = ", ".join(f"{amount:g} {name}" for name, amount in wants.items() if amount > 0)
            raise BadInputError(
                f"No node of the cluster ({names}) has {wanted} for a worker: start nodes that do, or draw without by --gpus-per-worker 0."
            )
        return min(shares) if shares else len(nodes)

    def _start(self, actor: Any) -> Any:
        options = actor.options(
            num_cpus=0 if self._spec.gpus_per_worker else 1,
            num_gpus=self._spec.gpus_per_worker,
            resources=self._spec.resources or None,
            max_restarts=-1,
            max_task_retries=JOB_RETRIES,
            max_concurrency=QUEUED_JOBS + 1,
            scheduling_strategy="SPREAD",
        )
        return options.remote(self._spec.worker, self._graph, self._output)

    def _hand_out(self) -> None:
        """Give every checked worker what it can queue; at the end, idle ones draw what others have not finished yet."""
        load = Counter(running.worker.number for running in self._running.values())
        ready = [worker for worker in self._workers if worker.is_checked]
        for worker in sorted(ready, key=lambda worker: load[worker.number]):
            while load[worker.number] < QUEUED_JOBS:
                job = self._next_job() or (self._unfinished_of_others(worker) if not load[worker.number] else None)
                if job is None:
                    break
                self._queue(worker, job)
                load[worker.number] += 1

    def _queue(self, worker: _Worker, job: Job) -> None:
        assert worker.facts is not None
        title = f"sprites {job.sprites[0].index + 1} to {job.sprites[-1].index + 1}"
        if self._output is None:
            ref = worker.actor.draw.options(name=title).remote(job)
        else:
            names = [self._name(sprite) for sprite in job.sprites]
            ref = worker.actor.store.options(name=title).remote(job, names, worker.facts.node)
        self._running[ref] = _Running(worker, job, worker.facts.node)

    def _name(self, sprite: Sprite) -> str:
        return self._manifest.request.file_stem(sprite) + self._extension

    def _next_job(self) -> Job | None:
        """The next missing sprites; jobs shrink when few are left, so that several workers end together.

        By halves: an engine prepares itself anew for every number of sprites that it has not drawn lately.
        """
        job = self._again.popleft() if self._again else next(self._jobs, None)
        if job is None:
            return None
        share = math.ceil(self._unqueued / (QUEUED_JOBS * len(self._workers)))
        most = len(job.sprites)
        while most > share and len(self._workers) > 1:
            most = math.ceil(most / 2)
        if len(job.sprites) > most:
            self._again.appendleft(Job(job.sprites[most:]))
            job = Job(job.sprites[:most])
        self._unqueued -= len(job.sprites)
        return job

    def _unfinished_of_others(self, worker: _Worker) -> Job | None:
        copies = Counter(running.job for running in self._running.values() if running.job is not None)
        for running in self._running.values():
            if running.job is not None and running.worker is not worker and copies[running.job] == 1:
                self._note_twice(running.job)
                return running.job
        return None

    def _note_twice(self, job: Job) -> None:
        self._given_twice.update(sprite.index for sprite in job.sprites)

    def _take(self, ref: Any, running: _Running) -> None:
        errors = self._ray.exceptions
        try:
            answer = self._ray.get(ref)
        except errors.RayTaskError as error:
            if not isinstance(error.cause, PackError):
                raise
            self._lose(running, str(error.cause))
        except errors.RayActorError as error:
            reason = str(error).splitlines()[-1]  # after a table of the actor's ids
            self._lose(running, f"Worker {running.worker.number} is lost, Ray says: {reason}")
        else:
            if running.job is None:
                self._compare(running.worker, answer)
            elif answer.node != running.node:
                self._ask_anew(running, answer.node)
            elif running.is_probe:
                self._accept(running.worker, answer)
            else:
                self._keep(running.worker, running.job, answer)

    def _lose(self, running: _Running, reason: str) -> None:
        """Go on without a worker; its jobs go to others."""
        if running.worker in self._workers:
            self._workers.remove(running.worker)
            self._refused.append(reason)
            print(f"\n{reason}", file=sys.stderr, flush=True)
            self._ray.kill(running.worker.actor)
        self._give_back(running)

    def _give_back(self, running: _Running) -> None:
        if running.job is not None and not running.is_probe:
            self._again.append(running.job)
            self._note_twice(running.job)
            self._unqueued += len(running.job.sprites)

    def _ask(self, worker: _Worker) -> None:
        self._running[worker.actor.facts.remote()] = _Running(worker, None)

    def _ask_anew(self, running: _Running, node: str) -> None:
        """Ray has started the worker anew, maybe on another node: what it drew counts only once it is checked again."""
        if running.worker.facts is not None and running.worker.facts.node != node:
            running.worker.facts, running.worker.is_checked = None, False
            self._ask(running.worker)
        self._give_back(running)

    def _compare(self, worker: _Worker, facts: WorkerFacts) -> None:
        """Compare a worker's versions with the batch's and have it draw the first sprite, which also warms its engine up."""
        with _storing(self._manifest.folder):
            self._manifest.set_facts(facts.of_batch())
        differs = facts_differ(facts, self._manifest.facts)
        if differs is not None:
            self._lose(_Running(worker, None), f"{differs}: make them the same.")
            return
        worker.facts = facts
        job = Job((self._manifest.request.sprite(0),))
        ref = worker.actor.draw.options(name="first sprite, to compare").remote(job)
        self._running[ref] = _Running(worker, job, facts.node, is_probe=True)

    def _accept(self, worker: _Worker, drawn: DrawnJob) -> None:
        """Let a worker draw if its first sprite is that of the batch."""
        first = self._manifest.request.sprite(0)
        self._add(worker, first, drawn.files[0])
        with _storing(self._manifest.folder):
            expected = self._manifest.folder.read(self._name(first))
        difference = mean_difference(drawn.files[0], expected)
        if difference > MAX_MEAN_DIFFERENCE:
            reason = f"{drawn.node} draws another first sprite than the batch's (by {difference:.1f} of 255): it is left out."
            self._lose(_Running(worker, None), reason)
            return
        worker.is_checked = True

    def _keep(self, worker: _Worker, job: Job, drawn: DrawnJob | StoredJob) -> None:
        for sprite, file in zip(job.sprites, drawn.files, strict=True):
            if sprite.index in self._given_twice and self._output is not None:
                worker.num_sprites += sprite.index not in self._held
                self._held[sprite.index] = sprite
            else:
                self._add(worker, sprite, file)

    def _add(self, worker: _Worker, sprite: Sprite, file: bytes | StoredFile) -> None:
        with _storing(self._manifest.folder):
            if isinstance(file, StoredFile):
                worker.num_sprites += self._manifest.record(sprite, file)
            else:
                worker.num_sprites += self._manifest.add(sprite, file, self._extension)

    def _record_held(self) -> None:
        with _storing(self._manifest.folder):
            for sprite in self._held.values():
                name = self._name(sprite)
                self._manifest.record(sprite, StoredFile.of(name, self._manifest.folder.read(name)))
            self._held.clear()

    def _stop(self) -> None:
        stopping = [worker.actor.stop.remote() for worker in self._workers]
        if stopping:  # with the jobs that nobody needs any more, which Ray would run again if they ended by the kill
            ending = [*stopping, *self._running]
            self._ray.wait(ending, num_returns=len(ending), timeout=STOP_TIMEOUT_S)
        for worker in self._workers:
            self._ray.kill(worker.actor)

    def _say_rates(self, seconds: float) -> None:
        for worker in self._workers:
            if worker.facts is not None:
                pace = 60 * worker.num_sprites / seconds
                print(f"{worker.facts.node}: {worker.num_sprites} sprites, {pace:.1f} a minute, {worker.facts.device}")


def mean_difference(one: bytes, other: bytes) -> float:
    """Mean absolute difference of two pictures, of 255; infinite if their sizes differ."""
    import numpy as np
    from PIL import Image

    first, second = (np.asarray(Image.open(io.BytesIO(data), formats=["PNG", "WEBP"]), dtype=np.int16) for data in (one, other))
    return float(np.abs(first - second).mean()) if first.shape == second.shape else math.inf
