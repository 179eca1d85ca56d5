"""What Triton lacks, told before anything is compiled: the conditions are those of triton/runtime/build.py."""

import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from fast_sprites.nodes.engine import facts

TRITON = ("triton", "triton.language")
HEADERS = {"linux": "needs Python's C headers (Debian package python3-dev)"}
HEADERS["win32"] = "needs Python's C headers (portable ComfyUI lacks the folders include and libs)"


@pytest.fixture
def lacks(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """What Triton lacks on a platform with some programs, whose Python has its headers at `include`."""

    def ask(platform: str, programs: tuple[str, ...] = ("gcc",), scheme: str = "venv", headers_of: str = "venv") -> str:
        folder = tmp_path_factory.mktemp("python")
        (folder / headers_of).mkdir()
        (folder / headers_of / "Python.h").touch()
        monkeypatch.delenv("CC", raising=False)
        monkeypatch.setattr(sys, "platform", platform)
        for name in TRITON:
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
        monkeypatch.setattr(facts.shutil, "which", lambda name: name if name in programs else None)
        monkeypatch.setattr(sysconfig, "get_default_scheme", lambda: scheme)
        monkeypatch.setattr(sysconfig, "get_paths", lambda name=scheme: {"include": str(folder / name)})
        return facts._what_triton_lacks()

    return ask


def test_nothing_where_compiler_and_headers_are_there(lacks: Callable[..., str]):
    assert lacks("linux") == lacks("linux", ("clang",)) == ""


def test_windows_needs_the_headers_and_no_compiler(lacks: Callable[..., str]):
    assert lacks("win32", ()) == ""
    assert lacks("win32", (), headers_of="nowhere") == HEADERS["win32"]


def test_linux_needs_both(lacks: Callable[..., str]):
    assert lacks("linux", ("cc",)) == "needs a C compiler, and there is none on the PATH"  # which Triton does not look for
    assert lacks("linux", headers_of="nowhere") == HEADERS["linux"]


def test_debians_own_python_has_its_headers_in_another_scheme(lacks: Callable[..., str]):
    assert lacks("linux", scheme="posix_local", headers_of="posix_prefix") == ""


def test_triton_that_is_not_there(monkeypatch: pytest.MonkeyPatch):
    for name in TRITON:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "platform", "win32")
    assert facts._what_triton_lacks() == "is not installed (pip package triton-windows)"


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("__init__.py", "from .gone import libtriton", "No module named 'triton.gone'"),
        ("__init__.py", "raise ImportError('DLL load failed')", "DLL load failed"),
        ("cache.txt", "", "No module named 'triton.language'"),
    ],
    ids=["another Python's", "without a DLL", "uninstalled"],
)
def test_triton_that_cannot_be_imported(file: str, text: str, words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "triton").mkdir()
    (tmp_path / "triton" / file).write_text(text, encoding="utf-8")
    for name in TRITON:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    lacks = facts._what_triton_lacks()
    sys.modules.pop("triton", None)  # the folder that is left is imported
    assert lacks == f"cannot be imported ({words})"
