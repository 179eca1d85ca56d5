"""ComfyUI's input and output folders, and the metadata of files in them."""

import json
import os
from collections.abc import Mapping
from typing import Any

from .internals import optional

cli_args = optional("comfy.cli_args")
folder_paths = optional("folder_paths")


def list_input_files(extensions: tuple[str, ...]) -> list[str]:
    """Return the names of the files directly in the input folder that end in one of `extensions`, sorted."""
    folder = folder_paths.get_input_directory()
    return sorted(
        name for name in os.listdir(folder) if name.lower().endswith(extensions) and os.path.isfile(os.path.join(folder, name))
    )


def input_file_path(name: str) -> str:
    """Return the path of an input file, or with `[output]` or `[temp]` behind the name of one there; ValueError for any other place."""
    path = os.path.realpath(folder_paths.get_annotated_filepath(name))  # ComfyUI itself refuses other places from 0.27 on only
    for folder in (folder_paths.get_input_directory(), folder_paths.get_output_directory(), folder_paths.get_temp_directory()):
        if path.startswith(os.path.join(os.path.realpath(folder), "")):
            return path
    raise ValueError(f"Invalid file path: {name!r}")


def output_path(filename_prefix: str, width: int, height: int) -> tuple[str, str, int, str]:
    """Return (folder, file name, counter, subfolder) for a new file; ComfyUI raises for a prefix that leaves its output folder."""
    folder, filename, counter, subfolder, _ = folder_paths.get_save_image_path(
        filename_prefix, folder_paths.get_output_directory(), width, height
    )
    return folder, filename, counter, subfolder


def workflow_texts(prompt: Any, extra_pnginfo: Mapping[str, Any] | None) -> dict[str, str]:
    """Return ComfyUI's text chunks for a PNG; none when it runs with --disable-metadata."""
    if cli_args.args.disable_metadata:
        return {}
    texts = {} if prompt is None else {"prompt": json.dumps(prompt)}
    return texts | {key: json.dumps(value) for key, value in (extra_pnginfo or {}).items()}
