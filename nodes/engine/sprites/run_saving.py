"""Save sprites in parallel, each under a name of its own and with the workflow that draws it alone."""

import contextlib
import io
import json
import logging
import os
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from threading import BoundedSemaphore
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ...comfy_adapters import folders, saving
from ...comfy_adapters.vae import decode_each
from ..errors import BadInputError, PackError
from .file_names import FORMATS, publish, sprite_name
from .png import deflate, encode_png
from .prompts import SpritePrompt
from .restore import edit_prompt, edit_workflow, is_page_graph, single_sprite_edits
from .run_batch import SpriteStream
from .staging import Content, stage

log = logging.getLogger("fast_sprites")

_WEBP_MAX_PIXELS = 16383
_LONGEST_KEYWORD = 79
"""Of a PNG's text: https://www.w3.org/TR/png-3/#11keywords."""
_THREADS = min(8, os.cpu_count() or 1)
_MAX_WAITING = 2 * _THREADS
"""Pictures that are being encoded or wait for it."""
_PICTURES_PER_DECODE = 8
"""Decoded pictures that a stream holds beside those where the VAE decodes them all at once; OptimizeVAE's decoder gives them one by one."""


@dataclass(frozen=True)
class SavedSprites:
    """Where the sprites went."""

    ui_images: list[dict[str, str]]
    """One entry per file, as ComfyUI's frontend shows them."""
    report: str


@dataclass(frozen=True)
class _File:
    """A sprite on disk."""

    path: Path
    is_finite: bool
    """Whether its picture held numbers alone."""


@dataclass(frozen=True)
class SavingRequest:
    """The widgets and side inputs of SaveSprites, and the graph that it stands in."""

    pattern: str
    file_format: str
    seeds: Sequence[int] | None
    prompts: Sequence[SpritePrompt] | None
    first_index: int
    node_id: str
    prompt: Mapping[str, Any] | None
    extra_pnginfo: Mapping[str, Any] | None


def save_sprites(
    images: torch.Tensor | None, stream: SpriteStream | None, vae: Any, request: SavingRequest
) -> tuple[Any, SavedSprites]:
    """Save either pictures or, while they are drawn and decoded, the sprites of a stream; returns what the node gives on, and the files.

    Raises BadInputError if not exactly one of the two is there, and what save_images and save_stream raise.
    """
    if images is not None and stream is None:
        return images, save_images(images, request)
    if stream is not None and images is None:
        blocked = saving.blocked(
            "Save Sprites gives no pictures on when it saves them while they are drawn: decode the latents instead."
        )
        return blocked, save_stream(stream, vae, request)
    given = "Both images and sprites are connected" if stream is not None else "Neither images nor sprites is connected"
    raise BadInputError(f"{given}; connect one of them: pictures, or sprites of BatchSpriteSampler with a vae.")


def save_images(images: torch.Tensor, request: SavingRequest) -> SavedSprites:
    """Write [N, H, W, C] pictures (0 to 1; C: 1, 3 or 4); returns when all are on disk.

    Raises BadInputError for bad names, counts and sizes before the first file is written, and PackError with the number of finished
    files when the disk refuses one.
    """
    count, height, width, channels = images.shape
    _check(count, height, width, channels, request)
    with _Writer(count, height, width, request, {}) as writer:
        for i, picture in enumerate(images):
            writer.add(i, stage(picture, request.file_format))
    return writer.saved()


def save_stream(stream: SpriteStream, vae: Any, request: SavingRequest) -> SavedSprites:
    """Draw, decode and write the sprites of `stream`, a micro-batch at a time; those that are finished are on disk whatever happens next.

    Files are encoded in threads while the next pictures are drawn and decoded. A run after one that was broken off saves what is missing.
    Raises what save_images raises, before anything is drawn where it can be known, and what drawing raises.
    """
    if vae is None:
        raise BadInputError("sprites is connected without a vae, which must decode them; connect the checkpoint's VAE.")
    request = replace(request, seeds=stream.seeds)
    count = len(stream.seeds)
    _check(count, stream.height, stream.width, 3, request)
    # Whatever else stands in the graph and in its metadata, these make the same files.
    same = (vae, replace(request, prompts=tuple(request.prompts or ()), prompt=None, extra_pnginfo=None))
    files = stream.half_saved[same] = {i: file for i, file in stream.half_saved.get(same, {}).items() if file.path.is_file()}

    def stage_all(pictures: torch.Tensor) -> list[Callable[[], Content]]:
        return [stage(picture, request.file_format) for picture in pictures]

    with _Writer(count, stream.height, stream.width, request, files) as writer:
        first = 0
        for latents in stream.micro_batches(request.node_id):
            for few in latents.split(_PICTURES_PER_DECODE):
                rows = [row for row in range(len(few)) if first + row not in files]
                if rows:
                    with contextlib.closing(decode_each(vae, few[rows], stage_all)) as passes:
                        for row, picture in zip(rows, chain.from_iterable(passes), strict=True):
                            writer.add(first + row, picture)
                first += len(few)
    saved = writer.saved()
    del stream.half_saved[same]
    return SavedSprites(saved.ui_images, f"{stream.report()}\n{saved.report}")


class _Writer:
    """Encodes and writes pictures in threads; few wait at a time, so that memory stays bounded."""

    def __init__(self, count: int, height: int, width: int, request: SavingRequest, files: dict[int, _File]) -> None:
        """Make the folders; raises BadInputError for a name that leaves the output folder. `files` are there, and those written join."""
        self._request = request
        self._count, self._size = count, (width, height)
        self._output = Path(saving.output_folder())
        self._free = BoundedSemaphore(_MAX_WAITING)
        self._files = files
        self._num_before = len(files)
        self._futures: list[Future[None]] = []
        self._names = [self._name(i).rpartition("/") for i in range(count)]
        for subfolder in {subfolder for subfolder, _, _ in self._names}:
            _prepare(self._output, subfolder)
        workflow = (request.extra_pnginfo or {}).get("workflow")
        self._page_graph = workflow if is_page_graph(workflow) else None
        self._started = time.perf_counter()
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="fast-sprites-save")

    def _name(self, i: int) -> str:
        request = self._request
        seed = None if request.seeds is None else request.seeds[i]
        line = None if request.prompts is None else request.prompts[i].line
        return sprite_name(request.pattern, request.first_index - 1 + i, seed, line, *self._size)

    def add(self, i: int, picture: Callable[[], Content]) -> None:
        """Save the picture of sprite `i`; waits while many are unsaved. Raises PackError if the disk has refused one."""
        self._free.acquire()
        self._raise_refusal()
        future = self._pool.submit(self._save, i, picture, _texts(i, self._request, self._page_graph))
        future.add_done_callback(lambda _: self._free.release())
        self._futures.append(future)

    def _save(self, i: int, picture: Callable[[], Content], texts: dict[str, str]) -> None:
        subfolder, _, stem = self._names[i]
        content = picture()
        if self._request.file_format == "png":
            data = encode_png(content.data, content.channels, texts, self._in_idle_threads)
        else:
            data = _encode_webp(content.data, texts)
        self._files[i] = _File(_write(data, self._output / subfolder, stem, self._request.file_format), content.is_finite)

    def _in_idle_threads(self, function: Callable[[int], bytes], values: Sequence[int]) -> list[bytes]:
        """Call `function` with each value here and in threads that are idle; what none has begun is done here, so that none waits in vain."""
        try:
            futures = [self._pool.submit(function, value) for value in values]
        except RuntimeError:  # Python is ending, and pools take nothing new
            return list(map(function, values))
        # All of them before a result is waited for: else one thread works while the other waits, in turn.
        here = {i: function(value) for i, value in enumerate(values) if futures[i].cancel()}
        return [here[i] if i in here else future.result() for i, future in enumerate(futures)]

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, *_: object) -> None:
        wait(self._futures)  # they ask the pool for more
        self._pool.shutdown()

    def _raise_refusal(self) -> None:
        # Asking each again for every picture took 7 s for 4096 of them.
        self._futures = [future for future in self._futures if not future.done() or future.exception() is not None]
        errors = [error for future in self._futures if future.done() and (error := future.exception()) is not None]
        refused = [error for error in errors if isinstance(error, OSError)]
        if errors and not refused:
            raise errors[0]
        if refused:
            wait(self._futures)
            raise PackError(
                f"Only {len(self._files)} of {self._count} sprites could be saved to {self._output / self._names[0][0]}: {refused[0]}; "
                "make room or change filename."
            ) from refused[0]

    def saved(self) -> SavedSprites:
        """Where all the sprites went; raises PackError if the disk has refused one."""
        self._raise_refusal()
        paths = [self._files[i].path.relative_to(self._output) for i in range(self._count)]
        ui_images = [{"filename": path.name, "subfolder": "/".join(path.parts[:-1]), "type": "output"} for path in paths]
        seconds = time.perf_counter() - self._started
        method = f"PNG, {deflate()[0]}" if self._request.file_format == "png" else "WebP, lossless"
        before = f", {self._num_before} of them before the last run was broken off" if self._num_before else ""
        names = "\n".join(map(str, paths))
        return SavedSprites(
            ui_images,
            f"{self._count} sprites saved in {seconds:.1f} s ({method}){before}\n{self._doubts()}{self._unopened()}{names}",
        )

    def _doubts(self) -> str:
        """A line on pictures that were no numbers, and are black or white where they were not; empty if there are none."""
        numbers = ", ".join(str(self._request.first_index + i) for i, f in sorted(self._files.items()) if not f.is_finite)
        if not numbers:
            return ""
        log.warning("SaveSprites %s: NaN or infinite values in sprite %s", self._request.node_id, numbers)
        return (
            f"NaN or infinite values in sprite {numbers}, black or white there: check the VAE (SDXL's own overflows in fp16) and the "
            "model, and draw again.\n"
        )

    def _unopened(self) -> str:
        """A line on a workflow that ComfyUI's page cannot open from the files; empty if there is none."""
        if self._page_graph is not None or "workflow" not in folders.workflow_texts(None, self._request.extra_pnginfo):
            return ""
        return (
            "The workflow that the client sent for the files' metadata is no graph of ComfyUI's page and was saved as it came; send what "
            "File > Export writes, or none: the prompt beside it draws each sprite.\n"
        )


def _check(count: int, height: int, width: int, channels: int, request: SavingRequest) -> None:
    if request.file_format not in FORMATS:
        raise BadInputError(f"format is {request.file_format!r}; allowed are {', '.join(FORMATS)}.")
    if request.first_index < 1:
        raise BadInputError(f"first_index is {request.first_index}; set it to 1 or more.")
    if channels not in (1, 3, 4):
        raise BadInputError(f"The pictures have {channels} channels; 1 (grey), 3 (RGB) or 4 (RGBA) can be saved.")
    if request.file_format == "webp" and max(height, width) > _WEBP_MAX_PIXELS:
        raise BadInputError(f"The pictures are {width}x{height} pixels, WebP ends at {_WEBP_MAX_PIXELS}; set format to png.")
    for key in request.extra_pnginfo or {}:
        if not 1 <= len(key) <= _LONGEST_KEYWORD or not key.isascii() or not key.isprintable():
            raise BadInputError(
                f"extra_pnginfo has the key {key[:40]!r}; a picture takes 1 to {_LONGEST_KEYWORD} characters of ASCII as a key."
            )
    for name, values, source in (("seeds", request.seeds, "BatchSpriteSampler"), ("prompts", request.prompts, "SpritePrompts")):
        if values is not None and len(values) != count:
            raise BadInputError(
                f"There are {count} pictures and {len(values)} {name}; connect {name} of the {source} that drew these pictures."
            )


def _prepare(output: Path, subfolder: str) -> None:
    """Make the folder; raises BadInputError if it lies outside the output folder, where a link may lead."""
    folder = output / subfolder
    if not folder.resolve().is_relative_to(output.resolve()):
        raise BadInputError(
            f"filename leads to {folder.resolve()}, outside ComfyUI's output folder {output}; choose another folder."
        )
    try:
        folders.output_path(f"{subfolder}/sprite".lstrip("/"), 0, 0)  # ComfyUI's own check, which also makes the folder
    except OSError as error:
        raise PackError(f"{folder} cannot be made: {error}; change filename or the rights of that folder.") from error


def _texts(i: int, request: SavingRequest, page_graph: Mapping[str, Any] | None) -> dict[str, str]:
    """The metadata of sprite `i`; `page_graph` is the workflow beside the prompt if ComfyUI's page can open it."""
    index = request.first_index - 1 + i
    seed = None if request.seeds is None else request.seeds[i]
    sprite_prompt = None if request.prompts is None else request.prompts[i]
    line = None if sprite_prompt is None else sprite_prompt.line
    edits = single_sprite_edits(request.prompt or {}, request.node_id, i, index + 1, seed, line)
    extra = dict(request.extra_pnginfo or {})
    if page_graph is not None:
        extra["workflow"] = edit_workflow(page_graph, edits)
    texts = folders.workflow_texts(None if request.prompt is None else edit_prompt(request.prompt, edits), extra)
    if texts:  # empty with --disable-metadata
        own = {"index": index, "seed": seed, "prompt": None if sprite_prompt is None else sprite_prompt.text}
        texts["fast_sprites"] = json.dumps(own)
    return texts


def _write(data: bytes, folder: Path, stem: str, file_format: str) -> Path:
    temporary = folder / f".{uuid.uuid4().hex}.tmp"
    try:
        temporary.write_bytes(data)
        return publish(temporary, folder, stem, f".{file_format}")
    finally:
        temporary.unlink(missing_ok=True)


def _encode_webp(pixels: NDArray[np.uint8], texts: dict[str, str]) -> bytes:
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    exif = picture.getexif()
    # ComfyUI's frontend reads "prompt:..." and "workflow:..." from these tags, whichever they stand in (core's ImageSaveHelper).
    for tag, (key, text) in zip(range(0x0110, 0, -1), texts.items(), strict=False):
        exif[tag] = f"{key}:{text}"
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", lossless=True, quality=0, method=2, exact=True, exif=exif)
    return buffer.getvalue()
