"""ComfyUI's output folder."""

import folder_paths


def output_folder() -> str:
    """Return the folder below which ComfyUI saves."""
    return folder_paths.get_output_directory()
