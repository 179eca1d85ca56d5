"""The git-ignored folder that holds everything dev.py prepares, and the base directory that ComfyUI runs on."""

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from dev_tools.errors import DevError

CI = Path(__file__).resolve().parents[1]
PACK_ROOT = CI.parent
TINY_SDXL = PACK_ROOT / "tests" / "tiny_sdxl"
TINY_CHECKPOINT = "tiny_sdxl.safetensors"


@dataclass(frozen=True)
class Workspace:
    """Where each prepared thing stands; every folder appears by a rename or holds a stamp once it is complete."""

    root: Path = PACK_ROOT / ".workspace"
    shared_root: Path | None = None
    """Where archives and uv stand instead, for a workspace inside another."""

    def inner(self, name: str) -> "Workspace":
        """A workspace of its own for chosen versions, which shares archives and uv with this one."""
        return Workspace(self.root / "versions" / name, shared_root=self.shared_root or self.root)

    @property
    def downloads(self) -> Path:
        """Fetched archives."""
        return (self.shared_root or self.root) / "downloads"

    @property
    def tools(self) -> Path:
        """The small environment that holds uv."""
        return (self.shared_root or self.root) / "tools"

    @property
    def comfyui(self) -> Path:
        """The pinned ComfyUI."""
        return self.root / "comfyui"

    @property
    def base(self) -> Path:
        """ComfyUI's --base-directory: models, custom nodes, input, output, user."""
        return self.root / "base"

    @property
    def checkpoints(self) -> Path:
        """Where ComfyUI looks for checkpoints."""
        return self.base / "models" / "checkpoints"


def environment_python(environment: Path) -> Path:
    """The Python of a virtual environment."""
    return environment / "Scripts" / "python.exe" if sys.platform == "win32" else environment / "bin" / "python"


def require_space(folder: Path, gib: float) -> None:
    """Raise DevError if `folder`'s disk has less than `gib` GiB free."""
    folder.mkdir(parents=True, exist_ok=True)
    free_gib = shutil.disk_usage(folder).free / 2**30
    if free_gib < gib:
        raise DevError(
            f"{free_gib:.1f} GiB are free on the disk of {folder}, {gib:.0f} GiB are needed for ComfyUI and its requirements: "
            "free some space, or move the clone to a larger disk."
        )


def link_folder(target: Path, link: Path) -> None:
    """Make `link` lead to the folder `target`: a symbolic link, on Windows a junction, which needs no rights."""
    if os.path.lexists(link):
        if link.resolve() == target.resolve():
            return
        link.unlink()
    if sys.platform == "win32":
        import _winapi

        _winapi.CreateJunction(str(target), str(link))
    else:
        link.symlink_to(target, target_is_directory=True)


def link_checkpoint(checkpoint: Path, folder: Path) -> str:
    """Make `checkpoint` visible in `folder` without copying it; the name under which ComfyUI lists it."""
    link = folder / checkpoint.name
    if link.exists() and link.samefile(checkpoint):
        return link.name
    if link.is_symlink():
        link.unlink()
    elif link.exists():
        raise DevError(f"{folder} holds another file named {link.name}: give the checkpoint another name, or remove that file.")
    try:
        link.symlink_to(checkpoint.resolve())
    except OSError:
        try:
            os.link(checkpoint, link)
        except OSError as error:
            raise DevError(
                f"{checkpoint} could not be linked into {folder} ({error}): copy it there and give that copy as --checkpoint."
            ) from error
    return link.name


def prepare_base(workspace: Workspace) -> None:
    """Lay out the base directory with links to the pack and to the extension that knows the tiny checkpoint."""
    for name in ("models/checkpoints", "custom_nodes", "input", "output", "user"):
        (workspace.base / name).mkdir(parents=True, exist_ok=True)
    link_folder(PACK_ROOT, workspace.base / "custom_nodes" / "fast-sprites")
    link_folder(TINY_SDXL / "comfy_extension", workspace.base / "custom_nodes" / "fast-sprites-tiny-sdxl")
