"""ComfyUI's output folder, and outputs that nothing may read."""

from typing import Any

from .internals import lacking, optional

folder_paths = optional("folder_paths")
graph_utils = optional("comfy_execution.graph_utils")


def output_folder() -> str:
    """Return the folder below which ComfyUI saves."""
    return folder_paths.get_output_directory()


def lacks_blocker() -> str:
    """Tell what this ComfyUI lacks for `blocked`; empty when nothing."""
    return lacking("draw while saving")


def blocked(message: str) -> Any:
    """Return an output that ends the run with `message` if another node reads it."""
    return graph_utils.ExecutionBlocker(message)
