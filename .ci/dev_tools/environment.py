"""The virtual environment that ComfyUI and the tests run in, made by a pinned uv."""

import hashlib
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from dev_tools.comfyui import ComfyUI
from dev_tools.console import say
from dev_tools.errors import DevError
from dev_tools.index import DEFAULT_INDEX, index_url, require_index
from dev_tools.processes import run
from dev_tools.versions import FRONTEND_PACKAGE, Versions, find_python, full_version, write_requirements
from dev_tools.workspace import CI, Workspace, environment_python, require_space

UV_VERSION = "0.13.9"
STAMP = "fast-sprites-stamp.json"
NEEDED_GIB = 8  # measured: 6.1 GiB of packages, of which uv's cache shares the files, and room to unpack
NEWEST_PYTHON = (3, 14)  # the newest that torch 2.11.0 has wheels for
SHOWN_PACKAGES = ("torch", "torchvision", "torchaudio", "numpy", "transformers", FRONTEND_PACKAGE)


def requirement_files(comfyui: ComfyUI, with_tests: bool) -> list[Path]:
    """What goes into the environment: locked versions for the pinned ComfyUI, else what that ComfyUI asks for."""
    if comfyui.is_pinned:
        return [CI / "requirements.lock", *([CI / "test-requirements.lock"] if with_tests else [])]
    own = [comfyui.path / "requirements.txt", CI / "requirements.in"]
    return [*own, *([CI / "test-requirements.in"] if with_tests else [])]


def wanted_stamp(files: Sequence[Path], python_version: str | None = None) -> dict[str, str]:
    """What a complete environment's stamp has to hold: Python (ours if not named), platform, each requirement file's hash."""
    stamp = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    return stamp | {"python": python_version or platform.python_version(), "machine": f"{sys.platform} {platform.machine()}"}


def read_stamp(environment: Path) -> dict[str, str]:
    """What the environment was last completed with; empty if it never was."""
    try:
        return json.loads((environment / STAMP).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}


def is_ready(stamp: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """Whether an environment with this stamp holds everything wanted; it may hold more."""
    return wanted.items() <= stamp.items()


def tool_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` in which pip and uv use the same index."""
    index = index_url(environment)
    named = {} if index == DEFAULT_INDEX else {"PIP_INDEX_URL": index, "UV_DEFAULT_INDEX": index}
    return {**environment, **named, "UV_PYTHON_DOWNLOADS": "never", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def failed(what: str, folder: Path) -> DevError:
    """Why installing did not work: the network or the disk if it was those, else the tool's own words on the screen."""
    try:
        require_index(os.environ)
        require_space(folder, 1)
    except DevError as error:
        return error
    return DevError(f"{what} failed, its own message stands above: run the same command again to continue.")


def prepare_uv(workspace: Workspace) -> Path:
    """The pinned uv, installed by pip into a small environment of its own unless it is there already."""
    uv = environment_python(workspace.tools).with_name("uv.exe" if sys.platform == "win32" else "uv")
    if read_stamp(workspace.tools) == {"uv": UV_VERSION} and uv.is_file():
        return uv
    if importlib.util.find_spec("ensurepip") is None:
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        raise DevError(
            f"This Python ({sys.executable}) cannot make virtual environments: install the package that holds its ensurepip "
            f"(Debian and Ubuntu: `apt install python{version}-venv`), or run dev.py with another Python."
        )
    say(f"Installing uv {UV_VERSION} into {workspace.tools}")
    if workspace.tools.exists():
        shutil.rmtree(workspace.tools)
    if run([sys.executable, "-m", "venv", workspace.tools]) != 0:
        raise failed("python -m venv", workspace.root)
    pip = [environment_python(workspace.tools), "-m", "pip", "install", "--quiet", "--only-binary", ":all:"]
    if run([*pip, f"uv=={UV_VERSION}"], env=tool_environment(os.environ)) != 0:
        raise failed("pip install uv", workspace.root)
    write_stamp(workspace.tools, {"uv": UV_VERSION})
    return uv


def write_stamp(environment: Path, stamp: Mapping[str, str]) -> None:
    """Mark an environment as complete."""
    part = environment / (STAMP + ".part")
    part.write_text(json.dumps(stamp, indent=2), encoding="utf-8")
    part.replace(environment / STAMP)


def prepare_environment(workspace: Workspace, comfyui: ComfyUI, with_tests: bool) -> Path:
    """The Python of an environment that holds ComfyUI's requirements (and the test tools), installed where missing."""
    environment = workspace.root / ("venv" if comfyui.is_pinned else "venv-own")
    if sys.version_info[:2] > NEWEST_PYTHON and not is_complete(
        environment, wanted_stamp(requirement_files(comfyui, with_tests))
    ):
        newest = ".".join(map(str, NEWEST_PYTHON))
        raise DevError(
            f"torch 2.11.0 has no build for Python {platform.python_version()} ({sys.executable}): "
            f"run dev.py with Python 3.10 to {newest}."
        )
    return install(workspace, environment, Path(sys.executable), requirement_files(comfyui, with_tests))


def prepare_versions(workspace: Workspace, versions: Versions, with_tests: bool) -> Path:
    """The Python of an environment that holds a named combination; what was resolved is listed in the workspace's installed.txt.

    Raises DevError if there is no such Python.
    """
    own, overrides = write_requirements(versions, workspace)
    files = [workspace.comfyui / "requirements.txt", own, *([CI / "test-requirements.in"] if with_tests else [])]
    environment = workspace.root / "venv"
    python = install(workspace, environment, find_python(versions.python), files, overrides)
    listed = subprocess.run(
        [prepare_uv(workspace), "pip", "freeze", "--python", python], stdout=subprocess.PIPE, encoding="utf-8", check=True
    ).stdout
    (workspace.root / "installed.txt").write_text(listed, encoding="utf-8")
    shown = [line for line in listed.splitlines() if line.partition("==")[0] in SHOWN_PACKAGES]
    say(f"ComfyUI {versions.comfyui}, Python {full_version(python)}, {', '.join(shown)}")
    return python


def is_complete(environment: Path, wanted: Mapping[str, str]) -> bool:
    """Whether the environment stands there with everything wanted."""
    return is_ready(read_stamp(environment), wanted) and environment_python(environment).is_file()


def install(
    workspace: Workspace, environment: Path, interpreter: Path, files: Sequence[Path], overrides: Path | None = None
) -> Path:
    """The Python of `environment`, into which the requirement files were installed where that is missing.

    Whatever an interrupted run left behind has no stamp and is made anew, which uv's cache makes cheap.
    """
    python = environment_python(environment)
    hashed = [*files, *([overrides] if overrides else [])]
    version = None if interpreter == Path(sys.executable) else full_version(interpreter)
    wanted, stamp = wanted_stamp(hashed, version), read_stamp(environment)
    if is_complete(environment, wanted):
        return python
    if not stamp:
        require_space(workspace.root, NEEDED_GIB)
    uv, env = prepare_uv(workspace), tool_environment(os.environ)
    if not stamp or stamp.get("python") != wanted["python"] or stamp.get("machine") != wanted["machine"]:
        if environment.exists():
            shutil.rmtree(environment)
        say(f"Making the Python environment {environment}")
        if run([uv, "venv", "--quiet", "--no-project", "--python", interpreter, environment], env=env) != 0:
            raise failed("uv venv", workspace.root)
        stamp = {}
    (environment / STAMP).unlink(missing_ok=True)
    say("Installing the requirements (about 6 GiB the first time, from uv's cache later)")
    requirements = [argument for path in files for argument in ("--requirement", path)]
    requirements += ["--override", overrides] if overrides else []
    if run([uv, "pip", "install", "--python", python, *requirements], env=env) != 0:
        raise failed("uv pip install", workspace.root)
    write_stamp(environment, {**stamp, **wanted})
    return python
