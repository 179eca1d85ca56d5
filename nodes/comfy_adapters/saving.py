"""ComfyUI's output folder, and outputs that nothing may read."""

import folder_paths
from comfy_execution.graph_utils import ExecutionBlocker


def output_folder() -> str:
    """Return the folder below which ComfyUI saves."""
    return folder_paths.get_output_directory()


def blocked(message: str) -> ExecutionBlocker:
    """Return an output that ends the run with `message` if another node reads it."""
    return ExecutionBlocker(message)
