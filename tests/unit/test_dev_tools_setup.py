"""What dev.py prepares: which ComfyUI, which environment, and the links of a base folder."""

import os
import sys
from pathlib import Path

import pytest
from dev_tools import comfyui as comfyui_module
from dev_tools import environment, workspace
from dev_tools.comfyui import ComfyUI, find_comfyui, own_python
from dev_tools.errors import DevError
from dev_tools.workspace import Workspace, link_checkpoint, link_folder, require_space

# --- which ComfyUI


def make_comfyui(path: Path, version: str = "0.36.0") -> Path:
    path.mkdir(parents=True)
    (path / "main.py").write_text("")
    (path / "requirements.txt").write_text("torch\n")
    (path / "comfyui_version.py").write_text(f'__version__ = "{version}"\n')
    return path


def test_comfyui_is_found_in_the_documented_order(tmp_path: Path):
    named, variable, around = (make_comfyui(tmp_path / name) for name in ("named", "variable", "around"))
    inside, outside = around / "custom_nodes" / "pack", tmp_path / "pack"
    environ, space = {"COMFYUI_PATH": str(variable)}, Workspace(tmp_path / "w")
    assert find_comfyui(named, environ, inside, space) == ComfyUI(named, is_pinned=False)
    assert find_comfyui(None, environ, inside, space) == ComfyUI(variable, is_pinned=False)
    assert find_comfyui(None, {}, inside, space) == ComfyUI(around, is_pinned=False)
    assert find_comfyui(None, {}, outside, space) == ComfyUI(space.comfyui, is_pinned=True)


def test_a_folder_without_comfyui_is_refused(tmp_path: Path):
    with pytest.raises(DevError, match=r"COMFYUI_PATH names .*which holds no ComfyUI"):
        find_comfyui(None, {"COMFYUI_PATH": str(tmp_path)}, tmp_path, Workspace(tmp_path))


def test_an_old_comfyui_is_refused(tmp_path: Path):
    old = make_comfyui(tmp_path / "old", "0.25.9")
    with pytest.raises(DevError, match=r"is ComfyUI 0\.25\.9, 0\.26\.0 or newer is needed"):
        find_comfyui(old, {}, tmp_path, Workspace(tmp_path))


def test_the_oldest_version_is_the_one_in_pyproject():
    text = (workspace.PACK_ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'requires-comfyui = ">={".".join(map(str, comfyui_module.OLDEST_VERSION))}"' in text


@pytest.mark.skipif(sys.platform == "win32", reason="environments are laid out differently on Windows")
def test_own_python_beside_comfyui(tmp_path: Path):
    comfyui = make_comfyui(tmp_path / "ComfyUI")
    assert own_python(comfyui) is None
    for place in (tmp_path / "python_embeded" / "python.exe", comfyui / ".venv/bin/python", comfyui / "venv/bin/python"):
        place.parent.mkdir(parents=True)
        place.write_text("")
        assert own_python(comfyui) == place


# --- the environment


def test_requirements_are_locked_for_the_pinned_comfyui_only(tmp_path: Path):
    pinned_names = [path.name for path in environment.requirement_files(ComfyUI(tmp_path, is_pinned=True), with_tests=True)]
    assert pinned_names == ["requirements.lock", "test-requirements.lock"]
    own_names = [path.name for path in environment.requirement_files(ComfyUI(tmp_path, is_pinned=False), with_tests=True)]
    assert own_names == ["requirements.txt", "requirements.in", "test-requirements.in"]


def test_the_locks_hold_every_pin():
    for name in ("requirements", "test-requirements"):
        asked = (workspace.CI / f"{name}.in").read_text(encoding="utf-8").splitlines()
        locked = (workspace.CI / f"{name}.lock").read_text(encoding="utf-8")
        for line in asked:
            if line and not line.startswith("#"):
                project, _, version = line.partition(";")[0].partition("==")
                assert f"\n{project.partition('[')[0]}=={version}" in locked, line


def test_stamps_know_what_is_there(tmp_path: Path):
    run, tests = tmp_path / "requirements.lock", tmp_path / "test-requirements.lock"
    run.write_text("torch==2.11.0\n")
    tests.write_text("pytest==9.2.0\n")
    with_tests = environment.wanted_stamp([run, tests])
    environment.write_stamp(tmp_path, with_tests)
    stamp = environment.read_stamp(tmp_path)
    assert environment.is_ready(stamp, with_tests)
    assert environment.is_ready(stamp, environment.wanted_stamp([run])), "the tests' environment also runs the demo"
    assert not environment.is_ready(environment.wanted_stamp([run]), with_tests)
    run.write_text("torch==2.12.0\n")
    assert not environment.is_ready(stamp, environment.wanted_stamp([run]))
    (tmp_path / environment.STAMP).write_text("{ cut off")
    assert environment.read_stamp(tmp_path) == {}


def test_pip_and_uv_get_the_same_index():
    env = environment.tool_environment({"PIP_INDEX_URL": "https://mirror/simple", "PATH": "x"})
    assert env["UV_DEFAULT_INDEX"] == env["PIP_INDEX_URL"] == "https://mirror/simple"
    assert env["PATH"] == "x"
    assert "UV_DEFAULT_INDEX" not in environment.tool_environment({})


def test_a_python_without_ensurepip_says_which_package_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(DevError, match=r"apt install python3\.\d+-venv"):
        environment.prepare_uv(Workspace(tmp_path))


def test_a_python_that_torch_has_no_build_for_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(environment, "NEWEST_PYTHON", (3, 9))
    with pytest.raises(DevError, match=r"run dev\.py with Python 3\.10 to 3\.9"):
        environment.prepare_environment(Workspace(tmp_path), ComfyUI(tmp_path, is_pinned=True), with_tests=False)


def test_a_full_disk_is_said_before_anything_is_fetched(tmp_path: Path):
    with pytest.raises(DevError, match=r"GiB are free on the disk of .*, 9999999 GiB are needed"):
        require_space(tmp_path / "new", 9_999_999)
    require_space(tmp_path / "new", 0)


# --- the base directory


def test_folder_links_are_made_and_moved(tmp_path: Path):
    first, second, link = tmp_path / "first", tmp_path / "second", tmp_path / "link"
    first.mkdir()
    second.mkdir()
    link_folder(first, link)
    link_folder(first, link)
    assert link.resolve() == first.resolve()
    link_folder(second, link)
    assert link.resolve() == second.resolve()
    second.rmdir()
    link_folder(first, link)  # a link that leads nowhere is replaced too
    assert link.resolve() == first.resolve()


def test_checkpoints_are_linked_not_copied(tmp_path: Path):
    checkpoint, folder = tmp_path / "sdxl.safetensors", tmp_path / "checkpoints"
    checkpoint.write_bytes(b"weights")
    folder.mkdir()
    assert link_checkpoint(checkpoint, folder) == "sdxl.safetensors"
    assert link_checkpoint(checkpoint, folder) == "sdxl.safetensors"
    assert os.path.samefile(folder / "sdxl.safetensors", checkpoint)
    assert link_checkpoint(folder / "sdxl.safetensors", folder) == "sdxl.safetensors"
    assert checkpoint.read_bytes() == b"weights"


def test_another_file_of_the_same_name_is_never_removed(tmp_path: Path):
    first, second, folder = tmp_path / "a" / "x.safetensors", tmp_path / "b" / "x.safetensors", tmp_path / "checkpoints"
    for path in (first, second, folder / "x"):
        path.parent.mkdir()
    first.write_bytes(b"first")
    second.write_bytes(b"second")
    link_checkpoint(first, folder)
    link_checkpoint(second, folder)  # our own link is moved
    assert (folder / "x.safetensors").read_bytes() == b"second"
    (folder / "x.safetensors").unlink()
    (folder / "x.safetensors").write_bytes(b"a copy that somebody made")
    with pytest.raises(DevError, match=r"holds another file named x\.safetensors"):
        link_checkpoint(first, folder)
    assert (folder / "x.safetensors").read_bytes() == b"a copy that somebody made"
