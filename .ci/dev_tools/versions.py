"""Versions that a person names: which ComfyUI, Python, torch and page, and what has to be installed for them."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dev_tools.comfyui import PINNED_VERSION, SDISTS
from dev_tools.errors import DevError
from dev_tools.workspace import CI, Workspace

NEWEST = "newest"
FRONTEND_PACKAGE = "comfyui-frontend-package"
# Up to here every torchaudio fits the torch of its own number; this last one takes any newer torch.
LAST_TORCHAUDIO = (2, 11, 0)


@dataclass(frozen=True)
class Versions:
    """What a run is to use; None is what the pinned set or that ComfyUI has."""

    comfyui: str = PINNED_VERSION
    python: str | None = None
    torch: str | None = None
    frontend: str | None = None

    @property
    def name(self) -> str:
        """The folder of this combination."""
        parts = {"comfyui": self.comfyui, "python": self.python, "torch": self.torch, "frontend": self.frontend}
        return "-".join(f"{part}-{version}" for part, version in parts.items() if version)


def is_comfyui_version(text: str) -> bool:
    """Whether --comfyui names a version; a folder of such a name can be given as ./0.30.0."""
    return re.fullmatch(r"\d+\.\d+\.\d+", text) is not None


def is_python_version(text: str) -> bool:
    """Whether --python names a version such as 3.12, not a file."""
    return re.fullmatch(r"\d+\.\d+", text) is not None


def chosen(comfyui: str | None, python: str | None, torch: str | None, frontend: str | None) -> Versions | None:
    """The versions that the arguments name, None if they name none.

    Raises DevError for a version that is not to be had, and for one beside a folder or a file into which nothing is installed.
    """
    named = [
        text for text, is_version in ((comfyui, is_comfyui_version), (python, is_python_version)) if text and is_version(text)
    ]
    if not named and torch is None and frontend is None:
        return None
    if comfyui is not None and not is_comfyui_version(comfyui):
        raise DevError(
            f"--comfyui {comfyui} is your own ComfyUI, into which no versions are installed: give one of {', '.join(SDISTS)}."
        )
    if python is not None and not is_python_version(python):
        raise DevError(
            f"--python {python} is your own Python, into which no versions are installed: give a version, such as 3.12."
        )
    if comfyui is not None and comfyui not in SDISTS:
        raise DevError(
            f"--comfyui {comfyui} is not to be had from a package index: give one of {', '.join(SDISTS)}, or a folder."
        )
    for option, version in (("--torch", torch), ("--frontend", frontend)):
        if version is not None and version != NEWEST and not re.fullmatch(r"\d+\.\d+\.\d+", version):
            raise DevError(f"{option} {version} is no version: give three numbers, such as 2.11.0, or {NEWEST}.")
    return Versions(comfyui or PINNED_VERSION, python, torch, frontend)


def _requirement(package: str, version: str) -> str:
    return package if version == NEWEST else f"{package}=={version}"


def requirement_lines(versions: Versions) -> tuple[list[str], list[str]]:
    """What to install beside ComfyUI's own requirements, and what overrides a version that these name."""
    if versions.torch is None:
        lines = (CI / "requirements.in").read_text(encoding="utf-8").splitlines()
    else:
        audio = "torchaudio"
        if versions.torch != NEWEST and tuple(map(int, versions.torch.split("."))) < LAST_TORCHAUDIO:
            audio += f"=={versions.torch}"
        lines = [_requirement("torch", versions.torch), "torchvision", audio, "nvidia-ml-py"]
    return lines, [_requirement(FRONTEND_PACKAGE, versions.frontend)] if versions.frontend else []


def write_requirements(versions: Versions, workspace: Workspace) -> list[Path]:
    """The requirement files of a combination, the overriding one last, written into its workspace."""
    workspace.root.mkdir(parents=True, exist_ok=True)
    files = [workspace.root / "requirements.in", workspace.root / "overrides.in"]
    for path, lines in zip(files, requirement_lines(versions), strict=True):
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return files


def _candidates(version: str) -> Iterator[str]:
    yield sys.executable
    if on_path := shutil.which(f"python{version}"):
        yield on_path
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    yield from map(str, sorted(pyenv.glob(f"versions/{version}.*/bin/python")))


def full_version(python: str | Path) -> str | None:
    """What a Python says its version is, None if it does not run (pyenv's stand-ins do not)."""
    asked = subprocess.run(
        [str(python), "-c", "import platform; print(platform.python_version())"],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    return asked.stdout.strip() if asked.returncode == 0 else None


def find_python(version: str | None) -> Path:
    """A Python of that version: this one, the search path's, pyenv's; raises DevError if there is none."""
    if version is None:
        return Path(sys.executable)
    for candidate in _candidates(version):
        if (full_version(candidate) or "").startswith(f"{version}."):
            return Path(candidate)
    raise DevError(f"There is no Python {version}, neither as python{version} on the search path nor in pyenv: install it.")
