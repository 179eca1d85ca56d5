"""Versions named on dev.py's command line: what is taken, what is refused, what is installed."""

import os
import sys
from pathlib import Path

import pytest
from dev_tools import comfyui, environment
from dev_tools.errors import DevError
from dev_tools.versions import Versions, chosen, find_python, requirement_lines, write_requirements
from dev_tools.workspace import PACK_ROOT, Workspace


def test_without_versions_everything_is_as_ever():
    assert chosen(None, None, None, None) is None
    assert chosen("/home/me/ComfyUI", "/usr/bin/python3", None, None) is None
    assert chosen("./0.30.0", None, None, None) is None, "a folder may be called like a version"


def test_named_versions_are_a_combination_of_their_own():
    asked = chosen("0.26.0", "3.12", "2.8.0", "newest")
    assert asked == Versions("0.26.0", "3.12", "2.8.0", "newest")
    assert asked is not None
    assert asked.name == "comfyui-0.26.0-python-3.12-torch-2.8.0-frontend-newest"
    assert chosen(None, None, "newest", None) == Versions(comfyui.PINNED_VERSION, None, "newest", None)
    assert Versions(torch="newest").name == f"comfyui-{comfyui.PINNED_VERSION}-torch-newest"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("0.25.0", None, None, None), r"--comfyui 0\.25\.0 is not to be had .*0\.26\.0, 0\.27\.0, 0\.30\.0"),
        (("/home/me/ComfyUI", None, "2.8.0", None), "--comfyui /home/me/ComfyUI is your own ComfyUI"),
        (("0.26.0", "/usr/bin/python3", None, None), "--python /usr/bin/python3 is your own Python"),
        ((None, None, "2.8", None), "--torch 2.8 is no version"),
        ((None, None, None, "../../etc"), r"--frontend \.\./\.\./etc is no version"),
    ],
)
def test_what_cannot_be_installed_is_refused(arguments: tuple[str | None, ...], said: str):
    with pytest.raises(DevError, match=said):
        chosen(*arguments)


def test_every_sdist_is_pinned_and_new_enough():
    for version, (name, sha256) in comfyui.SDISTS.items():
        assert tuple(map(int, version.split("."))) >= comfyui.OLDEST_VERSION
        assert name.endswith(".tar.gz")
        assert len(bytes.fromhex(sha256)) == 32
    assert comfyui.PINNED_VERSION in comfyui.SDISTS


def test_torch_comes_with_the_torchaudio_that_fits_it():
    old, overrides = requirement_lines(Versions(torch="2.8.0"))
    assert old[:3] == ["torch==2.8.0", "torchvision", "torchaudio==2.8.0"]
    assert overrides == []
    newer, _ = requirement_lines(Versions(torch="2.15.0"))
    assert newer[:3] == ["torch==2.15.0", "torchvision", "torchaudio"]
    newest, _ = requirement_lines(Versions(torch="newest"))
    assert newest[:3] == ["torch", "torchvision", "torchaudio"]
    pinned, _ = requirement_lines(Versions(python="3.12"))
    assert "torch==2.11.0" in pinned


def test_the_page_overrides_what_comfyui_names(tmp_path: Path):
    own, overrides = write_requirements(Versions(frontend="1.58.1"), Workspace(tmp_path))
    assert overrides.read_text() == "comfyui-frontend-package==1.58.1\n"
    assert "frontend" not in own.read_text()
    assert requirement_lines(Versions(frontend="newest"))[1] == ["comfyui-frontend-package"]


def test_a_combination_shares_archives_and_uv_alone(tmp_path: Path):
    outer = Workspace(tmp_path)
    inner = outer.inner("comfyui-0.26.0")
    assert (inner.downloads, inner.tools) == (outer.downloads, outer.tools)
    assert inner.comfyui == tmp_path / "versions" / "comfyui-0.26.0" / "comfyui"
    assert inner.base != outer.base


def test_python_is_found_by_its_version():
    own = ".".join(map(str, sys.version_info[:2]))
    assert find_python(None) == find_python(own) == Path(sys.executable)
    with pytest.raises(DevError, match=r"There is no Python 3\.999"):
        find_python("3.999")


@pytest.mark.skipif(os.name == "nt", reason="the stand-ins are shell scripts")
def test_a_python_that_does_not_run_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    broken, works = tmp_path / "bin" / "python3.998", tmp_path / "pyenv" / "versions" / "3.998.1" / "bin" / "python"
    for path, script in ((broken, "exit 127"), (works, "echo 3.998.1")):
        path.parent.mkdir(parents=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", str(broken.parent), prepend=os.pathsep)
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    assert find_python("3.998") == works


def test_another_python_is_another_environment(tmp_path: Path):
    path = tmp_path / "requirements.in"
    path.write_text("torch\n")
    assert environment.wanted_stamp([path], "3.12.1")["python"] == "3.12.1"
    assert not environment.is_ready(environment.wanted_stamp([path], "3.12.1"), environment.wanted_stamp([path], "3.13.0"))


def test_every_version_that_can_be_named_is_in_the_table():
    table = (PACK_ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8")
    for version in comfyui.SDISTS:
        assert f"\n| {version} |" in table
