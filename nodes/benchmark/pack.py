"""Where the pack that runs lies, and which version it is."""

import importlib.metadata
from pathlib import Path

PACK_ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = PACK_ROOT / "workflows" / "api"


def pack_version() -> str:
    """The version of the clone that this file lies in, else of the installed package."""
    project = PACK_ROOT / "pyproject.toml"
    if not project.is_file():
        return importlib.metadata.version("fast-sprites")
    lines = project.read_text(encoding="utf-8").splitlines()
    return next(line.split('"')[1] for line in lines if line.startswith("version"))
