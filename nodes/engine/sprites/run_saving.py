"""Save sprites in parallel, each under a name of its own and with the workflow that draws it alone."""

import io
import json
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ...comfy_adapters import folders, saving
from ..errors import BadInputError, PackError
from .file_names import publish, sprite_name
from .png import deflate, encode_png
from .prompts import SpritePrompt
from .restore import edit_prompt, edit_workflow, single_sprite_edits

FORMATS = ("png", "webp")

_WEBP_MAX_PIXELS = 16383
_THREADS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True)
class SavedSprites:
    """Where the sprites went."""

    ui_images: list[dict[str, str]]
    """One entry per file, as ComfyUI's frontend shows them."""
    report: str


@dataclass(frozen=True)
class _Job:
    image: torch.Tensor
    subfolder: str
    """Below the output folder, with `/`."""
    stem: str
    texts: dict[str, str]


def save_sprites(
    images: torch.Tensor,
    pattern: str,
    file_format: str,
    seeds: Sequence[int] | None,
    prompts: Sequence[SpritePrompt] | None,
    node_id: str,
    prompt: Mapping[str, Any] | None,
    extra_pnginfo: Mapping[str, Any] | None,
) -> SavedSprites:
    """Write [N, H, W, C] pictures (0 to 1; C: 1, 3 or 4); returns when all are on disk.

    Raises BadInputError for bad names, counts and sizes before the first file is written, and PackError with the number of finished
    files when the disk refuses one.
    """
    count, height, width, _ = images.shape
    _check(images, file_format, seeds, prompts)
    jobs: list[_Job] = []
    for i in range(count):
        seed = None if seeds is None else seeds[i]
        sprite_prompt = None if prompts is None else prompts[i]
        line = None if sprite_prompt is None else sprite_prompt.line
        subfolder, _, stem = sprite_name(pattern, i, seed, line, width, height).rpartition("/")
        texts = _texts(i, seed, sprite_prompt, node_id, prompt, extra_pnginfo)
        jobs.append(_Job(images[i], subfolder, stem, texts))
    output = Path(saving.output_folder())
    for subfolder in {job.subfolder for job in jobs}:
        _prepare(output, subfolder)
    started = time.perf_counter()
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="fast-sprites-save") as pool:
        futures = [pool.submit(_save, job, output, file_format) for job in jobs]
    errors = [error for future in futures if (error := future.exception()) is not None]
    refused = [error for error in errors if isinstance(error, OSError)]
    if refused:
        raise PackError(
            f"Only {count - len(errors)} of {count} sprites could be saved to {output / jobs[0].subfolder}: {refused[0]}; make room or change filename."
        ) from refused[0]
    seconds = time.perf_counter() - started
    ui_images = [
        {"filename": future.result().name, "subfolder": job.subfolder, "type": "output"}
        for future, job in zip(futures, jobs, strict=True)
    ]
    method = f"PNG, {deflate()[0]}" if file_format == "png" else "WebP, lossless"
    names = "\n".join(str(Path(image["subfolder"], image["filename"])) for image in ui_images)
    return SavedSprites(ui_images, f"{count} sprites saved in {seconds:.1f} s ({method})\n{names}")


def _check(images: torch.Tensor, file_format: str, seeds: Sequence[int] | None, prompts: Sequence[SpritePrompt] | None) -> None:
    count, height, width, channels = images.shape
    if file_format not in FORMATS:
        raise BadInputError(f"format is {file_format!r}; allowed are {', '.join(FORMATS)}.")
    if channels not in (1, 3, 4):
        raise BadInputError(f"The pictures have {channels} channels; 1 (grey), 3 (RGB) or 4 (RGBA) can be saved.")
    if file_format == "webp" and max(height, width) > _WEBP_MAX_PIXELS:
        raise BadInputError(f"The pictures are {width}x{height} pixels, WebP ends at {_WEBP_MAX_PIXELS}; set format to png.")
    for name, values, source in (("seeds", seeds, "BatchSpriteSampler"), ("prompts", prompts, "SpritePrompts")):
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


def _texts(
    index: int,
    seed: int | None,
    sprite_prompt: SpritePrompt | None,
    node_id: str,
    prompt: Mapping[str, Any] | None,
    extra_pnginfo: Mapping[str, Any] | None,
) -> dict[str, str]:
    edits = single_sprite_edits(prompt or {}, node_id, seed, None if sprite_prompt is None else sprite_prompt.line)
    extra = dict(extra_pnginfo or {})
    if "workflow" in extra:
        extra["workflow"] = edit_workflow(extra["workflow"], edits)
    texts = folders.workflow_texts(None if prompt is None else edit_prompt(prompt, edits), extra)
    if texts:  # empty with --disable-metadata
        own = {"index": index, "seed": seed, "prompt": None if sprite_prompt is None else sprite_prompt.text}
        texts["fast_sprites"] = json.dumps(own)
    return texts


def _save(job: _Job, output: Path, file_format: str) -> Path:
    # The same arithmetic as ComfyUI's SaveImage, so that the pixels are the same.
    pixels = np.clip(255.0 * job.image.cpu().numpy(), 0, 255).astype(np.uint8)
    data = encode_png(pixels, job.texts) if file_format == "png" else _encode_webp(pixels, job.texts)
    folder = output / job.subfolder
    temporary = folder / f".{uuid.uuid4().hex}.tmp"
    try:
        temporary.write_bytes(data)
        return publish(temporary, folder, job.stem, f".{file_format}")
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
