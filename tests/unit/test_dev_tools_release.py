"""`dev.py release` and the archive for the Comfy registry: each point of the checklist refuses what it should."""

import json
import shutil
import struct
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
from dev_tools import registry, release
from dev_tools.workspace import PACK_ROOT

pytest.importorskip("tomllib", reason="Python 3.10 has no tomllib")
needs_clone = pytest.mark.skipif(
    not registry.is_clone(PACK_ROOT), reason="the archive is made of what git tracks, and git lists nothing here"
)
REPOSITORY = "https://github.com/somebody/fast-sprites"
PYPROJECT = f"""
[project]
version = "1.2.3"
license = {{ file = "LICENSE" }}
classifiers = ["Operating System :: OS Independent"]
dependencies = ["psutil"]
[project.urls]
Repository = "{REPOSITORY}"
[tool.comfy]
PublisherId = "somebody"
DisplayName = "Fast Sprites"
Icon = "{REPOSITORY}/raw/main/docs/icon.png"
Banner = "{REPOSITORY}/raw/main/docs/banner.png"
requires-comfyui = ">=0.26.0"
"""


def git(root: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.com")
    subprocess.run(["git", "-C", str(root), *identity, *arguments], check=True, capture_output=True)


def commit(root: Path) -> None:
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "test")


def png(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", width, height)


def record(**changes: Any) -> dict[str, Any]:
    whole = {"schema": "fast-sprites-bench", "pack_version": "1.2.3", "scenarios": [{}], "partial": ""}
    return {**whole, "machine": {"devices": [{"type": "cuda"}]}, **changes}


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    """A small pack that could be published, committed."""
    files = {
        "pyproject.toml": PYPROJECT,
        "CHANGELOG.md": "# Changelog\n\n## 1.2.3 - 2026-11-30\n\n- It works.\n\n## 1.2.2 - 2026-11-01\n",
        ".comfyignore": "/docs/\n/tests/\n.*\n*.pt\n",
        ".gitignore": "/.workspace/\n",
        "__init__.py": "",
        "nodes/sharpen.py": 'SCHEMA = dict(node_id="Sharpen")\n',
        "tests/comfy/node_surface.json": '{"Sharpen": {}}',
        "docs/benchmarks/sdxl.json": json.dumps(record()),
        "docs/benchmarks/sdxl.md": "# A record\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "docs" / "icon.png").write_bytes(png(400, 400))
    (tmp_path / "docs" / "banner.png").write_bytes(png(840, 360))
    if shutil.which("git") is None:
        pytest.skip("no git on the search path")
    git(tmp_path, "init", "--quiet", "--initial-branch=main")
    git(tmp_path, "remote", "add", "origin", f"{REPOSITORY}.git")
    commit(tmp_path)
    (tmp_path / ".workspace").mkdir()
    release.write_stamp(tmp_path / ".workspace", release.source_tree(tmp_path))
    return tmp_path


OWN_CHECKS = {
    name: check for name, check in release.CHECKLIST.items() if name not in ("comfy-cli", "advisories", "registry scanner")
}


def test_a_pack_that_is_ready_passes(pack: Path):
    assert [problem for check in OWN_CHECKS.values() for problem in check(pack)] == []


@pytest.mark.parametrize(
    ("name", "file", "text", "expected"),
    [
        ("version and changelog", "CHANGELOG.md", "## 1.2.3 - unreleased\n", "calls 1.2.3 'unreleased'"),
        ("version and changelog", "CHANGELOG.md", "## 1.2.2 - 2026-11-01\n", "begins with 1.2.2"),
        ("version and changelog", "CHANGELOG.md", "nothing\n", "begins with no version"),
        ("version and changelog", "pyproject.toml", PYPROJECT.replace("1.2.3", "1.2.3rc1"), "takes three numbers"),
        ("registry metadata", "pyproject.toml", PYPROJECT.replace('PublisherId = "somebody"', ""), "has no PublisherId"),
        ("registry metadata", "pyproject.toml", PYPROJECT.replace("docs/icon.png", "docs/banner.png"), "square up to 400"),
        ("registry metadata", "pyproject.toml", PYPROJECT.replace("docs/banner.png", "docs/gone.png"), "0x0 pixels"),
        ("registry metadata", "pyproject.toml", PYPROJECT.replace('{ file = "LICENSE" }', '"MIT"'), "must be a table"),
        ("registry metadata", "pyproject.toml", PYPROJECT.replace("psutil", "torch>=2.8"), "replaces the user's CUDA build"),
        ("registry metadata", "pyproject.toml", PYPROJECT + 'web = "web"\n', "load every script twice"),
        ("registry metadata", "pyproject.toml", PYPROJECT.replace("Operating System ::", "Environment ::"), "warns everybody"),
        ("repository", "pyproject.toml", PYPROJECT.replace("github.com/somebody", "github.com/another"), "and origin is"),
        ("node surface", "tests/comfy/node_surface.json", "{}", "differ in Sharpen"),
        ("archive", "nodes/weights.pt", "", "nodes/weights.pt is not packed"),
        ("archive", "nodes/weights.onnx", "", "nodes/weights.onnx is packed and must not be"),
        ("archive", "notes/todo.md", "", "notes/todo.md is packed and must not be"),
        ("archive", "nodes/large.py", "#" * registry.MAX_FILE_BYTES + "\n", "more than"),
        ("benchmark record", "docs/benchmarks/sdxl.json", json.dumps(record(pack_version="1.2.2")), "no whole record of 1.2.3"),
        ("benchmark record", "docs/benchmarks/sdxl.json", json.dumps(record(partial="stopped")), "no whole record"),
        ("benchmark record", "docs/benchmarks/sdxl.json", json.dumps(record(scenarios=[])), "no whole record"),
        ("benchmark record", "docs/benchmarks/sdxl.json", json.dumps(record(machine={"devices": [{"type": "cpu"}]})), "no whole record"),
    ],
)  # fmt: skip
def test_what_is_missing_is_named(pack: Path, name: str, file: str, text: str, expected: str):
    (pack / file).parent.mkdir(exist_ok=True)
    (pack / file).write_text(text)
    commit(pack)
    assert expected in "; ".join(release.CHECKLIST[name](pack))


def test_a_record_without_markdown_is_not_enough(pack: Path):
    (pack / "docs" / "benchmarks" / "sdxl.md").unlink()
    assert "no Markdown" in release.benchmark_problems(pack)[0]


def test_the_tests_result_counts_for_what_is_committed_alone(pack: Path):
    (pack / "nodes" / "new.py").write_text("")
    assert release.tier_problems(pack) == ["something is not committed"]
    commit(pack)
    assert "have not passed on what is committed" in release.tier_problems(pack)[0]
    release.write_stamp(pack / ".workspace", release.source_tree(pack))
    assert release.tier_problems(pack) == []


def test_a_version_is_published_once(pack: Path):
    git(pack, "tag", "v1.2.3")
    assert release.changelog_problems(pack) == []
    (pack / "nodes" / "new.py").write_text("")
    commit(pack)
    assert release.changelog_problems(pack) == ["the tag v1.2.3 is on another commit: raise the version"]


def test_the_checklist_ends_with_1_if_anything_is_missing(pack: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(release, "CHECKLIST", OWN_CHECKS)
    assert release.run_checklist(pack) == 0
    assert "1.2.3 can be published" in capsys.readouterr().out
    git(pack, "remote", "remove", "origin")
    assert release.run_checklist(pack) == 1
    assert "origin is not set" in capsys.readouterr().out


def test_untracked_files_are_not_packed(pack: Path):
    (pack / "nodes" / "secret.py").write_text("TOKEN = 1")
    (pack / "keys.env").write_text("TOKEN = 1")
    with zipfile.ZipFile(registry.write_archive(pack, pack.parent / "node.zip")) as archive:
        assert sorted(archive.namelist()) == ["CHANGELOG.md", "__init__.py", "nodes/sharpen.py", "pyproject.toml"]


@pytest.mark.parametrize(
    ("name", "text", "rule"),
    [
        ("web/a.js", "input.connect(output);", "python_network_operations"),
        ("web/a.mjs", "const f = g.bind (this);", "python_network_operations"),
        ("nodes/a.py", "# never requests.get(url)", "python_network_operations"),
        ("nodes/a.py", "subprocess.run(words)", "python_command_injection_risk"),
        ("nodes/a.py", "os.environ['HOME']", "python_environment_manipulation"),
        ("nodes/a.py", "eval(text)", "python_dynamic_execution"),
        ("nodes/a.py", "pickle.loads(data)", "python_bytecode_manipulation"),
        ("nodes/a.py", "importlib.import_module(name)", "python_bytecode_manipulation"),
        ("pyproject.toml", "https://raw.githubusercontent.com/a/b", "contains_blacklisted_url"),
    ],
)
def test_the_scanner_finds_what_the_registry_finds(name: str, text: str, rule: str):
    assert rule in registry.findings(name, text)


@pytest.mark.parametrize(
    "text", ["model.eval()", "PATTERN.exec(line)", "re.compile('x')", "subprocess.TimeoutExpired", "observer.disconnect()"]
)
def test_the_scanner_leaves_the_rest_alone(text: str):
    assert registry.findings("nodes/a.py", text) == {}


@needs_clone
def test_the_archive_holds_what_comfyui_needs_and_nothing_else():
    assert registry.archive_problems(PACK_ROOT) == []


@needs_clone
def test_every_match_of_the_scanners_rules_has_a_reason():
    assert registry.scan_problems(PACK_ROOT) == []


@needs_clone
def test_the_metadata_is_what_the_registry_wants():
    assert release.metadata_problems(PACK_ROOT) == []
    assert release.surface_problems(PACK_ROOT) == []
