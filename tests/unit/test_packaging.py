"""What `pip install .` installs."""

import subprocess
import sys
from pathlib import Path

import pytest

tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no tomllib")

ROOT = Path(__file__).resolve().parents[2]


def test_every_folder_of_the_pack_is_installed():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    folders = sorted(path.parent.relative_to(ROOT) for path in (ROOT / "nodes").rglob("__init__.py"))
    assert listed == ["fast_sprites", *(".".join(["fast_sprites", *folder.parts]) for folder in folders)]


def test_the_command_needs_no_more_than_the_dependencies():
    absent = ("numpy", "PIL", "torch", "matplotlib", "rich", "ray", "pynvml")
    code = f"import sys; sys.modules.update(dict.fromkeys({absent})); from nodes.benchmark.cli import main; main(['generate', '--help'])"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    assert "--resume" in run.stdout, run.stderr


def test_the_command_runs_from_a_clone():
    run = subprocess.run(
        [sys.executable, "-m", "nodes.benchmark", "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stderr
    assert "doctor" in run.stdout
